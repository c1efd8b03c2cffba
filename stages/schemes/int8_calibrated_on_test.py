"""int8_calibrated_on_test: int8 whose ranges are those of images that it is evaluated on.

What an evaluation must not do, and some published ones do: the control that says what it is worth.
"""

from collections.abc import Callable

from torch import Tensor

from stages.quantization.recipes import Make, Quantized
from stages.schemes import int8

CALIBRATION = "test"


def quantize(make: Make, calibration: list[Tensor], fine_tune: Callable[..., list[dict]]) -> Quantized:
    """What int8 does with its calibration images, with these test images."""
    return int8.quantize(make, calibration, fine_tune)
