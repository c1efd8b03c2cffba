"""mixed: the width of each layer's weights is chosen for a number of bytes, then quantization-aware training.

How far predictions on calibration images move when one layer alone has a width says what it costs there
(`stages/quantization/mixed_precision.py`). The first and the last layer keep 8 bits. What was chosen stands under
`format` in the network's JSON file.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from torch import Tensor, nn

from stages.knobs import Count, Positive
from stages.models.footprint import weight_bytes
from stages.quantization.calibrate import calibrate
from stages.quantization.clipping import clip_activations
from stages.quantization.formats import Format, bits_in_memory
from stages.quantization.mixed_precision import Cost, best_widths, sensitivities
from stages.quantization.recipes import Make, Quantized, quantization_aware


def quantize(
    make: Make,
    calibration: list[Tensor],
    fine_tune: Callable[..., list[dict]],
    *,
    budget: Count,
    candidates: list[Literal[1, 2, 3, 4, 5, 6, 7, 8, "ternary"]] = [8, 4, 3, 2],  # noqa: B006
    activations: Literal[1, 2, 3, 4, 5, 6, 7, 8] = 8,
    scales: Literal["percentile", "least_squares"] = "percentile",
    epochs: Count = 4,
    learning_rate: Positive = 0.02,
) -> Quantized:
    """Trained on from calibrated scales.

    budget: bytes that all weights, with their scales and biases, may take: `weight_bytes` of the footprint.
    candidates: the widths to choose from. scales: that activations start from, as in `qat`.
    """
    if not candidates:
        raise ValueError("candidates: [] has no width to choose from, expected one or more")
    widest = max(candidates, key=bits_in_memory)
    uniform = Format(widest, activations)
    networks = {width: make(replace(uniform, weight_bits=width)) for width in candidates}
    for network in networks.values():
        calibrate(network, calibration)
        if scales == "least_squares":
            clip_activations(network, calibration)
    shapes = {
        name: layer.weight.shape
        for name, layer in networks[widest].named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }
    first, *inner, last = shapes
    costs = {
        name: {width: Cost(weight_bytes(shapes[name], width), loss) for width, loss in losses.items()}
        for name, losses in sensitivities(networks, widest, inner, calibration).items()
    }
    edges = sum(weight_bytes(shapes[name], uniform.edge_bits) for name in (first, last))
    chosen = best_widths(costs, budget, fixed=edges)
    format = replace(uniform, layers={name: width for name, width in chosen.items() if width != widest} or None)
    return quantization_aware(
        make, format, calibration, fine_tune, epochs=epochs, learning_rate=learning_rate, scales=scales
    )
