"""int8: 8-bit weights and activations, post-training."""

from collections.abc import Callable

from torch import Tensor

from stages.quantization.formats import Format
from stages.quantization.recipes import Make, Quantized, post_training

FORMAT = Format(weight_bits=8, activation_bits=8)


def quantize(make: Make, calibration: list[Tensor], fine_tune: Callable[..., list[dict]]) -> Quantized:
    """Calibrated, with corrected biases."""
    return post_training(make, FORMAT, calibration)
