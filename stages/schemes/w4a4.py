"""w4a4: 4-bit weights and activations, quantization-aware training from the float weights."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from stages.knobs import Count, Positive
from stages.quantization.formats import Format
from stages.quantization.recipes import Make, Quantized, quantization_aware

FORMAT = Format(weight_bits=4, activation_bits=4)


def quantize(
    make: Make,
    calibration: list[Tensor],
    fine_tune: Callable[..., list[dict]],
    *,
    scales: Literal["percentile", "least_squares"] = "percentile",
    epochs: Count = 2,
    learning_rate: Positive = 0.02,
) -> Quantized:
    """Trained on from calibrated scales; `scales` as in `qat`."""
    return quantization_aware(
        make, FORMAT, calibration, fine_tune, epochs=epochs, learning_rate=learning_rate, scales=scales
    )
