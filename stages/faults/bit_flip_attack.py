"""The bit-flip attack: the fewest bits whose flips make a network as good as guessing.

Rakin, He and Fan, "Bit-Flip Attack: Crushing Neural Network with Progressive Bit Search", arXiv 1903.12269.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from stages.faults.memory import Memory
from stages.faults.search import Objective, Step, progressive_search
from stages.knobs import Count, NonNegativeInt

DRAWS = 5  # batches of images
SEARCHES = True


def attack(
    network,
    inputs: Tensor,
    labels: Tensor,
    *,
    flips: list[int],
    generator: torch.Generator,
    region: Literal["all", "weights", "inner_weights", "floats"] = "all",
    batch_size: Count = 128,
    each: Count = 10,
    tries: NonNegativeInt = 8,
    spare: NonNegativeInt = 0,
) -> Iterator[Step]:
    """Flips, step by step, the bits that raise the mean cross-entropy of the first `batch_size` images the most.

    each: bits of each tensor that are candidates, each by itself; 1, with all of them tried, is the paper's search.
    tries: candidates that are tried in a step, those first of which the gradient promises the most; 0: all of them. So
        few are enough where they may be of one tensor; of binary networks they are, of the last, and quick to try.
    spare: highest bits of integer words that are left alone, by an attacker who knows that checksums watch them.
    """
    inputs, labels = inputs[:batch_size], labels[:batch_size]
    objective, memory = Objective.mean(labels), Memory(network, region)
    return progressive_search(memory, inputs, objective, generator, each=each, tries=tries, spare=spare)
