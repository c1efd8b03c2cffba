"""Random numbers of a sample that depend on its place in the batch alone, not on the samples beside it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK = 16  # PyTorch draws normal numbers so many at a time, the last of a tensor in another way if it is no multiple


def split(generator: torch.Generator) -> torch.Generator:
    """A generator of its own, so that however much is drawn from it changes no draw after it."""
    return torch.Generator().manual_seed(torch.randint(2**62, (), generator=generator).item())


def gaussian(
    count: int, shape: Sequence[int], generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Normal draws [count, *shape], on the CPU; those of the first samples are the same with more behind them."""
    values = math.prod(shape)
    draw = torch.randn((count, math.ceil(values / BLOCK) * BLOCK), generator=generator, dtype=dtype)
    return draw[:, :values].reshape(count, *shape)
