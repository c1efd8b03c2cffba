"""Projected gradient descent: Madry, Makelov, Schmidt, Tsipras and Vladu, "Towards deep learning models resistant to
adversarial attacks", ICLR 2018, https://arxiv.org/abs/1706.06083 (section 2.1)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from stages.attacks.gradient_ascent import Ascent, attack_each_epsilon, cross_entropy
from stages.attacks.result import AttackResult
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
    restarts: Count = 1,
    keep_best: bool = True,
) -> AttackResult:
    """Repeat sign steps on the cross-entropy's gradient, projected onto the ball and [0, 1] after each.

    inputs: float32 [N, ...] in [0, 1]. labels: int64 [N]. epsilons: [E] or [E, N] in [0, 1], in input units.
    steps: how many. step_size: as a fraction of epsilon. random_start: begin at a uniform draw from the ball.
    restarts: how many runs; each sample keeps the one that ends in an error or else with the highest loss.
    keep_best: a run ends at the strongest point on its way, an error before none and then the highest loss, instead of
    at its last point as in the paper, since straight-through gradients of few bits do not climb steadily.
    Passes a sample: `restarts * steps` forward and backward, a forward for each run with `keep_best`, and with restarts
    one more forward for each.
    Raises ValueError if inputs or epsilons are outside [0, 1].
    """

    def runs(ascent: Ascent) -> Iterator[Tensor]:
        for _ in range(restarts):
            points = ascent.random_start() if random_start else ascent.inputs
            best = None
            for _ in range(steps):
                found, gradient = ascent.climb(points, cross_entropy)
                best = best.or_stronger(found) if best else found
                points = ascent.project(points + step_size * ascent.epsilons * gradient.sign())
            yield best.or_stronger(ascent.look(points, cross_entropy)).points if keep_best else points

    return attack_each_epsilon(runs, classifier, inputs, labels, epsilons=epsilons, generator=generator)
