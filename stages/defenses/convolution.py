"""Weighted means of neighbours along a side of an input, and what stands beyond its borders."""

from collections.abc import Sequence

import torch
from torch import Tensor


def convolved(values: Tensor, dimension: int, weights: Sequence[float]) -> Tensor:
    """Each value's neighbours along a dimension, itself in the middle, summed up with an odd number of weights.

    Beyond a border the values are reflected about its edge (d c b a | a b c d). Weights are applied one after the
    other, so that a result depends on no other input of the batch.
    """
    size, radius = values.shape[dimension], len(weights) // 2
    padded = values.index_select(dimension, reflected(size, radius, radius, values.device))
    return sum(weight * padded.narrow(dimension, place, size) for place, weight in enumerate(weights))


def reflected(size: int, before: int, after: int, device: torch.device) -> Tensor:
    """Which of `size` positions stand at -before, ..., size - 1 + after; neither is more than `size`."""
    positions = torch.arange(-before, size + after, device=device)
    positions = torch.where(positions < 0, -1 - positions, positions)
    return torch.where(positions >= size, 2 * size - 1 - positions, positions)
