"""Fewer bits a value, one of the two squeezers of feature squeezing: Xu, Evans and Qi, NDSS 2018,
https://arxiv.org/abs/1704.01155 (section III-A)."""

import math
from typing import Literal

from torch import Tensor

from stages.defenses.feature_squeezing import reduced_bit_depth
from stages.defenses.input_filter import InputFilter


class BitDepth(InputFilter):
    """The nearest of 2^bits values from 0 to 1; works in place."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, inputs: Tensor) -> Tensor:
        return reduced_bit_depth(inputs, self.bits)

    def backward_view(self, inputs: Tensor) -> Tensor:
        """The rounding's gradient is the identity's."""
        return self(inputs)

    def operations(self, input_shape: tuple[int, int, int]) -> int:
        """A look-up for each value."""
        return math.prod(input_shape)


def filter(input_shape: tuple[int, int, int], *, bits: Literal[1, 2, 3, 4, 5, 6, 7, 8] = 5) -> BitDepth:
    """The filter for inputs of a shape (C, H, W). bits: of a filtered value; a digital input has 8."""
    return BitDepth(bits)
