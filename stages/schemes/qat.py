"""qat: weights and activations of any width, also of single layers, by quantization-aware training.

Weights have 1 to 8 bits, or are `ternary`, `stochastic_ternary` or `stochastic_binary`; activations have 1 to 8 bits.
`layers` has the widths of single layers by their name: of weights where they have some, else of what they round to.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from torch import Tensor

from stages.knobs import Count, Positive
from stages.quantization.channel_groups import scaled
from stages.quantization.formats import Format
from stages.quantization.recipes import Make, Quantized, quantization_aware
from stages.quantization.widened import scaled_to


def quantize(
    make: Make,
    calibration: list[Tensor],
    fine_tune: Callable[..., list[dict]],
    *,
    reference: dict[str, Any] | None = None,
    weights: Literal[1, 2, 3, 4, 5, 6, 7, 8, "ternary", "stochastic_ternary", "stochastic_binary"],
    activations: Literal[1, 2, 3, 4, 5, 6, 7, 8],
    edges: Literal[1, 2, 3, 4, 5, 6, 7, 8, "ternary", "stochastic_ternary", "stochastic_binary"] = 8,
    sums: Literal[2, 3, 4, 5, 6, 7, 8] = 8,
    layers: dict[str, int | str] = {},  # noqa: B006
    channels: Positive = 1.0,
    as_large_as: str = "",
    from_scratch: bool = False,
    scales: Literal["percentile", "least_squares"] = "percentile",
    epochs: Count = 4,
    learning_rate: Positive = 0.02,
) -> Quantized:
    """Trained on from the float network and calibrated scales, or from scratch.

    edges: of the weights of the first and the last layer. sums: of residual sums and of pooled features.
    channels: so many times the model's own in each hidden layer. as_large_as: another number format; so many times that
        weights take as many bytes as those of its network, which `reference` describes. from_scratch: from random
        weights, not from the float ones, as networks with other channels always are: what they are to be held against.
    scales: that activations start from, before they are trained: `percentile` takes in 99.999 % of what calibration
        saw, `least_squares` is where rounding errs least, which few bits on little data need.
    """
    format = Format(weights, activations, sum_bits=sums, edge_bits=edges, layers=layers or None)
    given = scaled(make.groups(), channels) if from_scratch or channels != 1 else None
    if reference is not None:
        given = scaled_to(make.groups(), partial(make.weight_bytes, format), reference["footprint"]["weight_bytes"])
    return quantization_aware(
        make, format, calibration, fine_tune, epochs=epochs, learning_rate=learning_rate, channels=given, scales=scales
    )
