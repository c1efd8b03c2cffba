"""Gaussian noise: the control without an attacker in the Euclidean norm, after Fawzi, Moosavi-Dezfooli and Frossard,
"Robustness of classifiers: from adversarial to random noise", NeurIPS 2016, https://arxiv.org/abs/1608.08967."""

import torch
from torch import Tensor

from stages.attacks.distances import project_l2
from stages.attacks.result import AttackResult, checked_epsilons, judged
from stages.classifier import Classifier

NORM = "l2"
THREAT = "noise"
ITERATIVE = False


def attack(
    classifier: Classifier, inputs: Tensor, labels: Tensor, *, epsilons: Tensor, generator: torch.Generator
) -> AttackResult:
    """Add one Gaussian draw, scaled to length epsilon, and clip to [0, 1].

    inputs: float32 [N, ...] in [0, 1]. labels: int64 [N]. epsilons: [E] or [E, N] of at least 0, in input units; the
    perturbation is shorter where values are clipped.
    Every epsilon scales the same direction: accuracies at two epsilons differ by the noise's size alone.
    Raises ValueError if inputs are outside [0, 1], or if an epsilon is negative or not finite.
    """
    table = checked_epsilons(inputs, epsilons, NORM)
    draw = torch.randn(inputs.shape, generator=generator, dtype=torch.float64).to(inputs.device)
    direction = draw / torch.linalg.vector_norm(draw.flatten(1), dim=1).reshape(-1, *[1] * (inputs.ndim - 1))
    scales = table.reshape(*table.shape, *[1] * (inputs.ndim - 1))
    adversarial = torch.stack(
        [project_l2(inputs + scale * direction, inputs, row) for scale, row in zip(scales, table, strict=True)]
    )
    uncounted = torch.zeros(table.shape, dtype=torch.int64, device=inputs.device)
    return judged(classifier, adversarial, inputs, labels, norm=NORM, queries=uncounted, backwards=uncounted)
