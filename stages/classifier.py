"""What is attacked and scored: a network behind one contract, whatever it is composed of."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """A network from inputs in [0, 1] to logits.

    network: has `features(inputs)`, the input of its last layer, and normalises its inputs itself.
    input_shape: of one sample, such as (3, 32, 32).
    num_classes: the number of logits.
    """

    stochastic = False  # two forward passes over the same inputs give the same logits

    def __init__(self, network: nn.Module, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.network = network
        self.input_shape = tuple(input_shape)
        self.num_classes = num_classes

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits [N, num_classes] of inputs [N, *input_shape] in [0, 1]."""
        return self.network(inputs)

    def features(self, inputs: Tensor) -> Tensor:
        """The last hidden layer [N, ...]: what the network's last layer reads."""
        return self.network.features(inputs)

    def gradient_view(self, generator: torch.Generator | None = None, samples: int = 1) -> nn.Module:
        """The module that attackers differentiate: the same forward, with gradients wherever this classifier has none.

        A deterministic network is its own gradient view, since its rounding passes gradients straight through (Bengio
        et al., 2013, arXiv:1308.3432). A random classifier averages `samples` draws from `generator` (expectation over
        transformation, Athalye et al., 2018, arXiv:1802.00420); here all draws are the same.
        """
        return self.network


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; outside, every submodule is in the mode that it was in."""
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for submodule, training in modes:
            submodule.training = training
