"""Which weights can be narrow: how much each layer's widths cost, and the best choice within a number of bytes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.quantization.formats import Width


class Cost(NamedTuple):
    """What a layer takes and does at one width."""

    bytes: int
    loss: float


@torch.no_grad()
def sensitivities(
    networks: Mapping[Width, nn.Module], reference: Width, layers: Sequence[str], batches: Iterable[Tensor]
) -> dict[str, dict[Width, float]]:
    """How far predictions move when one layer alone leaves the reference's width: for each layer, by width.

    The mean Kullback-Leibler divergence, in nats, of the softmax from that of the network whose layers all have the
    width `reference`, which is the increase of the cross-entropy to its predictions (Cai et al. 2020, ZeroQ, arXiv
    2001.00281, section 3.2). It needs no labels.

    networks: the same network with the weights of all these layers in each width, in evaluation mode.
    batches: inputs [N, ...] in [0, 1].
    """
    network, batches = networks[reference], list(batches)
    expected = [F.log_softmax(network(inputs), 1) for inputs in batches]

    def divergence() -> float:
        moved = [F.log_softmax(network(inputs), 1) for inputs in batches]
        sums = [
            F.kl_div(now, before, reduction="sum", log_target=True) for now, before in zip(moved, expected, strict=True)
        ]
        return float(sum(sums)) / sum(len(inputs) for inputs in batches)

    found: dict[str, dict[Width, float]] = {}
    for name in layers:
        own = network.get_submodule(name)
        found[name] = {}
        for width, other in networks.items():
            network.set_submodule(name, other.get_submodule(name))
            found[name][width] = 0.0 if width == reference else max(divergence(), 0.0)
        network.set_submodule(name, own)
    return found


def best_widths(costs: Mapping[str, Mapping[Width, Cost]], budget: int, fixed: int = 0) -> dict[str, Width]:
    """The width of each layer for which the sum of losses is least, that of bytes and `fixed` ones at most `budget`.

    Exact, as a multiple-choice knapsack (Kellerer, Pferschy & Pisinger 2004, "Knapsack Problems", chapter 11): of the
    choices for the first layers only those are kept which no other beats in bytes and loss. Of equal sums of losses the
    one with fewer bytes is taken. Raises ValueError if the narrowest widths are too many bytes.
    """
    kept: list[tuple[int, float, tuple[Width, ...]]] = [(fixed, 0.0, ())]
    for widths in costs.values():
        longer = [
            (taken + cost.bytes, loss + cost.loss, (*chosen, width))
            for taken, loss, chosen in kept
            for width, cost in widths.items()
        ]
        kept = []
        for choice in sorted(longer, key=lambda choice: choice[:2]):
            if not kept or choice[1] < kept[-1][1]:
                kept.append(choice)
    within = [choice for choice in kept if choice[0] <= budget]
    if not within:
        raise ValueError(f"budget: {budget}: expected at least {kept[0][0]} bytes, which the narrowest weights take")
    return dict(zip(costs, within[-1][2], strict=True))
