"""Which layers of a model have the same channels, and the model with other numbers of them.

The channels of a layer's outputs are those that batch norm, activations and depthwise convolutions after it have, and
both summands of a residual sum share theirs. That is found, not declared: what stands for values passes through the
model in the place of a tensor, from placeholder to placeholder (`placeholders.py`), and remembers whose channels it
has. So no model says anything about it, and none has to be edited to become wider.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
from torch import nn

from stages.models.layers import FloatLayers
from stages.quantization.placeholders import Model, Placeholder, put_together

INPUT = "input"  # the kind of layer whose channels are those of images
ELEMENTWISE = ("batch_norm", "activation", "average_pool", "max_pool", "dropout")  # each channel by itself

# The arguments that say how many inputs and outputs a layer with weights has.
SIZES = {"convolution": ("channels_in", "channels_out"), "linear": ("features_in", "features_out")}


@dataclass(frozen=True)
class Group:
    """Channels that several layers share, called by the first convolution or linear layer that makes them.

    layers: the layers with as many outputs, batch norm and depthwise convolutions among them, in the model's order.
    readers: by name the layers with weights that take them, and how many consecutive inputs a channel is there: 1, but
        behind a flattening its number of positions.
    """

    name: str
    channels: int
    layers: tuple[str, ...]
    readers: Mapping[str, int]


def hidden_groups(model: Model, input_shape: Sequence[int]) -> tuple[Group, ...]:
    """The groups of channels of a model, in its order, but for those of its inputs and its outputs, which are given.

    Raises ValueError, naming the layer, where the model does something to values that channels cannot be followed
    through.
    """
    return _Trace(*put_together(model), input_shape).hidden


def scaled(groups: Iterable[Group], factor: float) -> dict[str, int]:
    """So many times the channels of each group, rounded, at least one."""
    return {group.name: max(1, round(factor * group.channels)) for group in groups}


def with_channels(model: Model, input_shape: Sequence[int], channels: Mapping[str, int]) -> Model:
    """The model with these numbers of channels, by the names of groups, and its own where a group is not named.

    Raises ValueError, when a network is made, where no group has the name or a number is below 1.
    """

    def changed(layers: Any) -> nn.Module:
        network, placed = put_together(model)
        trace = _Trace(network, placed, input_shape)
        _check(channels, trace.hidden)
        for name, layer in placed.items():
            layer.arguments, layer.keywords = (), _arguments(layer) | trace.changed(name, channels)
            network.set_submodule(name, layer.made_of(layers))
        return network

    return changed


@dataclass(frozen=True)
class _Values:
    """Stands for values between layers: the group of their channels, and whether these have been flattened."""

    group: str
    flattened: bool = False


class _Trace:
    """What a model does to channels, found in one pass."""

    def __init__(self, network: nn.Module, placed: Mapping[str, Placeholder], input_shape: Sequence[int]):
        self._placed = placed
        self._same: dict[str, str] = {}  # from a group to an earlier one that turned out to be the same
        self._channels: dict[str, int] = {}  # by group
        self._made: dict[str, str] = {}  # from a layer to the group of its outputs
        self._read: dict[str, tuple[str, int]] = {}  # from a layer with weights to its inputs' group and repeats
        self._layer = INPUT  # that came last
        for name, layer in placed.items():
            layer.forward = partial(self._pass, name, layer)
        try:
            outputs = network(torch.zeros(1, *input_shape))
            last = self._root(self._one([outputs]).group)
        except (AttributeError, TypeError, IndexError) as error:
            raise ValueError(
                f"layer {self._layer}: what the model does with its outputs is no layer's, so that their channels "
                f"cannot be followed: {error}"
            ) from error
        finally:
            for layer in placed.values():
                del layer.forward
        inputs = {self._root(name) for name, layer in placed.items() if layer.kind == INPUT}
        self.hidden = tuple(group for group in self._groups() if group.name not in {last, *inputs})

    def changed(self, name: str, channels: Mapping[str, int]) -> dict[str, int]:
        """The arguments of a layer that other numbers of channels change."""

        def number(group: str) -> int:
            root = self._root(group)
            return channels.get(root, self._channels[root])

        kind = self._placed[name].kind
        if kind == "batch_norm":
            return {"channels": number(self._made[name])}
        if kind not in ("convolution", "linear"):
            return {}
        group, repeats = self._read[name]
        read, made = repeats * number(group), number(self._made[name])
        if kind == "linear":
            return {"features_in": read, "features_out": made}
        depthwise = {"groups": read} if _is_depthwise(self._placed[name]) else {}
        return {"channels_in": read, "channels_out": made} | depthwise

    def _pass(self, name: str, layer: Placeholder, *inputs: Any) -> _Values:
        if name in self._made and layer.kind in (*SIZES, "batch_norm"):
            raise ValueError(f"layer {name}: is passed twice, expected once, as its channels are then of two places")
        self._layer = name
        if layer.kind == INPUT:
            values = self._new(name, inputs[0].shape[1])
        elif layer.kind == "sum":
            values = self._summed(name, *inputs)
        elif layer.kind == "flatten":
            values = replace(self._one(inputs), flattened=True)
        elif layer.kind in ELEMENTWISE:
            values = self._one(inputs)
        else:
            values = self._weighted(name, layer, self._one(inputs))
        self._made[name] = values.group
        return values

    def _weighted(self, name: str, layer: Placeholder, inputs: _Values) -> _Values:
        given = _arguments(layer)
        read, made = (given[key] for key in SIZES[layer.kind])
        repeats, beyond = divmod(read, self._channels[inputs.group])
        if beyond or not repeats or (repeats > 1 and not inputs.flattened):
            raise ValueError(f"layer {name}: takes {read} channels, expected {self._channels[inputs.group]}")
        self._read[name] = inputs.group, repeats
        if _is_depthwise(layer):
            return inputs
        if given.get("groups", 1) != 1:
            expected = f"expected 1 or {read}, and {read} outputs"
            raise ValueError(f"layer {name}: {given['groups']} groups give {made} outputs of {read} inputs, {expected}")
        return self._new(name, made)

    def _summed(self, name: str, branch: _Values, shortcut: _Values) -> _Values:
        counts = [self._channels[self._one([values]).group] for values in (branch, shortcut)]
        if counts[0] != counts[1]:
            raise ValueError(f"layer {name}: adds {counts[0]} channels to {counts[1]}, expected as many")
        first, other = sorted((self._root(branch.group), self._root(shortcut.group)), key=list(self._channels).index)
        if other != first:
            self._same[other] = first
        return replace(branch, group=first)

    def _new(self, name: str, channels: int) -> _Values:
        self._channels[name] = channels
        return _Values(name)

    def _one(self, inputs: Sequence[Any]) -> _Values:
        (values,) = inputs
        if not isinstance(values, _Values):
            raise TypeError(f"it is {type(values).__name__} after that")
        return values

    def _root(self, group: str) -> str:
        while group in self._same:
            group = self._same[group]
        return group

    def _groups(self) -> Iterator[Group]:
        for name, channels in self._channels.items():
            if self._root(name) == name:
                layers = (layer for layer, group in self._made.items() if self._root(group) == name)
                counted = tuple(layer for layer in layers if self._placed[layer].kind in (*SIZES, "batch_norm"))
                readers = {
                    layer: repeats for layer, (group, repeats) in self._read.items() if self._root(group) == name
                }
                yield Group(name, channels, counted, readers)


def _arguments(layer: Placeholder) -> dict[str, Any]:
    """What a layer is asked for, by the names of its arguments."""
    asked = inspect.signature(getattr(FloatLayers, layer.kind)).bind(None, *layer.arguments, **layer.keywords)
    return {name: value for name, value in asked.arguments.items() if name != "self"}


def _is_depthwise(layer: Placeholder) -> bool:
    """Whether each channel is convolved by itself, to one channel."""
    given = _arguments(layer)
    return given.get("groups", 1) > 1 and given["groups"] == given["channels_in"] == given["channels_out"]


def _check(channels: Mapping[str, int], hidden: Sequence[Group]) -> None:
    names = [group.name for group in hidden]
    for name, number in channels.items():
        if name not in names:
            holder = next((group.name for group in hidden if name in group.layers), None)
            close = get_close_matches(name, names, n=1, cutoff=0.5)
            expected = f"did you mean {close[0]!r}?" if close else f"expected one of: {', '.join(names)}"
            told = f"has those of {holder!r}, expected that name" if holder else f"is no group of channels, {expected}"
            raise ValueError(f"channels.{name}: {told}")
        if number < 1:
            raise ValueError(f"channels.{name}: {number}, expected 1 or more")
