"""How a network gets its number format: calibrated after training, or trained on with it."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from torch import Tensor, nn

from stages.quantization.calibrate import calibrate, correct_bias, settle_batch_norm
from stages.quantization.formats import Format
from stages.quantization.quantizers import is_random

Make = Callable[[Format], nn.Module]  # a Brevitas network in a format, with the float weights


class Quantized(NamedTuple):
    """What a scheme makes."""

    network: nn.Module
    format: Format
    history: list[dict]  # one object an epoch of training


def post_training(make: Make, format: Format, calibration: Iterable[Tensor]) -> Quantized:
    """Calibrates the network and corrects its biases; nothing is trained."""
    network = make(format)
    calibrate(network, calibration)
    correct_bias(network, calibration)
    return Quantized(network, format, [])


def quantization_aware(
    make: Make,
    format: Format,
    calibration: Iterable[Tensor],
    fine_tune: Callable[..., list[dict]],
    *,
    epochs: int,
    learning_rate: float,
) -> Quantized:
    """Trains the network on from calibrated scales, with the loss that the float network was trained with.

    Where weights were drawn at random, batch norm is told the statistics of those that are not in the end.
    """
    network = make(format)
    calibrate(network, calibration)
    history = fine_tune(network, epochs=epochs, learning_rate=learning_rate)
    if is_random(network):
        settle_batch_norm(network, calibration)
    return Quantized(network, format, history)
