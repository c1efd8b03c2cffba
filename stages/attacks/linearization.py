"""The walk over linearized classifiers that DeepFool takes: Moosavi-Dezfooli, Fawzi and Frossard, "DeepFool: a simple
and accurate method to fool deep neural networks", CVPR 2016, https://arxiv.org/abs/1511.04599 (Algorithm 2; the maximum
norm: section 3.3)."""

from typing import NamedTuple

import torch
from torch import Tensor

from stages.attacks.batches import per_sample, where
from stages.attacks.distances import length, unit
from stages.attacks.losses import Loss, margin, without_label
from stages.attacks.minimal_norm import Search

LEAST_DISTANCE = 1e-5  # in input units; a shorter step may be lost in rounding
LONGER = 1.1  # by how much; twice as long went beyond the nearest errors, by 5 % at 4 bits
TINY = 1e-12  # what a gradient of 0 counts as, so that it leads nowhere


class Step(NamedTuple):
    """How far it is to a linearized boundary, float32 [N] in the norm, and the step [N, ...] that leads there."""

    distance: Tensor
    change: Tensor


def cross_linearized_boundaries(search: Search, *, steps: int, overshoot: float, candidates: int) -> None:
    """Step from each sample onto the nearest boundary of the linearized classifier, until the classifier errs.

    Distances are in the norm of the search, l2 or linf. A step is `overshoot` longer than the distance, as a share.
    candidates: how many other classes are looked at, those with the highest logits.
    What [0, 1] clips off a step is left to the next one. Where many values are clipped this takes many small steps, but
    to leave out the values that cannot move, and so go further with the others, ends 6 to 10 % farther away. After a
    step that closed less than half of what was left, as many do there and on the plateaus of quantized networks, the
    next one is longer. A sample is done when the classifier errs on it, or when none of its values can move.
    Passes a step: one backward for each class, and two forward, as one without a gradient says which samples go on.
    """
    points, samples = search.inputs, torch.arange(len(search.labels), device=search.labels.device)
    stretch = torch.ones(search.labels.shape, device=points.device)
    for _ in range(steps):
        logits, gradients = search.gradients(points, excesses(candidates), samples)
        gaps = -excesses(candidates)(logits, search.labels[samples])
        step = nearest_step(gaps, gradients, search.norm)
        ahead = (points + (1 + overshoot) * per_sample(stretch, points) * step.change).clamp(0, 1)
        logits_ahead = search.logits(ahead, samples)
        going_on = ~search.wrong(logits_ahead, samples) & (ahead != points).flatten(1).any(1)
        slow = margin(logits_ahead, search.labels[samples]) <= margin(logits, search.labels[samples]) / 2
        stretch = torch.where(slow, LONGER * stretch, 1)
        points, samples, stretch = (kept[going_on] for kept in (ahead, samples, stretch))
        if not len(samples):
            break


def excesses(candidates: int) -> Loss:
    """How far the highest logits of other classes are above the label's: [N, `candidates`], at most all others."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        others = without_label(logits, labels)
        return others.topk(min(candidates, logits.shape[1] - 1)).values - logits.gather(1, labels[:, None])

    return loss


def nearest_step(gaps: Tensor, gradients: list[Tensor], norm: str) -> Step:
    """The shortest of the steps that close the gaps [N, C], each along its gradient, one of C [N, ...] (equation 8)."""
    nearest = Step(torch.full_like(gaps[:, 0], torch.inf), torch.zeros_like(gradients[0]))
    for gap, gradient in zip(gaps.unbind(1), gradients, strict=True):
        step = step_across(gap, gradient, norm)
        nearer = step.distance < nearest.distance
        nearest = Step(*(where(nearer, new, old) for new, old in zip(step, nearest, strict=True)))
    return nearest


def step_across(gap: Tensor, gradient: Tensor, norm: str) -> Step:
    """The step of least norm that raises linear functions by `gap` [N], given their gradients [N, ...].

    Its length is the gap over the dual norm of the gradient, its direction where the gradient gains most in that norm.
    """
    dual = length(gradient, {"l2": 2, "linf": 1}[norm])
    distance = torch.where(dual > TINY, (gap / dual).clamp_min(LEAST_DISTANCE), torch.inf)
    reach = per_sample(distance.nan_to_num(posinf=0), gradient)
    return Step(distance, reach * (gradient.sign() if norm == "linf" else unit(gradient)))
