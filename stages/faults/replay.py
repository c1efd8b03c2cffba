"""Passes over fixed inputs in which only what a change reaches is computed again.

Every layer's output is kept. In a later pass a layer gives it back if neither the layer nor anything in it was changed
and its inputs are the very tensors that it had before; whatever follows a changed layer gets new tensors and so is
computed. That needs no order of layers and holds for every network whose layers depend on their inputs and their own
tensors alone. What is computed is computed by the same operations on the same numbers: outputs are those of a full
pass, bit for bit.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Kept = dict[str, tuple[tuple[Any, ...], Any]]  # a layer's inputs and its output


class Replay:
    """A network, in evaluation mode, on fixed inputs `[N,C,H,W]`; nothing but tensors of layers may change."""

    def __init__(self, network: nn.Module, inputs: Tensor):
        self.network, self.inputs = network, inputs
        self._layers = {name: layer for name, layer in network.named_modules() if name}
        self._kept: Kept = {}
        self.logits = self._pass(self._layers, self._kept)

    def changed(self, layers: Collection[str]) -> Tensor:
        """The logits now that tensors of these layers are others, for once: the next pass starts from what is kept."""
        return self._pass(layers, None)

    def keep(self, layers: Collection[str]) -> Tensor:
        """The same, and it is kept: from now on these layers count as unchanged."""
        found: Kept = {}
        self.logits = self._pass(layers, found)
        self._kept |= found
        return self.logits

    def _pass(self, layers: Collection[str], found: Kept | None) -> Tensor:
        stale = {name for layer in layers for name in _with_parents(layer)}
        with torch.no_grad(), self._replaying(stale, found):
            return self.network(self.inputs)

    @contextmanager
    def _replaying(self, stale: set[str], found: Kept | None) -> Iterator[None]:
        for name, layer in self._layers.items():
            layer.forward = self._forward(name, layer.forward, name in stale, found)
        try:
            yield
        finally:
            for layer in self._layers.values():
                del layer.forward  # the instance's, which hides the class's

    def _forward(self, name: str, forward, stale: bool, found: Kept | None):
        def replayed(*inputs):
            if not stale:
                before, output = self._kept[name]
                if len(inputs) == len(before) and all(map(_same, inputs, before)):
                    return output
            output = forward(*inputs)
            if found is not None:
                found[name] = inputs, output
            return output

        return replayed


def _same(one: Any, other: Any) -> bool:
    return one is other


def _with_parents(layer: str) -> Iterator[str]:
    """A layer's name and those of all layers that hold it."""
    parts = layer.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts) + 1))
