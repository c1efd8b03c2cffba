"""Carlini and Wagner's L2 attack: "Towards evaluating the robustness of neural networks", IEEE S&P 2017,
https://arxiv.org/abs/1608.04644 (section VI.A)."""

import torch
from torch import Tensor

from stages.attacks.batches import per_sample
from stages.attacks.carlini_wagner import (
    PROGRESS,
    Adam,
    bisect_constants,
    check_interval,
    from_tanh,
    shortfall,
    to_tanh,
)
from stages.attacks.minimal_norm import Search, attack_nearest
from stages.attacks.result import AttackResult
from stages.classifier import Classifier
from stages.knobs import Count, NonNegative, Positive

NORM = "l2"
THREAT = "white_box"
ITERATIVE = True
BUDGET = ("steps",)  # what twice the effort doubles
DECAY = 0.9  # of the learning rate in a descent: steps of one length leap about the nearest point


def attack(
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    steps: Count = 100,
    search_steps: Count = 9,
    learning_rate: Positive = 0.01,
    initial_constant: Positive = 0.01,
    confidence: NonNegative = 0.0,
) -> AttackResult:
    """Minimise the squared L2 distance + constant * f by Adam in tanh space, for constants found by bisection.

    inputs: float32 [N, ...] in [0, 1]. labels: int64 [N].
    steps: of Adam for each constant. search_steps: how many constants. learning_rate: of Adam, in
    tanh space, at the first step; for samples with a known adversarial point it falls to a tenth of it (in the paper it
    stays, and points end 3 % farther).
    initial_constant: the first one. confidence: by how much another logit has to exceed the label's (kappa).
    Every point on the way is a candidate. A sample leaves a descent when its loss has stalled for a tenth of the steps,
    10 at least, each by itself, so that none depends on the batch.
    Passes a sample, at most: `1 + search_steps * steps` forward, `1 + search_steps * (steps - 1)` backward, and one
    forward more that says whether it is right.
    Raises ValueError if an input is outside [0, 1].
    """

    def find(search: Search, generator: torch.Generator) -> None:
        loss = shortfall(confidence)
        start = to_tanh(search.inputs)
        _, first_gradient = search.gradient(search.inputs, loss)  # every descent begins there

        def descend(constants: Tensor) -> Tensor:
            met = torch.zeros_like(search.labels, dtype=torch.bool)
            samples = torch.arange(len(met), device=met.device)
            originals, labels, weights = search.inputs, search.labels, per_sample(constants, search.inputs)
            gradient, adam = first_gradient, Adam(start)
            points, derivatives = from_tanh(start)
            checked = torch.full_like(constants, torch.inf)
            for step in range(1, steps + 1):
                falling = DECAY * (step - 1) / steps * search.found[samples]
                rate = per_sample(learning_rate * (1 - falling), points)
                adam.step((2 * (points - originals) + weights * gradient) * derivatives, rate)
                points, derivatives = from_tanh(adam.variables)
                if step < steps:
                    logits, gradient = search.gradient(points, loss, samples)
                else:
                    logits = search.logits(points, samples)
                lacking = loss(logits, labels)
                met[samples] |= (logits.argmax(1) != labels) & (lacking == 0)
                if step % check_interval(steps) == 0:
                    value = (points - originals).flatten(1).square().sum(1) + weights.flatten() * lacking
                    going = value <= PROGRESS * checked
                    if not going.any():
                        break
                    adam.keep(going)
                    samples, originals, labels, weights, points, derivatives, gradient, checked = (
                        tensor[going]
                        for tensor in (samples, originals, labels, weights, points, derivatives, gradient, value)
                    )
            return met

        bisect_constants(search, descend, initial=initial_constant, search_steps=search_steps)

    return attack_nearest(find, classifier, inputs, labels, norm=NORM, generator=generator, confidence=confidence)
