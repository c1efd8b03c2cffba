"""HopSkipJump: Chen, Jordan and Wainwright, "HopSkipJumpAttack: a query-efficient decision-based attack", IEEE S&P
2020, https://arxiv.org/abs/1904.02144 (Algorithm 2, Euclidean norm)."""

import math

import torch
from torch import Tensor

from stages.attacks.batches import per_sample
from stages.attacks.decision_based import (
    boundary_normal,
    distances,
    halvings_for_probes,
    is_adversarial,
    start,
    to_boundary,
)
from stages.attacks.minimal_norm import Search, attack_nearest
from stages.attacks.result import AttackResult
from stages.classifier import Classifier
from stages.knobs import Count

NORM = "l2"
THREAT = "black_box"
ITERATIVE = False  # in gradient steps: none are taken here
BUDGET = ("iterations",)  # what twice the effort doubles

STEP_HALVINGS = 10  # of a step that does not end at an adversarial point


def attack(
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    iterations: Count = 10,
    initial_probes: Count = 100,
    start_tries: Count = 24,
) -> AttackResult:
    """Estimate the boundary's normal by queries, step along it, go back to the boundary, and again.

    inputs: float32 [N, ...] in [0, 1]. labels: int64 [N].
    iterations: how many such steps. initial_probes: queries for the first normal, of the t-th sqrt(t) times as many.
    start_tries: random images to choose the first adversarial point from.
    Only predicted classes are seen. Forward passes a sample: those for the normals, and for each step about 12 more.
    Unlike in the paper, probes are a tenth of the distance away from the point instead of a d-th, so that rounding does
    not hide them, and the start is the nearest of several (decision_based.py).
    Returns one row [1, N]. Raises ValueError if an input is outside [0, 1].
    """

    def find(search: Search, draws: torch.Generator) -> None:
        halvings = halvings_for_probes(search)
        points, samples = start(search, draws, start_tries)
        if not len(samples):
            return
        points = to_boundary(search, points, samples, halvings)
        for iteration in range(1, iterations + 1):
            count = int(initial_probes * math.sqrt(iteration))
            normal = boundary_normal(search, points, samples, count, draws)
            ahead = stepped(search, points, samples, normal, distances(search, points, samples) / math.sqrt(iteration))
            points = to_boundary(search, ahead, samples, halvings)

    return attack_nearest(find, classifier, inputs, labels, norm=NORM, generator=generator, gradients=False)


def stepped(search: Search, points: Tensor, samples: Tensor, normal: Tensor, size: Tensor) -> Tensor:
    """Points [M, ...] moved along the normal by `size` [M], halved until it ends at an adversarial point."""
    ahead = points.clone()
    waiting = torch.arange(len(points), device=points.device)
    for _ in range(STEP_HALVINGS):
        tried = (points[waiting] + per_sample(size[waiting], points) * normal[waiting]).clamp(0, 1)
        adversarial = is_adversarial(search, tried, samples[waiting])
        ahead[waiting[adversarial]] = tried[adversarial]
        waiting = waiting[~adversarial]
        if not len(waiting):
            break
        size = size / 2
    return ahead
