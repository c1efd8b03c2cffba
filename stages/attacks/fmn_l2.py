"""Fast minimum-norm attack in the L2 norm: Pintor, Roli, Brendel and Biggio, "Fast minimum-norm adversarial attacks
through adaptive norm constraints", NeurIPS 2021, https://arxiv.org/abs/2102.12827 (Algorithm 1)."""

import torch
from torch import Tensor

from stages.attacks.fast_minimum_norm import adapt_norm_constraint
from stages.attacks.minimal_norm import Search, attack_nearest
from stages.attacks.result import AttackResult
from stages.classifier import Classifier
from stages.knobs import Count, Fraction, Positive

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
    step_size: Positive = 0.1,  # of 0.05 to 1 on validation images of CIFAR-10, best at 4 bits; in float all are alike
    gamma: Fraction = 0.1,
) -> AttackResult:
    """Climb the logit margin inside a ball that shrinks where the classifier errs and grows where it does not.

    inputs: float32 [N, ...] in [0, 1]. labels: int64 [N].
    steps: how many, for every sample. step_size: the L2 length of the first step, in input units.
    gamma: by how much the first step changes the radius of the ball, as a share of it.
    Step size and gamma, which the paper tunes for each network, decay to a hundredth along a cosine.
    Passes a sample: two forward, and one more forward and one backward for each step.
    Returns one row [1, N], with the input as it was and no success where nothing was found.
    Raises ValueError if an input is outside [0, 1].
    """

    def find(search: Search, draws: torch.Generator) -> None:
        adapt_norm_constraint(search, steps=steps, step_size=step_size, gamma=gamma)

    return attack_nearest(find, classifier, inputs, labels, norm=NORM, generator=generator)
