"""int8: 8-bit weights and activations, post-training."""

from collections.abc import Callable

from torch import Tensor, nn

from stages.quantization.calibrate import calibrate, correct_bias
from stages.quantization.formats import Format

FORMAT = Format(weight_bits=8, activation_bits=8)


def quantize(network: nn.Module, calibration: list[Tensor], fine_tune: Callable[..., list[dict]]) -> list[dict]:
    """Calibrates a Brevitas network that holds float weights, in place, and corrects its biases."""
    calibrate(network, calibration)
    correct_bias(network, calibration)
    return []
