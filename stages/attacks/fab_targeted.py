"""Targeted fast adaptive boundary attack (FAB-T): Croce and Hein, "Minimally distorted adversarial examples with a fast
adaptive boundary attack", ICML 2020, https://arxiv.org/abs/1907.02044 (Algorithm 1), toward each class as in
AutoAttack, https://arxiv.org/abs/2003.01690 (section 5)."""

from functools import partial

import torch
from torch import Tensor

from stages.attacks.batches import per_sample, where
from stages.attacks.distances import length
from stages.attacks.losses import likeliest_wrong_classes, margin, margin_of
from stages.attacks.minimal_norm import Search, attack_nearest
from stages.attacks.result import AttackResult
from stages.classifier import Classifier
from stages.knobs import Count

NORM = "linf"
THREAT = "white_box"
ITERATIVE = True
BUDGET = ("steps",)  # what twice the effort doubles

# The paper's settings for all data sets and norms.
LARGEST_BIAS = 0.1  # alpha_max: the share of the step toward the original's own projection
OVERSHOOT = 1.05  # eta: steps are this much longer than the distance to the linearized boundary
BACKWARD_STEP = 0.9  # beta: where a point errs, the walk goes on this share of the way from the original to it
LAST_STEPS = 3  # of the final search

TINY = 1e-12  # a gradient, or a distance, of 0


def attack(
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    steps: Count = 100,
    targets: Count = 9,
) -> AttackResult:
    """Walk along the boundary to each of the likeliest wrong classes, drawn toward the original, and keep the nearest.

    inputs: float32 [N, ...] in [0, 1]. labels: int64 [N].
    steps: how many toward each class. targets: how many classes, at most all that are wrong, those with the highest
    logits on the original first. All start at the original; nothing is random.
    Passes a sample: one forward to see whether the classifier is right, one to rank the classes, then
    `steps * targets` backward and twice as many forward, and 4 forward for the final search.
    Raises ValueError if an input is outside [0, 1].
    """
    walk = partial(walk_along_boundaries, steps=steps, targets=targets)
    return attack_nearest(walk, classifier, inputs, labels, norm=NORM, generator=generator)


def walk_along_boundaries(search: Search, generator: torch.Generator, *, steps: int, targets: int) -> None:
    """Algorithm 1 toward the likeliest wrong classes of each sample, all at once: M points, one a sample and class."""
    logits_of_originals = search.logits(search.inputs)
    target = likeliest_wrong_classes(logits_of_originals, search.labels)[:, :targets]
    samples = torch.arange(len(target), device=target.device).repeat_interleave(target.shape[1])
    target, labels = target.flatten(), search.labels[samples]
    points = originals = search.inputs[samples]
    for _ in range(steps):
        logits, gradient = search.gradient(points, margin_of, samples, target)
        # The boundary of the classifier linearized at the points, from there and from the originals.
        gap = margin_of(logits, labels, target)
        own_gap = gap + ((originals - points) * gradient).flatten(1).sum(1)
        step, own_step = step_onto_hyperplane(points, gap, gradient), step_onto_hyperplane(originals, own_gap, gradient)
        size, own_size = length(step, torch.inf), length(own_step, torch.inf)
        bias = per_sample((size / (size + own_size).clamp_min(TINY)).clamp(max=LARGEST_BIAS), points)
        ahead = (1 - bias) * (points + OVERSHOOT * step) + bias * (originals + OVERSHOOT * own_step)
        points = ahead.clamp(0, 1)
        wrong = search.logits(points, samples).argmax(1) != labels
        points = where(wrong, originals + BACKWARD_STEP * (points - originals), points)
    search_between(search, margin(logits_of_originals, search.labels))


def step_onto_hyperplane(points: Tensor, gap: Tensor, gradient: Tensor) -> Tensor:
    """The least step [M, ...] in the maximum norm, within [0, 1], that brings linear functions from `gap` [M] to 0.

    gradient: float32 [M, ...], of the functions. All values move by the same length but those that meet the end of
    their range, which leave more to the others (section 3.1). Where even all ends do not suffice, the step leads there,
    and where the gradient is 0, nowhere.
    """
    side = gradient.sign() * -per_sample(gap.sign(), points)
    room, slope = torch.where(side > 0, 1 - points, points), gradient.abs()
    reach = torch.zeros_like(gap)
    # What a reach gains is concave and piecewise linear in it, so that Newton's method comes from below, and is there
    # once no more values meet their ends.
    while True:
        free = room > per_sample(reach, points)
        slope_of_free = (slope * free).flatten(1).sum(1)
        missing = gap.abs() - (slope * room * ~free).flatten(1).sum(1)
        longer = (
            torch.where(slope_of_free > TINY, missing / slope_of_free.clamp_min(TINY), 1).clamp(max=1).maximum(reach)
        )
        if not (longer > reach).any():
            return side * torch.minimum(room, per_sample(reach, points))
        reach = longer


def search_between(search: Search, margins: Tensor) -> None:
    """The final search: where the margin should be 0 between the nearest point found and its original, by its secant.

    margins: float32 [N], those of the originals, negative.
    """
    samples = search.found.nonzero()[:, 0]
    if not len(samples):
        return
    labels = search.labels[samples]
    wrong, right, low = search.nearest[samples], search.inputs[samples], margins[samples]
    high = margin(search.logits(wrong, samples), labels)
    for _ in range(LAST_STEPS):
        share = per_sample(high / (high - low).clamp_min(TINY), wrong)
        between = wrong + share * (right - wrong)
        found = margin(search.logits(between, samples), labels)
        errs = found > 0
        wrong, high = where(errs, between, wrong), where(errs, found, high)
        right, low = where(errs, right, between), where(errs, low, found)
