"""Number formats: what a scheme does to weights, activations and residual sums."""

from dataclasses import dataclass

INPUT_SCALE = 1 / 255  # images are 8-bit codes, quantized before normalisation
EDGE_BITS = 8  # first and last layers, residual sums and pooled features, in every format


@dataclass(frozen=True)
class Format:
    """Bit widths of the inner layers. One bit means {-1, +1}: the sign replaces the ReLU in activations.

    Weights are symmetric with one scale an output channel, activations have one scale a tensor (unsigned after a
    ReLU). Layers on the network's edge, residual sums and pooled features stay at 8 bits.
    """

    weight_bits: int
    activation_bits: int

    @property
    def binary_activations(self) -> bool:
        return self.activation_bits == 1
