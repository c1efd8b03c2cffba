"""Sizes of perturbations, and the ball that bounds them.

Differences of float32 inputs are taken in float64: in float32 a perturbation of exactly epsilon can measure more.
"""

import torch
from torch import Tensor


def l0(adversarial: Tensor, originals: Tensor) -> Tensor:
    """Number of changed input values, int64 [N], between inputs [N, ...]."""
    return (adversarial != originals).flatten(1).sum(1)


def l2(adversarial: Tensor, originals: Tensor) -> Tensor:
    """Euclidean length of the perturbation, float64 [N] in input units, between inputs [N, ...]."""
    return torch.linalg.vector_norm(_perturbation(adversarial, originals), dim=1)


def linf(adversarial: Tensor, originals: Tensor) -> Tensor:
    """Largest change of an input value, float64 [N] in input units, between inputs [N, ...]."""
    return _perturbation(adversarial, originals).abs().amax(1)


def project_linf(adversarial: Tensor, originals: Tensor, epsilon: Tensor) -> Tensor:
    """The float32 inputs [N, ...] nearest to `adversarial` in the epsilon-ball around `originals` and in [0, 1].

    epsilon: float64 [N], in input units. No value ends outside its ball, not even by a rounding.
    """
    center = originals.double()
    radius = epsilon.reshape(-1, *[1] * (originals.ndim - 1))
    projected = adversarial.double().clamp(center - radius, center + radius).clamp(0, 1).float()
    outside = (projected.double() - center).abs() > radius
    return torch.where(outside, torch.nextafter(projected, originals), projected)


def _perturbation(adversarial: Tensor, originals: Tensor) -> Tensor:
    return (adversarial.double() - originals.double()).flatten(1)
