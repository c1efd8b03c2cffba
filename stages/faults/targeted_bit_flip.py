"""The targeted bit-flip attack: the fewest bits whose flips send images to a class of the attacker's choice.

Rakin, He, Li, Yao, Chakrabarti and Fan, "T-BFA: Targeted Bit-Flip Adversarial Weight Attack", arXiv 2007.12336. Each
draw has a target class of its own and, but for `all_to_one`, a source class.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from stages.faults.memory import Memory
from stages.faults.search import Objective, Step, progressive_search
from stages.knobs import Count, NonNegativeInt

DRAWS = 5  # batches of images, each with other classes
SEARCHES = True


def classes(count: int, generator: torch.Generator, *, mode: str = "all_to_one", **_) -> tuple[int, int | None]:
    """The target and the source (None: every other class) of a draw, of `count` classes."""
    target, source = torch.randperm(count, generator=generator)[:2].tolist()
    return target, None if mode == "all_to_one" else source


def attack(
    network,
    inputs: Tensor,
    labels: Tensor,
    *,
    flips: list[int],
    generator: torch.Generator,
    goal: tuple[int, int | None],
    mode: Literal["all_to_one", "one_to_one", "one_to_one_stealthy"] = "all_to_one",
    region: Literal["all", "weights", "inner_weights", "floats"] = "all",
    batch_size: Count = 128,
    each: Count = 10,
    tries: NonNegativeInt = 8,
) -> Iterator[Step]:
    """Flips, step by step, the bits that do the most to send `batch_size` of the images aimed at to the target class.

    mode: `all_to_one`: images of all classes. `one_to_one`: images of the source class alone. `one_to_one_stealthy`:
        these, while as many images of other classes keep their own.
    """
    target, source = goal
    aimed = labels != target if source is None else labels == source
    others = (~aimed).nonzero().flatten()
    aimed = aimed.nonzero().flatten()[:batch_size]
    count = len(aimed)
    others = others[: count if mode == "one_to_one_stealthy" else 0]
    images = torch.cat([aimed, others])
    wanted = torch.cat([torch.full_like(labels[aimed], target), labels[others]])
    weights = torch.cat([torch.full((len(part),), -1 / max(1, len(part))) for part in (aimed, others)])
    objective, memory = Objective(wanted, weights.to(labels.device)), Memory(network, region)
    return progressive_search(memory, inputs[images], objective, generator, each=each, tries=tries)
