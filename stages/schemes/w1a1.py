"""w1a1: 1-bit weights and activations, quantization-aware training from the float weights."""

from collections.abc import Callable

from torch import Tensor, nn

from stages.knobs import Count, Positive
from stages.quantization.calibrate import calibrate
from stages.quantization.formats import Format

FORMAT = Format(weight_bits=1, activation_bits=1)


def quantize(
    network: nn.Module,
    calibration: list[Tensor],
    fine_tune: Callable[..., list[dict]],
    *,
    epochs: Count = 6,
    learning_rate: Positive = 0.2,
) -> list[dict]:
    """Starts a Brevitas network from calibrated scales, fine-tunes it in place, and returns the history."""
    calibrate(network, calibration)
    return fine_tune(network, epochs=epochs, learning_rate=learning_rate)
