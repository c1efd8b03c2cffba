"""Number formats: what a scheme does to inputs, weights, activations and residual sums."""

from dataclasses import dataclass

EDGE_BITS = 8  # weights of the first and the last layer, in every format


@dataclass(frozen=True)
class Format:
    """Bit widths: of the inner layers' weights and activations, of inputs, and of residual sums and pooled features.

    Weights are symmetric with one scale an output channel; those of layers on the network's edge stay at 8 bits.
    Activations have one scale a tensor (unsigned after a ReLU). One bit means {-1, +1}: the sign replaces the ReLU in
    activations. Inputs are unsigned codes that divide [0,1] evenly, 8 or 16 bits wide, so that the levels of 8-bit
    images are among them (65535 = 257 * 255).
    """

    weight_bits: int
    activation_bits: int
    input_bits: int = 8
    sum_bits: int = 8

    @property
    def binary_activations(self) -> bool:
        return self.activation_bits == 1
