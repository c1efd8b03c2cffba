"""Number formats: what a scheme does to inputs, weights, activations and residual sums."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

EDGE_BITS = 8  # weights of the first and the last layer, in every format that does not say otherwise

# Weights that are not told by their number of bits, and how many they take in memory.
TERNARY, STOCHASTIC_TERNARY, STOCHASTIC_BINARY = "ternary", "stochastic_ternary", "stochastic_binary"
NAMED_WIDTHS = {TERNARY: 2, STOCHASTIC_TERNARY: 2, STOCHASTIC_BINARY: 1}

Width = int | str  # of weights: 1 to 8 bits, or one of NAMED_WIDTHS


def bits_in_memory(width: Width) -> int:
    """What one weight of a width takes."""
    return NAMED_WIDTHS[width] if isinstance(width, str) else width


@dataclass(frozen=True)
class Format:
    """Widths: of the inner layers' weights and activations, of inputs, of residual sums and pooled features, of edges.

    Weights are symmetric with one scale an output channel. Those of the network's first and last layer, its edges, have
    a width of their own. Activations have one scale a tensor (unsigned after a ReLU). One bit means {-1, +1}: the sign
    replaces the ReLU in activations. Inputs are unsigned codes that divide [0,1] evenly, 8 or 16 bits wide, so that the
    levels of 8-bit images are among them (65535 = 257 * 255).

    `layers` has the widths of single layers by their module's name (`block1.convolution1`, `block1.activation1`,
    `block1.sum`, `pool`, `classifier`): of weights where the layer has some, else of what it rounds to.
    """

    weight_bits: Width
    activation_bits: int
    input_bits: int = 8
    sum_bits: int = 8
    edge_bits: Width = EDGE_BITS
    layers: Mapping[str, Width] | None = None

    @property
    def binary_activations(self) -> bool:
        return self.activation_bits == 1

    def at(self, name: str) -> "Format":
        """The format that the layer of a name is made in: this one, or one that has the layer's width everywhere."""
        width = (self.layers or {}).get(name)
        if width is None:
            return self
        return replace(
            self, weight_bits=width, activation_bits=width, input_bits=width, sum_bits=width, edge_bits=width
        )
