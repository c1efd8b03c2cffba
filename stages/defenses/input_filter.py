"""Filters in front of a network, which take out of an input what an attacker may have put there.

Their rounding, ranking or search has no useful gradient. Attackers go around that by BPDA (backward pass differentiable
approximation, Athalye, Carlini and Wagner, "Obfuscated gradients give a false sense of security", ICML 2018,
https://arxiv.org/abs/1802.00420): the filter itself forward, and backward a smooth function near it, for filters that
return nearly what they were given the identity.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from stages.models.footprint import Footprint


class _Surrogate(torch.autograd.Function):
    """The values of one tensor with the gradient of another."""

    @staticmethod
    def forward(context, smooth: Tensor, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def with_gradient_of(smooth: Tensor, values: Tensor) -> Tensor:
    """The values, bit for bit, whose gradient goes to `smooth` of the same shape."""
    return _Surrogate.apply(smooth, values)


class InputFilter(nn.Module):
    """A filter from inputs to inputs.

    All that it learns is in its state. A filter that detects has a method `suspicion(logits_of, inputs)`, of a function
    from inputs to logits and inputs [N, C, H, W]: scores [N], higher the more likely an input is adversarial.
    threshold: the highest suspicion [] that is not reported; infinity until it is set.
    """

    stochastic = False  # two passes over the same inputs give the same

    # What it and a network are together, where that is not `Filtered`: from a network, the filter, an input shape
    # (C, H, W) and the number of classes to a classifier.
    composed: Callable[..., nn.Module] | None = None

    suspicion: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(torch.inf))

    def forward(self, inputs: Tensor) -> Tensor:
        """Filtered inputs in [0, 1] of inputs [N, C, H, W] in [0, 1]."""
        raise NotImplementedError

    def backward_view(self, inputs: Tensor) -> Tensor:
        """The same values, bit for bit, with the gradient that attackers use: the identity's."""
        with torch.no_grad():
            values = self(inputs)
        return with_gradient_of(inputs, values)

    def footprint(self, input_shape: tuple[int, int, int]) -> Footprint:
        """What filtering one image (C, H, W) costs beside the network, a report of it left out: here nothing.

        Of activations the bytes that live while it is filtered, the image among them.
        """
        return Footprint(parameters=0, macs=0, weight_bytes=0, peak_activation_bytes=0)

    def operations(self, input_shape: tuple[int, int, int]) -> int | None:
        """How many steps of arithmetic filtering one image (C, H, W) takes on a microcontroller, or None: not counted.

        A multiply-accumulate, an addition, a comparison, a division, a root, a rounding, a look-up and a draw of a
        random number each count as one.
        """
        return None


class RandomFilter(InputFilter):
    """A filter that draws. Each input of a batch has draws of its own. Its class has `composed = Shielded`."""

    stochastic = True

    def forward(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Filtered inputs in [0, 1] of inputs [N, C, H, W] in [0, 1], with draws from a generator on the CPU."""
        raise NotImplementedError

    def backward_view(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """The same values as from the same generator, bit for bit, with the gradient that attackers use."""
        with torch.no_grad():
            values = self(inputs, generator)
        return with_gradient_of(inputs, values)


def in_sequence(first: Footprint, then: Footprint) -> Footprint:
    """The footprint of two parts of which the second runs when the first has left nothing but the image in memory."""
    return Footprint(
        parameters=first.parameters + then.parameters,
        macs=first.macs + then.macs,
        weight_bytes=first.weight_bytes + then.weight_bytes,
        peak_activation_bytes=max(first.peak_activation_bytes, then.peak_activation_bytes),
    )
