"""Projected gradient descent: Madry, Makelov, Schmidt, Tsipras and Vladu, "Towards deep learning models resistant to
adversarial attacks", ICLR 2018, https://arxiv.org/abs/1706.06083 (section 2.1)."""

import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from stages.attacks.gradient_ascent import Ascent, attack_each_epsilon
from stages.attacks.losses import LOSSES, TINY, Loss
from stages.attacks.result import AttackResult
from stages.classifier import Classifier
from stages.knobs import Count, Positive

NORM = "linf"
THREAT = "white_box"
ITERATIVE = True
BUDGET = ("steps",)  # what twice the effort doubles

ERROR_SIGNAL = 0.01  # rho of Gupta and Ajanthan: how far the highest probability is below 1


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
    """Repeat sign steps on the loss's gradient, projected onto the ball and [0, 1] after each.

    inputs: float32 [N, ...] in [0, 1]. labels: int64 [N]. epsilons: [E] or [E, N] in [0, 1], in input units.
    steps: how many. step_size: as a fraction of epsilon. random_start: begin at a uniform draw from the ball.
    restarts: how many runs; each sample keeps the one that ends in an error or else with the highest cross-entropy.
    keep_best: a run ends at the strongest point on its way, an error before none and then the highest loss, instead of
    at its last point as in the paper, since straight-through gradients of few bits do not climb steadily.
    loss: what is raised; margin is that of the logits, dlr the difference of logits ratio.
    scale_logits: divide each sample's logits by a temperature at which the cross-entropy's gradient does not vanish,
    see `at_temperature`; the steps on the other losses do not see it.
    stop_when_broken: samples leave the batch at the first point that errs, for sets that are never replayed.
    Passes a sample: `restarts * steps` forward and backward, a forward for each run with `keep_best`, with restarts
    one more forward for each, one with `scale_logits`, and one for a sample that leaves.
    Raises ValueError if inputs or epsilons are outside [0, 1].
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


def projected_runs(
    *,
    steps: int,
    step_size: float,
    random_start: bool,
    restarts: int,
    keep_best: bool,
    loss: Loss,
    scale_logits: bool,
) -> Callable[[Ascent], Iterator[Tensor]]:
    """The runs of projected gradient descent in the norm of an ascent; settings as of `attack`."""

    def runs(ascent: Ascent) -> Iterator[Tensor]:
        raised = at_temperature(loss, ascent.logits(ascent.inputs)) if scale_logits else loss
        for _ in range(restarts):
            points = ascent.random_start() if random_start else ascent.inputs
            best = None
            for _ in ascent.steps(steps):
                found, gradient = ascent.climb(points, raised)
                best = best.or_stronger(found) if best else found
                points = ascent.project(points + step_size * ascent.epsilons * ascent.steepest(gradient))
            yield best.or_stronger(ascent.look(points, raised)).points if keep_best else points

    return runs


def at_temperature(loss: Loss, logits: Tensor) -> Loss:
    """The loss of each sample's logits over a temperature at which its softmax is not saturated at these, [N, K].

    The gradient of the cross-entropy is that of the logits weighted by softmax minus label, which vanishes where one
    logit stands far above all others, as those of quantized networks often do. At this temperature, the same all along
    the way, the second class is `ERROR_SIGNAL` as likely as both together. Source: Gupta and Ajanthan, "Improved
    gradient based adversarial attacks for quantized networks", AAAI 2022, https://arxiv.org/abs/2003.13511, whose bound
    on the temperature is taken for each sample, from its two highest logits, and without a scaling of the network's
    Jacobian, since steps of a fixed length do not see its size.
    """
    first, second = logits.topk(2).values.unbind(1)
    gap = math.log(1 / ERROR_SIGNAL - 1)
    scale = gap / (first - second).clamp_min(TINY)
    return lambda logits, labels: loss(logits * scale[:, None], labels)
