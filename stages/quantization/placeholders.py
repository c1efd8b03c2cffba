"""A model put together before its layers are made: who knows all layers' names and arguments can change them first."""

from collections.abc import Callable
from typing import Any

from torch import nn

Model = Callable[[Any], nn.Module]  # makes a network of a layer set


class Placeholder(nn.Module):
    """Stands for a layer until it is made: its kind, and the arguments that the model gives."""

    def __init__(self, kind: str, arguments: tuple, keywords: dict[str, Any]):
        super().__init__()
        self.kind, self.arguments, self.keywords = kind, arguments, keywords

    def made_of(self, layers: Any) -> nn.Module:
        """The layer that a layer set makes."""
        return getattr(layers, self.kind)(*self.arguments, **self.keywords)


class _Placeholders:
    """A layer set that makes none of them yet."""

    def __getattr__(self, kind: str) -> Callable[..., Placeholder]:
        return lambda *arguments, **keywords: Placeholder(kind, arguments, keywords)


def put_together(model: Model) -> tuple[nn.Module, dict[str, Placeholder]]:
    """The network of a model without its layers, and what stands in their places, by name and in the model's order."""
    network = model(_Placeholders())
    return network, {name: layer for name, layer in network.named_modules() if isinstance(layer, Placeholder)}
