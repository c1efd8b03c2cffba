"""Gaussian noise: the control without an attacker in the Euclidean norm, after Fawzi, Moosavi-Dezfooli and Frossard,
"Robustness of classifiers: from adversarial to random noise", NeurIPS 2016, https://arxiv.org/abs/1608.08967."""

import torch
from torch import Tensor

from stages.attacks.distances import project_l2, unit
from stages.attacks.draws import gaussian
from stages.attacks.noise import with_noise
from stages.attacks.result import AttackResult, checked_epsilons
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
    Every epsilon scales the same direction: accuracies at two epsilons differ by the noise's size alone. A sample's
    direction depends on its place in the batch alone.
    Raises ValueError if inputs are outside [0, 1], or if an epsilon is negative or not finite.
    """
    table = checked_epsilons(inputs, epsilons, NORM)
    direction = unit(gaussian(len(inputs), inputs.shape[1:], generator, torch.float64))
    return with_noise(direction, project_l2, classifier, inputs, labels, norm=NORM, table=table)
