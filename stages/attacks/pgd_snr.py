"""Projected gradient descent with a signal-to-noise ratio as its budget: `pgd_l2`, each clip in a ball of its own."""

from typing import Literal

import torch
from torch import Tensor

from stages.attacks import pgd_l2
from stages.attacks.result import AttackResult
from stages.attacks.signal_to_noise import radii
from stages.classifier import Classifier
from stages.knobs import Count, Positive

NORM = "snr"
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
    """As pgd_l2, around clips of sound: float32 [N, 1, 1, T] in [0, 1], with silence in the middle.

    epsilons: [E] or [E, N], in dB. Settings and passes are those of pgd_l2; distances are L2, in input units.
    """
    return pgd_l2.attack(
        classifier,
        inputs,
        labels,
        epsilons=radii(inputs, epsilons),
        generator=generator,
        steps=steps,
        step_size=step_size,
        random_start=random_start,
        restarts=restarts,
        keep_best=keep_best,
        loss=loss,
        scale_logits=scale_logits,
        stop_when_broken=stop_when_broken,
    )
