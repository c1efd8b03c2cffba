"""Projected gradient descent in the Euclidean norm: Madry, Makelov, Schmidt, Tsipras and Vladu, "Towards deep learning
models resistant to adversarial attacks", ICLR 2018, https://arxiv.org/abs/1706.06083 (section 2.1, appendix F)."""

from typing import Literal

import torch
from torch import Tensor

from stages.attacks.gradient_ascent import attack_each_epsilon
from stages.attacks.losses import LOSSES
from stages.attacks.pgd import projected_runs
from stages.attacks.result import AttackResult
from stages.classifier import Classifier
from stages.knobs import Count, Positive

NORM = "l2"
THREAT = "white_box"
ITERATIVE = True
BUDGET = ("steps",)  # what twice the effort doubles


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
    restarts: Count = 1,
    keep_best: bool = True,
    loss: Literal["cross_entropy", "margin", "dlr"] = "cross_entropy",
    scale_logits: bool = False,
    stop_when_broken: bool = False,
) -> AttackResult:
    """Repeat steps of one length along the loss's gradient, projected onto the ball and [0, 1] after each.

    inputs: float32 [N, ...] in [0, 1]. labels: int64 [N]. epsilons: [E] or [E, N], at least 0, in input units.
    Settings and passes are those of pgd; the direction and the length of a random start are uniform draws.
    Raises ValueError if inputs are outside [0, 1], or if an epsilon is negative or not finite.
    """
    return attack_each_epsilon(
        projected_runs(
            steps=steps,
            step_size=step_size,
            random_start=random_start,
            restarts=restarts,
            keep_best=keep_best,
            loss=LOSSES[loss],
            scale_logits=scale_logits,
        ),
        classifier,
        inputs,
        labels,
        norm=NORM,
        epsilons=epsilons,
        generator=generator,
        stop_when_broken=stop_when_broken,
    )
