"""DeepFool in the L2 norm: Moosavi-Dezfooli, Fawzi and Frossard, "DeepFool: a simple and accurate method to fool deep
neural networks", CVPR 2016, https://arxiv.org/abs/1511.04599 (Algorithm 2)."""

import torch
from torch import Tensor

from stages.attacks.linearization import cross_linearized_boundaries
from stages.attacks.minimal_norm import Search, attack_nearest
from stages.attacks.result import AttackResult
from stages.classifier import Classifier
from stages.knobs import Count, NonNegative

NORM = "l2"
THREAT = "white_box"
ITERATIVE = True
BUDGET = ("steps",)  # what twice the effort doubles


def attack(
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    steps: Count = 100,
    overshoot: NonNegative = 0.02,
    candidates: Count = 10,
) -> AttackResult:
    """Step onto the nearest boundary of the linearized classifier and a little beyond, until the classifier errs.

    inputs: float32 [N, ...] in [0, 1]. labels: int64 [N].
    steps: how many at most; samples on which the classifier errs leave the batch.
    overshoot: what a step adds to the distance to the boundary, as a share of it.
    candidates: how many wrong classes are looked at, at most all, those with the highest logits where the step begins.
    The step is along the gradient of the chosen class's logit less that of the label.
    Passes a sample: one forward; then for each of its steps `candidates` backward and two forward.
    Returns one row [1, N], with the input as it was and no success where nothing was found.
    Raises ValueError if an input is outside [0, 1].
    """

    def find(search: Search, draws: torch.Generator) -> None:
        cross_linearized_boundaries(search, steps=steps, overshoot=overshoot, candidates=candidates)

    return attack_nearest(find, classifier, inputs, labels, norm=NORM, generator=generator)
