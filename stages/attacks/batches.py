"""One value a sample beside batches [N, ...] of any shape."""

import torch
from torch import Tensor


def per_sample(values: Tensor, batch: Tensor) -> Tensor:
    """One value a sample, [N], in a shape that broadcasts with a batch [N, ...]."""
    return values.reshape(-1, *[1] * (batch.ndim - 1))


def where(samples: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """`one` [N, ...] for the samples, bool [N], and `other` [N, ...] for the rest."""
    return torch.where(per_sample(samples, one), one, other)
