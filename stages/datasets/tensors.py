"""8-bit images as the inputs of networks."""

import torch
from torch import Tensor

LEVELS = 255


def as_input(levels: Tensor) -> Tensor:
    """uint8 levels `[N,C,H,W]` -> float32 in [0,1], in the memory layout in which convolutions are fastest."""
    return (levels.float() / LEVELS).contiguous(memory_format=torch.channels_last)
