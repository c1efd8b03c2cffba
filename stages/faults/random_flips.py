"""Random flips of memory, no attacker: the control, and what faults of a memory at a bit-error rate do."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from stages.faults.memory import Memory
from stages.faults.search import Step
from stages.knobs import Fraction

DRAWS = 100
RATES = [1e-5, 1e-4, 1e-3, 1e-2]
SEARCHES = False


def attack(
    network,
    inputs: Tensor,
    labels: Tensor,
    *,
    flips: list[int],
    generator: torch.Generator,
    region: Literal["all", "weights", "inner_weights", "floats"] = "all",
    rates: list[Fraction] = RATES,
) -> Iterator[Step]:
    """Flips as many bits as each of `flips`, and as each bit-error rate of `rates` makes of the region, in one order.

    Each bit is as likely as any other, and none is flipped twice: the rate is met exactly, rounded to one bit at least.
    The images are not looked at.
    """
    memory = Memory(network, region)
    counts = {*flips, *(max(1, round(rate * memory.size)) for rate in rates)}
    drawn = 0
    order = _distinct(memory.size, min(max(counts), memory.size), generator)
    for count in sorted(counts):
        step = order[drawn:count]
        if step:
            memory.flip(step)
            drawn += len(step)
            yield Step(step)


def _distinct(size: int, count: int, generator: torch.Generator) -> list[int]:
    """`count` different numbers below `size` in random order."""
    if count > size // 10:
        return torch.randperm(size, generator=generator)[:count].tolist()
    found: dict[int, None] = {}
    while len(found) < count:
        found |= dict.fromkeys(torch.randint(size, (count,), generator=generator).tolist())
    return list(found)[:count]
