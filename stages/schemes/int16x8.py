"""int16x8: 8-bit weights and 16-bit activations, post-training, as in the 16x8 mode of TensorFlow Lite.

https://ai.google.dev/edge/litert/models/post_training_integer_quant_16x8

Activations, residual sums, pooled features and inputs have 16 bits, all unsigned that cannot be negative; there they
are signed.
"""

from collections.abc import Callable

from torch import Tensor

from stages.quantization.formats import Format
from stages.quantization.recipes import Make, Quantized, post_training

FORMAT = Format(weight_bits=8, activation_bits=16, input_bits=16, sum_bits=16)


def quantize(make: Make, calibration: list[Tensor], fine_tune: Callable[..., list[dict]]) -> Quantized:
    """Calibrated, with corrected biases."""
    return post_training(make, FORMAT, calibration)
