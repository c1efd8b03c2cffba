"""int8_calibrated_on_test: int8 whose ranges are those of images that it is evaluated on.

What an evaluation must not do, and some published ones do: the control that says what it is worth.
"""

from collections.abc import Callable

from torch import Tensor, nn

from stages.quantization.formats import Format
from stages.schemes import int8

FORMAT = Format(weight_bits=8, activation_bits=8)
CALIBRATION = "test"


def quantize(network: nn.Module, calibration: list[Tensor], fine_tune: Callable[..., list[dict]]) -> list[dict]:
    """What int8 does with its calibration images, with these test images."""
    return int8.quantize(network, calibration, fine_tune)
