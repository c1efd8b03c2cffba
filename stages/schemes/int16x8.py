"""int16x8: 8-bit weights and 16-bit activations, post-training, as in the 16x8 mode of TensorFlow Lite.

https://ai.google.dev/edge/litert/models/post_training_integer_quant_16x8

Activations, residual sums, pooled features and inputs have 16 bits, all unsigned that cannot be negative; there they
are signed.
"""

from collections.abc import Callable

from torch import Tensor, nn

from stages.quantization.calibrate import calibrate, correct_bias
from stages.quantization.formats import Format

FORMAT = Format(weight_bits=8, activation_bits=16, input_bits=16, sum_bits=16)


def quantize(network: nn.Module, calibration: list[Tensor], fine_tune: Callable[..., list[dict]]) -> list[dict]:
    """Calibrates a Brevitas network that holds float weights, in place, and corrects its biases."""
    calibrate(network, calibration)
    correct_bias(network, calibration)
    return []
