"""Projected gradient descent: Madry, Makelov, Schmidt, Tsipras and Vladu, "Towards deep learning models resistant to
adversarial attacks", ICLR 2018, https://arxiv.org/abs/1706.06083 (section 2.1)."""

import torch
import torchattacks
from torch import Tensor, nn

from stages.attacks.result import AttackResult
from stages.attacks.torchattacks_adapter import attack_each_epsilon
from stages.classifier import Classifier
from stages.knobs import Count, Positive

NORM = "linf"
THREAT = "white_box"
ITERATIVE = True


def attack(
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    epsilons: Tensor,
    generator: torch.Generator,
    steps: Count = 10,
    step_size: Positive = 0.25,
    random_start: bool = True,
) -> AttackResult:
    """Repeat sign steps on the cross-entropy's gradient, projected onto the ball and [0, 1] after each.

    inputs: float32 [N, ...] in [0, 1]. labels: int64 [N]. epsilons: [E] or [E, N] in [0, 1], in input units.
    steps: how many. step_size: as a fraction of epsilon. random_start: begin at a uniform draw from the ball.
    Raises ValueError if inputs or epsilons are outside [0, 1].
    """

    def build(module: nn.Module, epsilon: float) -> torchattacks.PGD:
        return torchattacks.PGD(module, epsilon, alpha=step_size * epsilon, steps=steps, random_start=random_start)

    return attack_each_epsilon(build, classifier, inputs, labels, epsilons=epsilons, generator=generator)
