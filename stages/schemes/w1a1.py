"""w1a1: 1-bit weights and activations, quantization-aware training from the float weights."""

from collections.abc import Callable

from torch import Tensor

from stages.knobs import Count, Positive
from stages.quantization.formats import Format
from stages.quantization.recipes import Make, Quantized, quantization_aware

FORMAT = Format(weight_bits=1, activation_bits=1)


def quantize(
    make: Make,
    calibration: list[Tensor],
    fine_tune: Callable[..., list[dict]],
    *,
    epochs: Count = 6,
    learning_rate: Positive = 0.2,
) -> Quantized:
    """Trained on from calibrated scales."""
    return quantization_aware(make, FORMAT, calibration, fine_tune, epochs=epochs, learning_rate=learning_rate)
