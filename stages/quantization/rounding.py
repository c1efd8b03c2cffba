"""Roundings whose gradient passes straight through (Bengio et al. 2013, arXiv 1308.3432)."""

import torch
from torch import Tensor


class _RoundStraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(context, inputs: Tensor) -> Tensor:
        return torch.round(inputs)

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        return gradient


class _SignStraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(context, inputs: Tensor) -> Tensor:
        return torch.copysign(torch.ones_like(inputs), inputs + 0.0)  # + 0.0 makes -0.0 positive

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        return gradient


def round_straight_through(inputs: Tensor) -> Tensor:
    """Nearest integer, halves to even; the gradient is the identity's."""
    return _RoundStraightThrough.apply(inputs)


def sign_straight_through(inputs: Tensor) -> Tensor:
    """-1 or +1, and +1 at zero; the gradient is that of clipping to [-1, 1] (Hubara et al. 2016, arXiv 1602.02830)."""
    return _SignStraightThrough.apply(inputs.clamp(-1.0, 1.0))


def quantize(inputs: Tensor, scale: Tensor | float, lowest: int, highest: int) -> Tensor:
    """Integer codes `clamp(round(inputs / scale))` held in float; the gradient is zero where the clamp cuts."""
    return round_straight_through(inputs / scale).clamp(lowest, highest)
