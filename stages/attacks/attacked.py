"""The classifier as an attacker meets it."""

import torch
from torch import Tensor, nn

from stages.attacks.grid import nearest_levels
from stages.classifier import Classifier
from stages.datasets.levels import levels_of


class OnGrid(nn.Module):
    """A network behind the rounding of its inputs to the grid, with straight-through gradients (BPDA)."""

    def __init__(self, network: nn.Module, levels: int) -> None:
        super().__init__()
        self.network, self.levels = network, levels

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(nearest_levels(inputs, self.levels) / self.levels)


class Attacked(Classifier):
    """A classifier whose inputs pass the threat model's grid, and whose gradients average several draws.

    digital: inputs are rounded first, to multiples of 1/255 (sound: of 1/65535), so that an attack sees what becomes of
    what it tries.
    eot_samples: draws that a gradient of a random classifier averages (expectation over transformation, Athalye et al.,
    2018, arXiv:1802.00420).
    """

    def __init__(self, classifier: Classifier, *, digital: bool, eot_samples: int) -> None:
        super().__init__(classifier.network, classifier.input_shape, classifier.num_classes)
        self.classifier, self.digital, self.eot_samples = classifier, digital, eot_samples
        self.stochastic = classifier.stochastic
        self.levels = levels_of(classifier.input_shape)

    def reseed(self, seed: int) -> None:
        """Of a random classifier: what it draws from here on depends on the seed."""
        self.classifier.reseed(seed)

    def forward(self, inputs: Tensor) -> Tensor:
        return self._on_grid(self.classifier)(inputs)

    def features(self, inputs: Tensor) -> Tensor:
        return self.classifier.features(nearest_levels(inputs, self.levels) / self.levels if self.digital else inputs)

    def gradient_view(self, generator: torch.Generator | None = None, samples: int | None = None) -> nn.Module:
        return self._on_grid(self.classifier.gradient_view(generator, samples or self.eot_samples))

    def _on_grid(self, module: nn.Module) -> nn.Module:
        return OnGrid(module, self.levels) if self.digital else module
