"""EAD, elastic-net attacks: Chen, Sharma, Zhang, Yi and Hsieh, "EAD: elastic-net attacks to deep neural networks via
adversarial examples", AAAI 2018, https://arxiv.org/abs/1709.04114 (Algorithm 1, equations 5 to 8)."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from stages.attacks.batches import per_sample
from stages.attacks.carlini_wagner import PROGRESS, bisect_constants, check_interval, shortfall
from stages.attacks.distances import l1, l2
from stages.attacks.minimal_norm import Search, attack_nearest
from stages.attacks.result import AttackResult
from stages.classifier import Classifier
from stages.knobs import Count, NonNegative, Positive

NORM = "l1"
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
    search_steps: Count = 9,
    learning_rate: Positive = 0.01,
    initial_constant: Positive = 0.01,
    beta: NonNegative = 0.003,
    rule: Literal["l1", "elastic_net"] = "l1",
    momentum: bool = True,
    confidence: NonNegative = 0.0,
) -> AttackResult:
    """Minimise constant * f + the squared L2 distance + beta * the L1 distance by FISTA, for constants by bisection.

    inputs: float32 [N, ...] in [0, 1]. labels: int64 [N].
    steps: of shrinkage-thresholding for each constant. search_steps: how many constants.
    learning_rate: the first step size; it falls with the square root of the steps that are left.
    initial_constant: the first one. confidence: by how much another logit has to exceed the label's (kappa).
    beta: what L1 weighs, and the change below which a value stays as it is. The paper has 0.001; more is sparser.
    rule: which of the adversarial points is kept, the nearest in L1 or the one of least elastic-net distance, which is
    the squared L2 distance + beta * the L1 distance. The result's distance is L1 with both.
    momentum: FISTA, else ISTA, which with few steps ends nearer by the elastic-net rule, and farther in L1.
    FISTA has two points a step, the iterate and the one ahead of it by momentum. Only the latter is looked at, for its
    gradient and as a candidate at once (it is as sparse), clipped to [0, 1]; the last iterate is looked at as well.
    A sample leaves a descent when its loss has stalled for a tenth of the steps, 10 at least, each by itself.
    Passes a sample, at most: `1 + search_steps * steps` forward, `1 + search_steps * (steps - 1)` backward, and one
    forward more that says whether it is right.
    Raises ValueError if an input is outside [0, 1].
    """
    elastic_net = partial(elastic_net_distance, beta=beta)

    def find(search: Search, generator: torch.Generator) -> None:
        loss = shortfall(confidence)
        _, first_gradient = search.gradient(search.inputs, loss)  # every descent begins there

        def descend(constants: Tensor) -> Tensor:
            met = torch.zeros_like(search.labels, dtype=torch.bool)
            samples = torch.arange(len(met), device=met.device)
            originals, labels, weights = search.inputs, search.labels, per_sample(constants, search.inputs)
            iterate = ahead = originals
            gradient, checked = first_gradient, torch.full_like(constants, torch.inf)
            for step in range(1, steps + 1):
                rate = learning_rate * (1 - (step - 1) / steps) ** 0.5
                slope = 2 * (ahead - originals) + weights * gradient
                previous, iterate = iterate, shrink(ahead - rate * slope, originals, beta)
                if step < steps:
                    ahead = (iterate + momentum * step / (step + 3) * (iterate - previous)).clamp(0, 1)
                    logits, gradient = search.gradient(ahead, loss, samples)
                else:
                    ahead = iterate
                    logits = search.logits(ahead, samples)
                lacking = loss(logits, labels)
                met[samples] |= (logits.argmax(1) != labels) & (lacking == 0)
                if step % check_interval(steps) == 0:
                    value = elastic_net(ahead, originals).float() + weights.flatten() * lacking
                    going = value <= PROGRESS * checked
                    if not going.any():
                        break
                    samples, originals, labels, weights, iterate, ahead, gradient, checked = (
                        tensor[going]
                        for tensor in (samples, originals, labels, weights, iterate, ahead, gradient, value)
                    )
            return met

        bisect_constants(search, descend, initial=initial_constant, search_steps=search_steps)

    return attack_nearest(
        find,
        classifier,
        inputs,
        labels,
        norm=NORM,
        generator=generator,
        nearest_in=elastic_net if rule == "elastic_net" else l1,
        confidence=confidence,
    )


def elastic_net_distance(points: Tensor, originals: Tensor, beta: float) -> Tensor:
    """The squared L2 distance + beta * the L1 distance, float64 [N], between inputs [N, ...]."""
    return l2(points, originals).square() + beta * l1(points, originals)


def shrink(points: Tensor, originals: Tensor, beta: float) -> Tensor:
    """Each change of [N, ...] less beta, those below it none, clipped to [0, 1] (equation 5)."""
    change = points - originals
    return (originals + (change - change.clamp(-beta, beta))).clamp(0, 1)
