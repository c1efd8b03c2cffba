"""Random resizing and padding: Xie, Wang, Zhang, Ren and Yuille, "Mitigating adversarial effects through
randomization", ICLR 2018, https://arxiv.org/abs/1711.01991.

The paper enlarges images (299 to at most 331 pixels) and pads to 331, which networks that take any size allow. Here the
image shrinks and is padded to its own size, so that every network takes it, and each image has draws of its own.
"""

import math

import torch
from torch import Tensor

from stages.defenses.input_filter import RandomFilter
from stages.defenses.shielded import Shielded
from stages.knobs import Fraction
from stages.models.footprint import Footprint

UNCERTAINTY = True  # scores hold what its passes say of their prediction


class RandomResizePad(RandomFilter):
    """Images of a random size at a random place on black, by bilinear interpolation.

    smallest: the least size, as a share of the image's sides; all sizes in pixels from there on are as likely.
    """

    composed = Shielded

    def __init__(self, smallest: float) -> None:
        super().__init__()
        self.smallest = smallest

    def forward(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        share, *places = torch.rand(len(inputs), 3, generator=generator).to(inputs.device).unbind(1)
        for dimension, place in zip((2, 3), places, strict=True):
            inputs = self._placed(inputs, dimension, share, place)
        return inputs

    def backward_view(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Interpolation has a gradient of its own."""
        return self(inputs, generator)

    def footprint(self, input_shape: tuple[int, int, int]) -> Footprint:
        """Two multiply-accumulates a value and side; the image before and after."""
        values = math.prod(input_shape)
        return Footprint(0, 4 * values, 0, 2 * values)

    def operations(self, input_shape: tuple[int, int, int]) -> int:
        return self.footprint(input_shape).macs

    def _placed(self, inputs: Tensor, dimension: int, share: Tensor, place: Tensor) -> Tensor:
        """One side resized and padded; `share` [N] chooses the size and `place` [N] where it begins, both in [0, 1)."""
        whole = inputs.shape[dimension]
        least = math.ceil(self.smallest * whole)
        size = least + (share * (whole - least + 1)).floor()
        begin = (place * (whole - size + 1)).floor()
        positions = torch.arange(whole, device=inputs.device) - begin[:, None]  # [N, whole] in the small image
        source = ((positions + 0.5) * (whole / size[:, None]) - 0.5).clamp(0, whole - 1)
        before = source.floor()
        fraction = source - before
        inside = (positions >= 0) & (positions < size[:, None])

        def spread(values: Tensor) -> Tensor:
            return values[:, None, :, None] if dimension == 2 else values[:, None, None, :]

        def at(indices: Tensor) -> Tensor:
            return inputs.gather(dimension, spread(indices.long()).expand_as(inputs))

        after = (before + 1).clamp(max=whole - 1)
        between = at(before) * spread(1 - fraction) + at(after) * spread(fraction)
        return between * spread(inside.to(inputs.dtype))


def filter(input_shape: tuple[int, int, int], *, smallest: Fraction = 0.8) -> RandomResizePad:
    """The filter for inputs of a shape (C, H, W). smallest: the least size, as a share of an image's sides.

    Raises ValueError if the share is 0.
    """
    if smallest == 0:
        raise ValueError("random_resize_pad: smallest is 0, expected a share above 0 of an image's sides")
    return RandomResizePad(smallest)
