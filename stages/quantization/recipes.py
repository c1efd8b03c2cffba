"""How a network gets its number format: calibrated after training, or trained on with it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple, Protocol

from torch import Tensor, nn

from stages.quantization.calibrate import calibrate, correct_bias, settle_batch_norm
from stages.quantization.channel_groups import Group
from stages.quantization.clipping import clip_activations
from stages.quantization.formats import Format
from stages.quantization.quantizers import is_random


class Make(Protocol):
    """Makes Brevitas networks of a model."""

    def __call__(self, format: Format) -> nn.Module:
        """One in a format, with the float weights."""

    def untrained(self, format: Format, channels: Mapping[str, int]) -> nn.Module:
        """One in a format, with random weights and these numbers of channels, by the names of groups."""

    def groups(self) -> tuple[Group, ...]:
        """The model's groups of channels."""

    def weight_bytes(self, format: Format, channels: Mapping[str, int]) -> int:
        """Those of one in a format with these numbers of channels, by the names of groups."""


class Quantized(NamedTuple):
    """What a scheme makes."""

    network: nn.Module
    format: Format
    history: list[dict]  # one object an epoch of training
    channels: Mapping[str, int] | None = None  # by the names of groups; the model's own if not told


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
    channels: Mapping[str, int] | None = None,
    scales: Literal["percentile", "least_squares"] = "percentile",
) -> Quantized:
    """Trains the network on from calibrated scales, with the loss that the float network was trained with.

    Where `channels` are given, by the names of groups, it is one with these that is trained, from scratch. Where
    weights were drawn at random, batch norm is told the statistics of those that are not in the end. `scales` are those
    that activations start from. Raises ValueError where they are fitted to activations that are not trained yet.
    """
    if scales != "percentile" and channels is not None:
        raise ValueError(f"scales: {scales} fits those of a trained network, expected percentile of one from scratch")
    network = make(format) if channels is None else make.untrained(format, channels)
    calibrate(network, calibration, untrained=channels is not None)
    if scales == "least_squares":
        clip_activations(network, calibration)
    history = fine_tune(network, epochs=epochs, learning_rate=learning_rate)
    if is_random(network):
        settle_batch_norm(network, calibration)
    return Quantized(network, format, history, channels)
