"""A network behind an input filter, as one classifier, and what the filter reports of its inputs."""

import math

import torch
from torch import Tensor, nn

from stages.classifier import Classifier, evaluating
from stages.defenses.input_filter import InputFilter, in_sequence
from stages.models.footprint import Footprint


class Filtered(Classifier):
    """A filter, then a network; attackers differentiate it with the filter's backward view (BPDA)."""

    def __init__(self, network: nn.Module, filter: InputFilter, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__(network, input_shape, num_classes)
        self.filter = filter
        self.stochastic = filter.stochastic

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(self.filter(inputs))

    def features(self, inputs: Tensor) -> Tensor:
        return self.network.features(self.filter(inputs))

    def gradient_view(self, generator: torch.Generator | None = None, samples: int = 1) -> nn.Module:
        return _BackwardView(self.network, self.filter)

    def footprint(self, of_network: Footprint) -> Footprint:
        """What a prediction costs, given the network's own footprint."""
        return in_sequence(self.filter.footprint(self.input_shape), of_network)

    def operations(self) -> int | None:
        """Steps of arithmetic beside the network's in a prediction, as far as the filter counts them."""
        return self.filter.operations(self.input_shape)

    @property
    def detects(self) -> bool:
        """Whether it reports inputs as adversarial."""
        return self.filter.suspicion is not None

    def suspicion(self, inputs: Tensor) -> Tensor | None:
        """The filter's suspicion [N] of inputs [N, C, H, W], or None where it detects nothing."""
        if not self.detects:
            return None
        with torch.no_grad():
            return self.filter.suspicion(self.network, inputs)

    def detected(self, inputs: Tensor) -> Tensor | None:
        """Which of the inputs [N, C, H, W] are reported as adversarial, bool [N]; None where the filter detects none.

        A defended classifier refuses to answer for these, whatever its prediction.
        """
        suspicion = self.suspicion(inputs)
        return None if suspicion is None else suspicion > self.filter.threshold


class _BackwardView(nn.Module):
    def __init__(self, network: nn.Module, filter: InputFilter) -> None:
        super().__init__()
        self.network, self.filter = network, filter

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(self.filter.backward_view(inputs))


def set_threshold(
    filtered: Filtered, validation_inputs: Tensor, false_positives: float = 0.05, batch_size: int = 500
) -> None:
    """Set the filter's threshold so that it reports at most this share of clean inputs, and as near to it as it can.

    validation_inputs: [N, C, H, W] in [0, 1], of the validation split. false_positives: in [0, 1).
    Raises ValueError if the share is impossible, or if a suspicion is not finite. Does nothing to a filter that detects
    nothing.
    """
    if not 0 <= false_positives < 1:
        raise ValueError(f"set_threshold: false_positives is {false_positives}, expected a share in [0, 1)")
    if not filtered.detects:
        return
    with evaluating(filtered):
        suspicion = torch.cat([filtered.suspicion(batch) for batch in validation_inputs.split(batch_size)])
    if not suspicion.isfinite().all():
        raise ValueError("set_threshold: the suspicion of a validation input is not finite, expected a number")
    # 1e-9: 0.05 * 20 reported inputs are one, whatever the product's last bit says
    reported = math.floor(false_positives * len(suspicion) + 1e-9)
    filtered.filter.threshold.copy_(suspicion.sort(descending=True).values[reported])
