"""Sizes of perturbations, and the ball that bounds them.

Differences of float32 inputs are taken in float64: in float32 a perturbation of exactly epsilon can measure more.
"""

import torch
from torch import Tensor

from stages.attacks.batches import per_sample

TINY = 1e-12  # what a length of 0 counts as in a division


def l0(adversarial: Tensor, originals: Tensor) -> Tensor:
    """Number of changed input values, int64 [N], between inputs [N, ...]."""
    return (adversarial != originals).flatten(1).sum(1)


def l1(adversarial: Tensor, originals: Tensor) -> Tensor:
    """Sum of the changes of all input values, float64 [N] in input units, between inputs [N, ...]."""
    return _perturbation(adversarial, originals).abs().sum(1)


def l2(adversarial: Tensor, originals: Tensor) -> Tensor:
    """Euclidean length of the perturbation, float64 [N] in input units, between inputs [N, ...]."""
    return torch.linalg.vector_norm(_perturbation(adversarial, originals), dim=1)


def linf(adversarial: Tensor, originals: Tensor) -> Tensor:
    """Largest change of an input value, float64 [N] in input units, between inputs [N, ...]."""
    return _perturbation(adversarial, originals).abs().amax(1)


DISTANCES = {"l0": l0, "l1": l1, "l2": l2, "linf": linf}  # by the name of the norm


def length(change: Tensor, order: float = 2) -> Tensor:
    """The norms of that order, [N], of changes [N, ...], in their number format."""
    return torch.linalg.vector_norm(change.flatten(1), order, dim=1)


def unit(change: Tensor) -> Tensor:
    """Changes [N, ...] scaled to an L2 norm of 1, or 0 as it was."""
    return change / per_sample(length(change).clamp_min(TINY), change)


def project_linf(adversarial: Tensor, originals: Tensor, epsilon: Tensor) -> Tensor:
    """The float32 inputs [N, ...] nearest to `adversarial` in the epsilon-ball around `originals` and in [0, 1].

    epsilon: float64 [N], in input units. No value ends outside its ball, not even by a rounding.
    """
    center = originals.double()
    radius = per_sample(epsilon, originals)
    projected = adversarial.double().clamp(center - radius, center + radius).clamp(0, 1).float()
    outside = (projected.double() - center).abs() > radius
    return torch.where(outside, torch.nextafter(projected, originals), projected)


def project_l2(adversarial: Tensor, originals: Tensor, epsilon: Tensor) -> Tensor:
    """Float32 inputs [N, ...] in the L2 ball of radius epsilon around `originals` and in [0, 1].

    The perturbation is clipped to [0, 1] and then shortened where it is longer than epsilon: not always the nearest
    such input, but as the originals lie in [0, 1], one with the clipped direction.
    epsilon: float64 [N], in input units. No input ends outside its ball, not even by a rounding.
    """
    center = originals.double()
    radius = per_sample(epsilon, originals)
    change = adversarial.double().clamp(0, 1) - center
    # Rounding to float32 moves each value by at most 2^-25, and the length by that times the root of their number.
    reach = (radius - 2**-25 * originals[0].numel() ** 0.5).clamp_min(0) if len(originals) else radius
    return (center + change * (reach / per_sample(length(change), change).clamp_min(1e-30)).clamp(max=1)).float()


def _perturbation(adversarial: Tensor, originals: Tensor) -> Tensor:
    return (adversarial.double() - originals.double()).flatten(1)
