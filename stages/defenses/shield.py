"""Filters, dropout and a vote around a network that was trained without them: Qendro et al., "Stochastic-Shield: a
probabilistic approach towards training-free adversarial defense in quantized CNNs", 2021,
https://arxiv.org/abs/2105.06512. Public is its abstract: what it leaves open are settings here.
"""

from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stages.defenses.input_filter import InputFilter, in_sequence
from stages.defenses.shielded import Shielded
from stages.knobs import Count, Fraction
from stages.models.footprint import Footprint

UNCERTAINTY = True  # scores hold what the passes say of their prediction

FILTERS: list = []
LAYERS = ["last_hidden"]


class Shield(InputFilter):
    """Filters one after the other, and how the network behind them is asked: what `Shielded` reads."""

    composed = Shielded

    def __init__(
        self,
        filters: list[InputFilter],
        layers: list[str],
        rate: float,
        passes: int,
        vote: str,
        uncertainty: str | None,
    ) -> None:
        super().__init__()
        self.filters = nn.ModuleList(filters)
        self.layers, self.rate, self.passes, self.vote, self.uncertainty = layers, rate, passes, vote, uncertainty
        self.stochastic = any(filter.stochastic for filter in filters)

    def forward(self, inputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Where one of the filters is random, it takes the generator."""
        for filter in self.filters:
            inputs = filter(inputs, generator) if filter.stochastic else filter(inputs)
        return inputs

    def backward_view(self, inputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        for filter in self.filters:
            view = filter.backward_view
            inputs = view(inputs, generator) if filter.stochastic else view(inputs)
        return inputs

    def footprint(self, input_shape: tuple[int, int, int]) -> Footprint:
        total = super().footprint(input_shape)
        for filter in self.filters:
            total = in_sequence(total, filter.footprint(input_shape))
        return total

    def operations(self, input_shape: tuple[int, int, int]) -> int | None:
        counts = [filter.operations(input_shape) for filter in self.filters]
        return None if None in counts else sum(counts)


def filter(
    input_shape: tuple[int, int, int],
    *,
    filters: list = FILTERS,
    layers: list = LAYERS,
    rate: Fraction = 0.1,
    passes: Count = 10,
    vote: Literal["mean", "majority"] = "mean",
    uncertainty: Literal["entropy", "mutual_information", "none"] = "entropy",
) -> Shield:
    """The shield for inputs of a shape (C, H, W).

    filters: in their order, each a defense's name or, with settings, `{name: {setting: value}}`; none that is fitted.
    layers: after which activations are dropped: names of the network's modules, `last_hidden` (what the last layer
    reads) or `activations` (each activation of the trunk). rate: of activations that are dropped; 0 drops none.
    passes: how many make a prediction. vote: of mean probabilities, or of predicted classes.
    uncertainty: by which inputs are rejected, 5 % of clean validation images; none: nothing is rejected.
    Raises ValueError if the rate is 1.
    """
    if rate == 1:
        raise ValueError("shield: rate is 1, expected a share below 1 of the activations")
    made = [
        import_module(f"stages.defenses.{name}").filter(input_shape, **settings)
        for name, settings in map(named_filter, filters)
    ]
    return Shield(made, list(layers), rate, passes, vote, None if uncertainty == "none" else uncertainty)


def named_filter(entry: Any) -> tuple[str, dict[str, Any]]:
    """The name and the settings that an entry of `filters` stands for."""
    if isinstance(entry, str):
        return entry, {}
    ((name, settings),) = entry.items()
    return name, settings or {}
