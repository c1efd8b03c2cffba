"""Uniform noise: the control without an attacker, after Fawzi, Moosavi-Dezfooli and Frossard, "Robustness of
classifiers: from adversarial to random noise", NeurIPS 2016, https://arxiv.org/abs/1608.08967."""

import torch
from torch import Tensor

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
    noise = torch.rand(inputs.shape, generator=generator, dtype=torch.float64).to(inputs.device) * 2 - 1
    scales = table.reshape(*table.shape, *[1] * (inputs.ndim - 1))
    adversarial = torch.stack(
        [project_linf(inputs + scale * noise, inputs, row) for scale, row in zip(scales, table, strict=True)]
    )
    uncounted = torch.zeros(table.shape, dtype=torch.int64, device=inputs.device)
    return judged(classifier, adversarial, inputs, labels, norm=NORM, queries=uncounted, backwards=uncounted)
