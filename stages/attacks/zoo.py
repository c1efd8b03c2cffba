"""ZOO: Chen, Zhang, Sharma, Yi and Hsieh, "ZOO: zeroth order optimization based black-box attacks to deep neural
networks without training substitute models", AISec 2017, https://arxiv.org/abs/1708.03999 (Algorithm 2, ZOO-ADAM, with
the importance sampling of section 3.5)."""

from typing import NamedTuple

import torch
from torch import Tensor

from stages.attacks.decision_based import draw_uniform, to_boundary
from stages.attacks.losses import margin
from stages.attacks.minimal_norm import Search, attack_nearest
from stages.attacks.result import AttackResult
from stages.classifier import Classifier
from stages.knobs import Count, NonNegativeInt, Positive

NORM = "l2"
THREAT = "black_box"
ITERATIVE = False  # in gradient steps: none are taken here
BUDGET = ("steps",)  # what twice the effort doubles

BETA_1, BETA_2, TINY = 0.9, 0.999, 1e-8  # ADAM's, as in the paper
CHUNK = 32  # coordinates of each sample that are asked about at once, which bounds the memory


def attack(
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    steps: Count = 10,
    search_steps: Count = 5,
    coordinates: Count = 128,
    learning_rate: Positive = 0.01,
    initial_constant: Positive = 0.01,
    difference: Positive = 0.004,
    halvings: NonNegativeInt = 8,
) -> AttackResult:
    """Minimise the squared distance minus c times the logit margin coordinate by coordinate, with finite differences.

    inputs: float32 [N, ...] in [0, 1]. labels: int64 [N].
    steps: of ADAM, for each c. search_steps: how many c are tried, larger ones while nothing is found, and
    else by bisection. initial_constant: the first c.
    coordinates: input values, at most all, that each step changes; all of their differences are asked for in one
    batch. learning_rate: ADAM's, in input units. difference: the change of a value that its derivative is taken from,
    about a level of 8-bit inputs, since a quantized network rounds the paper's 0.0001 away.
    halvings: of the way to the nearest point found, at the end.
    Only logits are seen. Forward passes a sample: `search_steps * (steps * (coordinates + 1) + 1)` and `halvings`; the
    paper's symmetric differences take two for each coordinate.
    Coordinates are drawn in proportion to their last known derivative, those not yet known to the mean of the known.
    Returns one row [1, N]. Raises ValueError if an input is outside [0, 1].
    """

    def find(search: Search, draws: torch.Generator) -> None:
        shape = search.inputs.shape
        originals = search.inputs.flatten(1)
        every = torch.arange(len(originals), device=originals.device)
        chosen_at_once = min(coordinates, originals.shape[1])
        importance = Importance(torch.zeros_like(originals), torch.zeros_like(originals))
        constant = torch.full_like(originals[:, 0], initial_constant)
        below, above = torch.zeros_like(constant), torch.full_like(constant, torch.inf)
        for _ in range(search_steps):
            points, adam = originals.clone(), Adam(*(torch.zeros_like(originals) for _ in range(3)))
            broken = torch.zeros_like(constant, dtype=torch.bool)
            for _ in range(steps):
                chosen = importance.choose(chosen_at_once, draw_uniform(search, originals.shape[1:], draws))
                logits = search.logits(points.reshape(shape), every)
                broken |= search.wrong(logits, every)
                loss, slopes = finite_differences(search, points, logits, chosen, difference)
                importance.remember(chosen, slopes)
                distance_slopes = 2 * (points - originals).gather(1, chosen)
                hinged = (loss > 0)[:, None] * slopes
                step = adam.step(chosen, distance_slopes + constant[:, None] * hinged)
                points = points.scatter_add(1, chosen, -learning_rate * step).clamp(0, 1)
            broken |= search.wrong(search.logits(points.reshape(shape), every), every)
            above, below = torch.where(broken, constant, above), torch.where(broken, below, constant)
            constant = torch.where(above.isfinite(), (below + above) / 2, constant * 10)
        found = search.found.nonzero()[:, 0]
        if len(found):
            to_boundary(search, search.nearest[found].clone(), found, halvings)

    return attack_nearest(find, classifier, inputs, labels, norm=NORM, generator=generator, gradients=False)


def finite_differences(
    search: Search, points: Tensor, logits: Tensor, chosen: Tensor, difference: float
) -> tuple[Tensor, Tensor]:
    """Each sample's loss [N], minus its margin, and the slopes [N, K] of that in the chosen coordinates.

    points: [N, D], flattened. logits: those at the points. chosen: int64 [N, K]. Near 1, the difference of a value
    is taken downward.
    """
    loss = -margin(logits, search.labels)
    values = points.gather(1, chosen)
    changes = torch.where(values + difference > 1, -difference, difference)
    every, slopes = torch.arange(len(points), device=points.device), []
    for part, change in zip(chosen.split(CHUNK, 1), changes.split(CHUNK, 1), strict=True):
        owners = every.repeat_interleave(part.shape[1])
        asked = points[owners]
        asked.scatter_add_(1, part.reshape(-1, 1), change.reshape(-1, 1))
        seen = search.logits(asked.clamp(0, 1).reshape(-1, *search.inputs.shape[1:]), owners)
        reached = -margin(seen, search.labels[owners]).reshape(part.shape)
        slopes.append((reached - loss[:, None]) / change)
    return loss, torch.cat(slopes, 1).to(points.dtype)


class Adam(NamedTuple):
    """ADAM with its own state in each coordinate: both moments and the number of updates, all [N, D]."""

    first: Tensor
    second: Tensor
    updates: Tensor

    def step(self, chosen: Tensor, gradient: Tensor) -> Tensor:
        """The step [N, K] in the chosen coordinates, int64 [N, K], of unit size while the gradient's sign stays."""
        updates = self.updates.gather(1, chosen) + 1
        first = BETA_1 * self.first.gather(1, chosen) + (1 - BETA_1) * gradient
        second = BETA_2 * self.second.gather(1, chosen) + (1 - BETA_2) * gradient**2
        for state, value in zip(self, (first, second, updates), strict=True):
            state.scatter_(1, chosen, value)
        return first / (1 - BETA_1**updates) / ((second / (1 - BETA_2**updates)).sqrt() + TINY)


class Importance(NamedTuple):
    """What is known of the coordinates: the size of each derivative, and whether it was ever asked for, both [N, D]."""

    sizes: Tensor
    known: Tensor

    def remember(self, chosen: Tensor, slopes: Tensor) -> None:
        self.sizes.scatter_(1, chosen, slopes.abs())
        self.known.scatter_(1, chosen, 1.0)

    def choose(self, count: int, uniform: Tensor) -> Tensor:
        """`count` different coordinates of each sample, int64 [N, count], drawn by their sizes from uniform [N, D]."""
        mean = self.sizes.sum(1, keepdim=True) / self.known.sum(1, keepdim=True).clamp_min(1)
        weights = torch.where(self.known > 0, self.sizes, mean).clamp_min(1e-3 * mean + TINY)
        # The largest keys log(u) / w are a weighted draw without replacement (Efraimidis and Spirakis, 2006).
        return (uniform.clamp_min(1e-30).log() / weights).topk(count, 1).indices
