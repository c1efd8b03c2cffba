"""A format for each layer: layers have names once the model is put together, and get their formats by these."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from torch import nn

from stages.quantization.formats import NAMED_WIDTHS, Format, Width
from stages.quantization.placeholders import Model, put_together

# What a layer of each kind can be as wide as; layers of other kinds round nothing.
WEIGHTS = (1, 2, 3, 4, 5, 6, 7, 8, *NAMED_WIDTHS)
WIDTHS: Mapping[str, tuple[Width, ...]] = {
    "input": (8, 16),
    "convolution": WEIGHTS,
    "linear": WEIGHTS,
    "activation": tuple(range(1, 17)),
    "sum": tuple(range(2, 17)),
    "average_pool": tuple(range(2, 17)),
}


def build_in_format(model: Model, layers_in: Callable[[Format], Any], format: Format) -> nn.Module:
    """The network that a model makes of the layer sets of a format, each layer in the format that its name has.

    model: makes a network of a layer set. layers_in: the layer set of a format, such as `FrozenLayers`.
    Raises ValueError where the format names a layer that the model lacks, or a width that a layer cannot have.
    """
    network, asked = put_together(model)
    _check(format, {name: layer.kind for name, layer in asked.items() if layer.kind in WIDTHS})
    activations = [format.at(name) for name, layer in asked.items() if layer.kind == "activation"]
    for name, layer in asked.items():
        own = format.at(name)
        if layer.kind == "average_pool" and any(other.binary_activations for other in activations):
            own = replace(own, activation_bits=1)  # which may be what it averages: then its means have a sign
        network.set_submodule(name, layer.made_of(layers_in(own)))
    return network


def _check(format: Format, kinds: Mapping[str, str]) -> None:
    for name, width in (format.layers or {}).items():
        if name not in kinds:
            close = get_close_matches(name, kinds, n=1, cutoff=0.5)
            hint = f", did you mean '{close[0]}'?" if close else f", expected one of: {', '.join(kinds)}"
            raise ValueError(f"layers.{name}: the model has no such layer with a width{hint}")
        possible = WIDTHS[kinds[name]]
        if width not in possible:
            expected = ", ".join(str(one) for one in possible)
            raise ValueError(f"layers.{name}: {width!r} is no width of this {kinds[name]}, expected one of: {expected}")
