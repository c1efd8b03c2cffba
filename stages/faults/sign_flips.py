"""Sign flips without data: the largest weights of the first layers change their sign bit.

After Galil, Kimhi and El-Yaniv, "Maximal Brain Damage Without Data or Optimization: Disrupting Neural Networks via
Sign-Bit Flips" (DNL), arXiv 2502.07408, whose networks are float. The sign bit of an integer in two's complement adds
or takes half of its range, so that there the flip changes every weight by as much, and the largest do not change the
most; of one bit the magnitude is the scale alone.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from stages.faults.memory import Memory, Stored
from stages.faults.search import Step
from stages.knobs import Count

DRAWS = 1  # there is nothing to draw
SEARCHES = True


def attack(
    network,
    inputs: Tensor,
    labels: Tensor,
    *,
    flips: list[int],
    generator: torch.Generator,
    region: Literal["weights", "inner_weights"] = "weights",
    layers: Count = 3,
    most: Count = 1000,
) -> Iterator[Step]:
    """Flips the signs of the `most` largest weights of the first `layers` layers, the largest first, one a step.

    A weight's size is its share of its layer's largest, as layers have other scales. The images are not looked at.
    """
    memory = Memory(network, region)
    sizes, addresses = [], []
    for place, stored in enumerate(memory.tensors[:layers]):
        magnitude = _magnitudes(network, stored)
        sizes.append(magnitude / magnitude.max().clamp(min=torch.finfo(magnitude.dtype).tiny))
        addresses += [memory.address(place, index, stored.bits - 1) for index in range(len(magnitude))]
    for place in torch.cat(sizes).argsort(descending=True, stable=True)[:most].tolist():
        memory.flip([addresses[place]])
        yield Step([addresses[place]])


def _magnitudes(network, stored: Stored) -> Tensor:
    """The absolute values [words] that a layer multiplies with."""
    layer = network.get_submodule(stored.layer)
    values = stored.values.float().view(stored.shape[0], -1)
    if not stored.is_float:
        values = values * layer.weight_scale.unsqueeze(1)
    return values.abs().flatten()
