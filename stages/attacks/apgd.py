"""Auto-PGD: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks", ICML 2020, https://arxiv.org/abs/2003.01690 (section 3, Algorithm 1; the DLR loss: section 4)."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from stages.attacks.batches import where
from stages.attacks.gradient_ascent import Ascent, Found, attack_each_epsilon
from stages.attacks.losses import LOSSES, Loss
from stages.attacks.result import AttackResult
from stages.classifier import Classifier
from stages.knobs import Count, Fraction

NORM = "linf"
THREAT = "white_box"
ITERATIVE = True
BUDGET = ("steps",)  # what twice the effort doubles
MOMENTUM = 0.75  # alpha of Algorithm 1: the share of the new step


def attack(
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    epsilons: Tensor,
    generator: torch.Generator,
    steps: Count = 100,
    restarts: Count = 1,
    rho: Fraction = 0.75,
    loss: Literal["cross_entropy", "dlr"] = "cross_entropy",
    stop_when_broken: bool = False,
) -> AttackResult:
    """Climb with a step size that is halved where progress stalls, and keep the strongest point on the way.

    inputs: float32 [N, ...] in [0, 1]. labels: int64 [N]. epsilons: [E] or [E, N] in [0, 1], in input units.
    steps: how many, from a uniform draw from the ball. restarts: how many runs.
    rho: the share of steps that have to raise the loss for the step size to stay.
    loss: what is raised; dlr is the difference of logits ratio, for fewer than 3 classes the logit margin.
    stop_when_broken: samples leave the batch at the first point that errs, for sets that are never replayed.
    Passes a sample: `steps` backward and one more forward for each restart, of several another forward for each, and
    one for a sample that leaves.
    Raises ValueError if inputs or epsilons are outside [0, 1].
    """

    def runs(ascent: Ascent) -> Iterator[Tensor]:
        for _ in range(restarts):
            yield auto_pgd(ascent, LOSSES[loss], steps, rho)

    return attack_each_epsilon(
        runs,
        classifier,
        inputs,
        labels,
        norm=NORM,
        epsilons=epsilons,
        generator=generator,
        stop_when_broken=stop_when_broken,
    )


def auto_pgd(ascent: Ascent, loss: Loss, steps: int, rho: float) -> Tensor:
    """Algorithm 1 from a random start, each sample with its own step size: the strongest points [N, ...] on the way.

    Strongest is an error first, by the gradient view's logits, and then the highest loss. What the search itself goes
    back to is the highest loss, as in the paper. One forward more than `steps` forward and backward passes.
    """
    points = previous = ascent.random_start()
    unknown = torch.full(ascent.labels.shape, -torch.inf, device=points.device)
    here = strongest = highest = Found(points, torch.zeros_like(unknown, dtype=torch.bool), unknown)
    highest_gradient = torch.zeros_like(points)
    step_size = 2 * ascent.epsilons
    rises, halved, last_checkpoint, last_highest = torch.zeros_like(unknown), here.wrong, 0, unknown
    halving = checkpoints(steps)
    for step in ascent.steps(steps):
        before, (here, gradient) = here.loss, ascent.climb(points, loss)
        rises = rises + (here.loss > before)
        higher = here.loss > highest.loss
        highest, highest_gradient = highest.replaced(higher, here), where(higher, gradient, highest_gradient)
        strongest = strongest.or_stronger(here)
        if step in halving:
            too_few_rises = rises < rho * (step - last_checkpoint)  # condition 1
            no_progress = ~halved & (highest.loss == last_highest)  # condition 2
            halved = too_few_rises | no_progress
            step_size = where(halved, step_size / 2, step_size)
            here, gradient = here.replaced(halved, highest), where(halved, highest_gradient, gradient)
            points = here.points
            rises, last_checkpoint, last_highest = torch.zeros_like(rises), step, highest.loss
        ahead = ascent.project(points + step_size * ascent.steepest(gradient))
        if step > 0:
            ahead = ascent.project(points + MOMENTUM * (ahead - points) + (1 - MOMENTUM) * (points - previous))
        points, previous = ahead, points
    return strongest.or_stronger(ascent.look(points, loss)).points


def checkpoints(steps: int) -> list[int]:
    """The steps at which the step size may be halved, ascending from 0 (section 3).

    In whole percents of the steps: 0, 22, and gaps that shrink by 3 down to 6.
    """
    percents = [0, 22]
    while percents[-1] < 100:
        percents.append(percents[-1] + max(percents[-1] - percents[-2] - 3, 6))
    return [-(-percent * steps // 100) for percent in percents if percent <= 100]  # rounded up
