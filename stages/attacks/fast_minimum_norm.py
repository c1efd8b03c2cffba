"""The descent of fast minimum-norm attacks: Pintor, Roli, Brendel and Biggio, "Fast minimum-norm adversarial attacks
through adaptive norm constraints", NeurIPS 2021, https://arxiv.org/abs/2102.12827 (Algorithm 1)."""

import math

import torch
from torch import Tensor

from stages.attacks.batches import per_sample
from stages.attacks.distances import TINY, length, unit
from stages.attacks.losses import margin
from stages.attacks.minimal_norm import Search

LAST = 0.01  # of a decaying step size: what is left of it in the end
LEAST_GAP = 1e-4  # of the largest logit; a step that closes less may be lost in rounding


def adapt_norm_constraint(search: Search, *, steps: int, step_size: float, gamma: float) -> None:
    """Climb the margin inside a ball that shrinks after each error and grows after each point that is classified right.

    Distances are in the norm of the search, l2 or linf.
    step_size: the L2 length of the first step, in input units. gamma: by how much the first change of the ball's radius
    changes it, as a share. Both decay along a cosine.
    Until a sample's first error, its radius is where the linearized margin is 0. A deviation: there, too, the radius
    grows from step to step, by gamma, as clipping to [0, 1] shortens perturbations and the estimate starts from those.
    Passes a sample: `steps` forward and backward, and one more forward for the last point.
    """
    points, originals = search.inputs, search.inputs
    radii = torch.zeros(search.labels.shape, device=points.device)
    for step in range(steps):
        logits, gradient = search.gradient(points, margin)
        rate = cosine_decay(gamma, step, steps)
        shrunk = torch.minimum(radii * (1 - rate), search.distance.float())
        reaching = torch.maximum(radii * (1 + gamma), linearized_distance(search, points, logits, gradient))
        grown = torch.where(search.found, radii * (1 + rate), reaching)
        radii = torch.where(search.wrong(logits), shrunk, grown)
        ahead = points + cosine_decay(step_size, step, steps) * unit(gradient)
        points = (originals + shortened(ahead - originals, radii, search.norm)).clamp(0, 1)
    search.logits(points)


def linearized_distance(search: Search, points: Tensor, logits: Tensor, gradient: Tensor) -> Tensor:
    """How far from the originals the margin vanishes, [N], were it linear from the points on (line 6 of Algorithm 1).

    points: [N, ...], with their logits [N, K] and the gradient [N, ...] there.
    """
    order, dual = {"l2": (2, 2), "linf": (torch.inf, 1)}[search.norm]
    gap = torch.maximum(margin(logits, search.labels).abs(), LEAST_GAP * logits.abs().amax(1))
    return length(points - search.inputs, order) + gap / length(gradient, dual).clamp_min(TINY)


def cosine_decay(first: float, step: int, steps: int) -> float:
    """A step size that falls from `first` to `LAST` times that along half a cosine."""
    return first * (LAST + (1 - LAST) * (1 + math.cos(math.pi * step / steps)) / 2)


def shortened(change: Tensor, radii: Tensor, norm: str) -> Tensor:
    """The projection of [N, ...] onto balls around 0 with radii [N]."""
    if norm == "linf":
        reach = per_sample(radii, change)
        return change.clamp(-reach, reach)
    return change * per_sample((radii / length(change).clamp_min(TINY)).clamp(max=1), change)
