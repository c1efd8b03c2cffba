"""Fast gradient sign method: Goodfellow, Shlens and Szegedy, "Explaining and harnessing adversarial examples", ICLR
2015, https://arxiv.org/abs/1412.6572 (section 4)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from stages.attacks.gradient_ascent import Ascent, attack_each_epsilon
from stages.attacks.losses import cross_entropy
from stages.attacks.result import AttackResult
from stages.classifier import Classifier

NORM = "linf"
THREAT = "white_box"
ITERATIVE = False


def attack(
    classifier: Classifier, inputs: Tensor, labels: Tensor, *, epsilons: Tensor, generator: torch.Generator
) -> AttackResult:
    """Take one step of size epsilon along the sign of the cross-entropy's gradient, and clip to [0, 1].

    inputs: float32 [N, ...] in [0, 1]. labels: int64 [N]. epsilons: [E] or [E, N] in [0, 1], in input units.
    One forward and one backward pass a sample.
    Raises ValueError if inputs or epsilons are outside [0, 1].
    """

    def runs(ascent: Ascent) -> Iterator[Tensor]:
        _, gradient = ascent.climb(ascent.inputs, cross_entropy)
        yield ascent.project(ascent.inputs + ascent.epsilons * ascent.steepest(gradient))

    return attack_each_epsilon(runs, classifier, inputs, labels, norm=NORM, epsilons=epsilons, generator=generator)
