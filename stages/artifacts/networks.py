"""Networks in any number format, from their files."""

from functools import partial
from pathlib import Path

from torch import nn

from stages.artifacts.network_files import load_description, load_tensors, model_of
from stages.models.layers import FloatLayers
from stages.quantization.channel_groups import Group, hidden_groups, with_channels
from stages.quantization.formats import Format
from stages.quantization.frozen_layers import FrozenLayers, check_exact
from stages.quantization.layer_formats import build_in_format


def build(description: dict, quantized=FrozenLayers) -> nn.Module:
    """An untrained network of the described model: float, or in the described format from a layer set `quantized`.

    `channels` in the description, where it is there, says how many the model's hidden layers have instead of its own,
    by the names of its groups of channels.
    """
    model, shape = model_of(description), description["input_shape"]
    if "channels" in description:
        model = with_channels(model, shape, description["channels"])
    if description["format"] is None:
        return model(FloatLayers(description["mean"], description["std"]))
    layers_in = partial(quantized, description["mean"], description["std"])
    return build_in_format(model, layers_in, Format(**description["format"]))


def groups_of(description: dict) -> tuple[Group, ...]:
    """The groups of channels of the described model, with its own numbers of them."""
    return hidden_groups(model_of(description), description["input_shape"])


def load_network(path: Path) -> tuple[nn.Module, dict]:
    """The network of a `.safetensors` file, in evaluation mode, and its description.

    Raises ValueError if tensors and description do not fit, or if sums of its integer layers would not be exact.
    """
    description = load_description(path)
    network = build(description)
    load_tensors(path, network, description)
    if description["format"] is not None:
        check_exact(network, description["input_shape"])
    return network.eval(), description
