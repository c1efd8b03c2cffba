"""Projected gradient descent toward confident errors, for classifiers that reject what they are uncertain about.

A detector by uncertainty lets through what a network is sure of, and an attacker who only crosses the boundary stops
where it is the least sure. Raised is therefore the probability of the likeliest wrong class: up to one half that makes
the error, and above it takes away the entropy, and with it the mutual information of passes, which is never more.
Carlini and Wagner, "Adversarial examples are not easily detected", AISec 2017, https://arxiv.org/abs/1705.07263, break
detectors by attacks that know of them.
"""

import torch
from torch import Tensor

from stages.attacks.gradient_ascent import attack_each_epsilon
from stages.attacks.losses import without_label
from stages.attacks.pgd import projected_runs
from stages.attacks.result import AttackResult
from stages.classifier import Classifier
from stages.knobs import Count, Positive

NORM = "linf"
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
    steps: Count = 20,
    step_size: Positive = 0.1,
    random_start: bool = True,
    restarts: Count = 1,
    keep_best: bool = True,
) -> AttackResult:
    """Sign steps on the gradient of the likeliest wrong class's log-probability, projected onto the ball after each.

    inputs: float32 [N, ...] in [0, 1]. labels: int64 [N]. epsilons: [E] or [E, N] in [0, 1], in input units.
    steps: how many. step_size: as a fraction of epsilon. random_start: begin at a uniform draw from the ball.
    restarts: how many runs; each sample keeps the one that ends in an error or else with the highest cross-entropy.
    keep_best: a run ends at the error on its way of which the classifier was the surest, instead of at its last point.
    Passes a sample: `restarts * (steps + 1)` forward and `restarts * steps` backward, with restarts one more forward
    for each. Success is an error, whether or not it is rejected: scores say both.
    Raises ValueError if inputs or epsilons are outside [0, 1].
    """
    runs = projected_runs(
        steps=steps,
        step_size=step_size,
        random_start=random_start,
        restarts=restarts,
        keep_best=keep_best,
        loss=confidence_in_an_error,
        scale_logits=False,
    )
    return attack_each_epsilon(runs, classifier, inputs, labels, norm=NORM, epsilons=epsilons, generator=generator)


def confidence_in_an_error(logits: Tensor, labels: Tensor) -> Tensor:
    """The logarithm [N] of the probability of the likeliest class that is not the label."""
    return without_label(logits.log_softmax(1), labels).amax(1)
