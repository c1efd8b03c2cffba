"""A Gaussian blur: each value becomes the mean of those around it, weighted by a normal density of their distance."""

import torch
from torch import Tensor

from stages.defenses.convolution import convolved
from stages.defenses.input_filter import InputFilter
from stages.knobs import Positive
from stages.models.footprint import Footprint

TRUNCATED = 4.0  # standard deviations from the centre


class Gaussian(InputFilter):
    """The blur of a standard deviation, in pixels: along rows, then along columns, each channel by itself."""

    def __init__(self, standard_deviation: float) -> None:
        super().__init__()
        self.radius = int(TRUNCATED * standard_deviation + 0.5)
        offsets = torch.arange(-self.radius, self.radius + 1, dtype=torch.float64)
        density = torch.exp(-0.5 * (offsets / standard_deviation) ** 2)
        self.weights = (density / density.sum()).float().tolist()

    def forward(self, inputs: Tensor) -> Tensor:
        return convolved(convolved(inputs, 2, self.weights), 3, self.weights).clamp(0, 1)

    def backward_view(self, inputs: Tensor) -> Tensor:
        """A weighted mean has a gradient of its own."""
        return self(inputs)

    def footprint(self, input_shape: tuple[int, int, int]) -> Footprint:
        """A multiply-accumulate a tap; the image, and of a channel the rows that a column's taps see."""
        channels, height, width = input_shape
        taps = len(self.weights)
        return Footprint(0, 2 * taps * channels * height * width, 0, width * (channels * height + taps))

    def operations(self, input_shape: tuple[int, int, int]) -> int:
        return self.footprint(input_shape).macs


def filter(input_shape: tuple[int, int, int], *, standard_deviation: Positive = 0.7) -> Gaussian:
    """The filter for inputs of a shape (C, H, W). standard_deviation: in pixels.

    Raises ValueError if four standard deviations are longer than the image's sides.
    """
    made = Gaussian(standard_deviation)
    if made.radius > min(input_shape[1:]):
        raise ValueError(
            f"gaussian: standard_deviation is {standard_deviation}, expected at most a quarter of the sides of an "
            f"image, {min(input_shape[1:]) / TRUNCATED:g}"
        )
    return made
