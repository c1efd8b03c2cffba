"""Uniform noise: the control without an attacker, after Fawzi, Moosavi-Dezfooli and Frossard, "Robustness of
classifiers: from adversarial to random noise", NeurIPS 2016, https://arxiv.org/abs/1608.08967."""

from collections.abc import Callable

import torch
from torch import Tensor

from stages.attacks.batches import per_sample
from stages.attacks.distances import project_linf
from stages.attacks.result import AttackResult, checked_epsilons, judged
from stages.classifier import Classifier

NORM = "linf"
THREAT = "noise"
ITERATIVE = False


def attack(
    classifier: Classifier, inputs: Tensor, labels: Tensor, *, epsilons: Tensor, generator: torch.Generator
) -> AttackResult:
    """Add one uniform draw from the L-infinity ball, and clip to [0, 1].

    inputs: float32 [N, ...] in [0, 1]. labels: int64 [N]. epsilons: [E] or [E, N] in [0, 1], in input units.
    Every epsilon scales the same draw from the unit ball: accuracies at two epsilons differ by the noise's size alone.
    Raises ValueError if inputs or epsilons are outside [0, 1].
    """
    table = checked_epsilons(inputs, epsilons, NORM)
    draw = torch.rand(inputs.shape, generator=generator, dtype=torch.float64) * 2 - 1
    return with_noise(draw, project_linf, classifier, inputs, labels, norm=NORM, table=table)


def with_noise(
    draw: Tensor,
    project: Callable[[Tensor, Tensor, Tensor], Tensor],
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    norm: str,
    table: Tensor,
) -> AttackResult:
    """What one draw from the unit ball, float64 [N, ...], does at every epsilon of the table, float64 [E, N].

    project: onto the ball of the norm and [0, 1], of `distances.py`.
    """
    draw = draw.to(inputs.device)
    adversarial = torch.stack([project(inputs + per_sample(row, inputs) * draw, inputs, row) for row in table])
    uncounted = torch.zeros(table.shape, dtype=torch.int64, device=inputs.device)
    return judged(classifier, adversarial, inputs, labels, norm=norm, queries=uncounted, backwards=uncounted)
