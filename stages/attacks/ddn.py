"""Decoupled direction and norm: Rony, Hafemann, Oliveira, Ben Ayed, Sabourin and Granger, "Decoupling direction and
norm for efficient gradient-based L2 adversarial attacks and defenses", CVPR 2019, https://arxiv.org/abs/1811.09600."""

import torch
from torch import Tensor

from stages.attacks.batches import per_sample
from stages.attacks.distances import unit
from stages.attacks.fast_minimum_norm import cosine_decay, linearized_distance
from stages.attacks.losses import Loss, without_label
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
    initial_epsilon: Positive = 1.0,
    gamma: Fraction = 0.05,
) -> AttackResult:
    """Climb on a sphere around the input whose radius shrinks where the classifier errs and grows where it does not.

    inputs: float32 [N, ...] in [0, 1]. labels: int64 [N].
    steps: how many, for every sample, along the gradient scaled to an L2 norm that decays from 1 to 0.01.
    initial_epsilon: the first radius at most, in input units. gamma: by how much a step changes it, as a share.
    Deviations from the paper's Algorithm 1: perturbations are not rounded to 8 bits. Until the first error the radius
    is at least where the linearized margin vanishes, if that is below `initial_epsilon`: from 1, a hundred steps of 5 %
    would reach no smaller distance than 0.006. And the cross-entropy gradually turns into the logit margin, since where
    it is highest on a sphere many classes are near, and not one is nearest.
    Passes a sample: two forward, and one more forward and one backward for each step.
    Returns one row [1, N], with the input as it was and no success where nothing was found.
    Raises ValueError if an input is outside [0, 1].
    """

    def find(search: Search, draws: torch.Generator) -> None:
        points, originals = search.inputs, search.inputs
        radii = torch.zeros(search.labels.shape, device=points.device)
        for step in range(steps):
            step_size = cosine_decay(1, step, steps)
            logits, gradient = search.gradient(points, log_odds(sharpness=1 / step_size))
            radii = radii * torch.where(search.wrong(logits), 1 - gamma, 1 + gamma)
            reach = linearized_distance(search, points, logits, gradient).clamp(max=initial_epsilon)
            radii = torch.where(search.found, radii, torch.maximum(radii, reach))
            change = points - originals + step_size * unit(gradient)
            points = (originals + per_sample(radii, change) * unit(change)).clamp(0, 1)
        search.logits(points)

    return attack_nearest(find, classifier, inputs, labels, norm=NORM, generator=generator)


def log_odds(sharpness: float) -> Loss:
    """The logarithm of the odds against the label of logits that are `sharpness` times as large, over the sharpness.

    At 1 its gradient has the direction of the cross-entropy's, which is the softplus of this, and does not vanish where
    the softmax is sure of the label. At infinity this is the logit margin.
    """

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        others = without_label(logits, labels)
        return (sharpness * others).logsumexp(1) / sharpness - logits.gather(1, labels[:, None])[:, 0]

    return loss
