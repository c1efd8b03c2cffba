"""The median of each neighbourhood, one of the two squeezers of feature squeezing: Xu, Evans and Qi, NDSS 2018,
https://arxiv.org/abs/1704.01155 (section III-B)."""

import math

from torch import Tensor

from stages.defenses import feature_squeezing
from stages.defenses.input_filter import InputFilter
from stages.knobs import Count


class Median(InputFilter):
    """The median of window x window pixels, each channel by itself."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window

    def forward(self, inputs: Tensor) -> Tensor:
        return feature_squeezing.median(inputs, self.window)

    def backward_view(self, inputs: Tensor) -> Tensor:
        """Its own gradient leads to the value that it picks."""
        return self(inputs)

    def operations(self, input_shape: tuple[int, int, int]) -> int:
        """What sorting by insertion compares at most: each pair of a window's values."""
        return math.prod(input_shape) * math.comb(self.window**2, 2)


def filter(input_shape: tuple[int, int, int], *, window: Count = 2) -> Median:
    """The filter for inputs of a shape (C, H, W). window: pixels a side; 1 is no median.

    Raises ValueError if the window is larger than the image.
    """
    if window > min(input_shape[1:]):
        raise ValueError(f"median: window is {window}, expected at most the sides of an image, {min(input_shape[1:])}")
    return Median(window)
