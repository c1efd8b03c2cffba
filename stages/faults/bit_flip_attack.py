"""The bit-flip attack: the fewest bits whose flips make a network as good as guessing.

Rakin, He and Fan, "Bit-Flip Attack: Crushing Neural Network with Progressive Bit Search", arXiv 1903.12269.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from stages.faults.memory import Memory
from stages.faults.search import Step, losses, progressive_search
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
    each: Count = 1,
    tries: NonNegativeInt = 8,
) -> Iterator[Step]:
    """Flips, step by step, the bits that raise the mean cross-entropy of the first `batch_size` images the most.

    each: bits of each tensor that are candidates, each by itself; 1 is the paper's search, more is a stronger one.
    tries: candidates that are tried in a step, those first of which the gradient promises the most; 0: all of them.
    """
    inputs, labels = inputs[:batch_size], labels[:batch_size]
    memory = Memory(network, region)
    return progressive_search(memory, inputs, lambda logits: losses(logits, labels).mean(), each=each, tries=tries)
