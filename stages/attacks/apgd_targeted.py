"""Targeted Auto-PGD: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", ICML 2020, https://arxiv.org/abs/2003.01690 (section 4)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from stages.attacks.apgd import auto_pgd
from stages.attacks.gradient_ascent import Ascent, attack_each_epsilon
from stages.attacks.losses import TINY, Loss, likeliest_wrong_classes, margin_of
from stages.attacks.result import AttackResult
from stages.classifier import Classifier
from stages.knobs import Count, Fraction

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
    steps: Count = 100,
    restarts: Count = 1,
    rho: Fraction = 0.75,
    targets: Count = 9,
    stop_when_broken: bool = False,
) -> AttackResult:
    """Auto-PGD toward each of the likeliest wrong classes in turn, on the targeted difference of logits ratio.

    inputs: float32 [N, ...] in [0, 1]. labels: int64 [N]. epsilons: [E] or [E, N] in [0, 1], in input units.
    steps, restarts, rho: as in apgd, for each target.
    targets: how many classes, at most all that are wrong, those with the highest logits on the original first.
    For fewer than 4 classes, the loss is the margin of the target over the label.
    stop_when_broken: samples leave the batch at the first point that errs, for sets that are never replayed.
    Passes a sample: one forward to rank the classes; then as apgd with `targets * restarts` restarts.
    Raises ValueError if inputs or epsilons are outside [0, 1].
    """

    def runs(ascent: Ascent) -> Iterator[Tensor]:
        for target in likeliest_wrong_classes(ascent.logits(ascent.inputs), ascent.labels)[:, :targets].unbind(1):
            for _ in range(restarts):
                yield auto_pgd(ascent, targeted_loss(target), steps, rho)

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


def targeted_loss(target: Tensor) -> Loss:
    """The targeted difference of logits ratio toward the classes int64 [N], or with fewer than 4 classes the margin.

    How far the target's logit is above the label's, in units of the gap between the first and the mean of the third and
    fourth highest logit.
    """

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        margin = margin_of(logits, labels, target)
        if logits.shape[1] < 4:
            return margin
        highest = logits.topk(4).values
        return margin / (highest[:, 0] - highest[:, 2:].mean(1)).clamp_min(TINY)

    return loss
