"""Boundary attack: Brendel, Rauber and Bethge, "Decision-based adversarial attacks: reliable attacks against black-box
machine learning models", ICLR 2018, https://arxiv.org/abs/1712.04248 (Algorithm 1); the path that the walk follows is
that of Dong et al., "Efficient decision-based black-box adversarial attacks on face recognition", CVPR 2019,
https://arxiv.org/abs/1904.04433 (section 3.2)."""

import math

import torch
from torch import Tensor

from stages.attacks.batches import per_sample, where
from stages.attacks.decision_based import (
    LEVEL,
    ask,
    distances,
    halvings_for_probes,
    is_adversarial,
    probes,
    shrunk,
    start,
    to_boundary,
    without_noise,
)
from stages.attacks.distances import length, unit
from stages.attacks.minimal_norm import Search, attack_nearest
from stages.attacks.result import AttackResult
from stages.classifier import Classifier
from stages.knobs import Count, Fraction, Positive

NORM = "l2"
THREAT = "black_box"
ITERATIVE = False  # in gradient steps: none are taken here
BUDGET = ("iterations",)  # what twice the effort doubles

LARGEST = 1.0  # step size, as a fraction of the distance
# Errors of a quantized network lie scattered along its boundary, and a walk that has come to a lone one cannot go on.
# Where the step around the original has become smaller than STUCK, the walk goes back by RETREAT, both as fractions of
# the distance.
STUCK, RETREAT = 0.01, 0.1


def attack(
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    iterations: Count = 500,
    delta: Positive = 0.1,
    epsilon: Positive = 1.0,
    trials: Count = 5,
    step_adaptation: Positive = 0.667,
    memory: Fraction = 0.98,
    start_tries: Count = 24,
) -> AttackResult:
    """Walk along the boundary at random, each step first around the original and then toward it.

    inputs: float32 [N, ...] in [0, 1]. labels: int64 [N].
    iterations: how many steps, of which each sample takes those that end at an adversarial point.
    delta: the size at first of the step around the original, as a fraction of the distance to it. epsilon: that of the
    step toward it. Both grow where they succeed and are multiplied by `step_adaptation` where they do not.
    trials: random perturbations around the original that are asked about in each iteration.
    memory: how much of its direction the walk keeps from one iteration to the next.
    start_tries: random images to choose the first adversarial point from.
    Only predicted classes are seen. Forward passes a sample: at most `trials + 3` for each iteration.
    Unlike in the paper, the walk does not take one random perturbation but the way that all asked about so far point
    to, toward those that were adversarial and away from the others; and where it is stuck, it goes back a little.
    Returns one row [1, N]. Raises ValueError if an input is outside [0, 1].
    """

    def find(search: Search, draws: torch.Generator) -> None:
        points, samples = start(search, draws, start_tries)
        if not len(samples):
            return
        points = to_boundary(search, points, samples, halvings_for_probes(search))
        around = torch.full((len(points),), delta, device=points.device)
        toward = torch.full_like(around, epsilon)
        probing = torch.full_like(around, delta)
        path, weight = torch.zeros_like(points), torch.zeros_like(around)
        least = LEVEL / 4 * math.sqrt(points[0].numel())
        for _ in range(iterations):
            reach = distances(search, points, samples)
            directions = probes(search, trials, draws)[samples]
            answers = ask(search, points, samples, (probing * reach).clamp_min(least), directions)
            share = answers.mean(1)
            probing = adapted(probing, share >= 0, step_adaptation)
            path = memory * path + torch.einsum("mk,mk...->m...", answers, directions)
            weight = memory**2 * weight + trials
            step = per_sample(around * reach, points) * unit(without_noise(path, weight))
            beside = around_original(search, points, samples, step)
            nearer = shrunk(search, beside, samples, 1 - toward)
            both = is_adversarial(search, nearer, samples)
            points = where(both, nearer, points)
            rest = (~both).nonzero()[:, 0]
            alone = both.clone()
            alone[rest] = is_adversarial(search, beside[rest], samples[rest])
            points[rest] = where(alone[rest], beside[rest], points[rest])
            around = adapted(around, alone, step_adaptation)
            toward = torch.where(alone, adapted(toward, both, step_adaptation), toward)
            stuck = (around < STUCK).nonzero()[:, 0]
            if len(stuck):
                retreat = shrunk(search, points[stuck], samples[stuck], torch.full_like(around[stuck], 1 + RETREAT))
                safe = is_adversarial(search, retreat, samples[stuck])
                points[stuck] = where(safe, retreat, points[stuck])
                around[stuck], toward[stuck] = delta, RETREAT

    return attack_nearest(find, classifier, inputs, labels, norm=NORM, generator=generator, gradients=False)


def around_original(search: Search, points: Tensor, samples: Tensor, step: Tensor) -> Tensor:
    """Points [M, ...] moved by `step` [M, ...] and then brought back to their distance from the original."""
    originals, moved = search.inputs[samples], points + step
    scale = distances(search, points, samples) / length(moved - originals).clamp_min(1e-30)
    return (originals + per_sample(scale, points) * (moved - originals)).clamp(0, 1)


def adapted(size: Tensor, succeeded: Tensor, factor: float) -> Tensor:
    """Step sizes [M], divided by the factor where the step succeeded and else multiplied by it."""
    return torch.where(succeeded, size / factor, size * factor).clamp(max=LARGEST)
