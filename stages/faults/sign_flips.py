"""Sign flips without data: the signs of the largest numbers of the first layers.

After Galil, Kimhi and El-Yaniv, "Maximal Brain Damage Without Data or Optimization: Disrupting Neural Networks via
Sign-Bit Flips" (DNL), arXiv 2502.07408, whose networks are float: the largest weights of the first layers, few of each
filter. The sign bit of an integer in two's complement adds or takes half of its range, so that there the flip changes
every weight by as much, and the largest do not change the most; of one bit the magnitude is the scale alone. Where all
of memory is in reach, one flip does what all of a filter's would: that of the float32 word that the filter is
multiplied with.
"""

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from stages.faults.memory import BATCH_NORM, WEIGHTS, Memory, Stored
from stages.faults.search import Step
from stages.knobs import Count

DRAWS = 5  # orders of what is as large
SEARCHES = True


def attack(
    network,
    inputs: Tensor,
    labels: Tensor,
    *,
    flips: list[int],
    generator: torch.Generator,
    region: Literal["all", "weights", "inner_weights", "floats"] = "all",
    layers: Count = 3,
    most: Count = 1000,
) -> Iterator[Step]:
    """Flips the signs of `most` numbers of the first `layers` layers, one a step: in each round one of every filter.

    First the word that the filter is multiplied with, if the region has it: its scale or, of a float network, its batch
    norm's weight. Then its weights, the largest first. Within a round the largest go first, each as a share of its
    layer's largest, as layers have other scales; what is as large is in random order. The images are not looked at.
    """
    memory = Memory(network, region)
    factors = _first(memory, layers, lambda stored: stored.tensor == "weight_scale") or _first(
        memory, layers, lambda stored: stored.kind == BATCH_NORM and stored.tensor == "weight"
    )
    weights = _first(memory, layers, lambda stored: stored.kind == WEIGHTS)
    found = []  # of every word: its round, its size, what decides where others are as large, its address
    for first_round, places in ((0, factors), (1, weights)):
        for place in places:
            stored = memory.tensors[place]
            sizes = _magnitudes(network, stored)
            sizes = sizes / max(sizes.max(), np.finfo(sizes.dtype).tiny)
            ties = torch.rand(sizes.shape, generator=generator).numpy()
            ranks = np.lexsort((ties, -sizes)).argsort(axis=1)
            addresses = memory.address(place, 0, stored.bits - 1) + stored.bits * np.arange(sizes.size)
            found.append((first_round + ranks.ravel(), sizes.ravel(), ties.ravel(), addresses))
    rounds, sizes, ties, addresses = map(np.concatenate, zip(*found, strict=True))
    for address in addresses[np.lexsort((ties, -sizes, rounds))][:most].tolist():
        memory.flip([address])
        yield Step([address])


def _first(memory: Memory, layers: int, is_meant: Callable[[Stored], bool]) -> list[int]:
    """The places of the first tensors that are meant."""
    return [place for place, stored in enumerate(memory.tensors) if is_meant(stored)][:layers]


def _magnitudes(network, stored: Stored) -> np.ndarray:
    """Of every filter the absolute values float32 [filters, words] of what is multiplied with."""
    values = stored.values.float().view(stored.shape[0], -1)
    if not stored.is_float:
        values = values * network.get_submodule(stored.layer).weight_scale.unsqueeze(1)
    return values.abs().cpu().numpy()
