"""Carlini and Wagner's L-infinity attack: "Towards evaluating the robustness of neural networks", IEEE S&P 2017,
https://arxiv.org/abs/1608.04644 (section VI.C)."""

import torch
from torch import Tensor

from stages.attacks.batches import per_sample
from stages.attacks.carlini_wagner import Adam, from_tanh, shortfall, to_tanh
from stages.attacks.minimal_norm import Search, attack_nearest
from stages.attacks.result import AttackResult
from stages.classifier import Classifier
from stages.knobs import Count, Fraction, NonNegative, Positive

NORM = "linf"
THREAT = "white_box"
ITERATIVE = True
BUDGET = ("steps",)  # what twice the effort doubles
REACH = 0.1  # of tau: the longest step of Adam in tanh space, or else the steps would be longer than the perturbation


def attack(
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    steps: Count = 10,
    learning_rate: Positive = 0.01,
    initial_constant: Positive = 0.01,
    largest_constant: Positive = 20.0,
    decrease: Fraction = 0.9,
    confidence: NonNegative = 0.0,
) -> AttackResult:
    """Minimise constant * f + the sum of what each value's change has above tau, while tau falls.

    inputs: float32 [N, ...] in [0, 1]. labels: int64 [N].
    steps: of Adam that a sample has to err within tau, before its constant doubles. learning_rate: of Adam, in tanh
    space; it is lower where tau is small.
    initial_constant: the first one; beyond largest_constant the sample is done.
    decrease: where a sample errs within tau, tau becomes this share of its distance.
    confidence: by how much another logit has to exceed the label's (kappa).
    Each sample goes on from where it is (the paper's warm start), with tau and a constant of its own, so that none
    waits for another. The paper runs each descent to its end; here it ends at its first success, and tau falls at once.
    Passes a sample: as many forward as backward, 1 + `steps` for each doubling and each fall of tau, at most, and one
    forward more that says whether it is right.
    Raises ValueError if an input is outside [0, 1].
    """
    decrease = min(decrease, 1 - 1e-3)  # at 1 tau would not fall

    def find(search: Search, generator: torch.Generator) -> None:
        loss = shortfall(confidence)
        samples = torch.arange(len(search.labels), device=search.labels.device)
        originals, adam = search.inputs, Adam(to_tanh(search.inputs))
        tau = torch.ones(len(samples), device=originals.device)
        constants, waited = torch.full_like(tau, initial_constant), torch.zeros_like(tau)
        while len(samples):
            points, derivatives = from_tanh(adam.variables)
            _, gradient = search.gradient(points, loss, samples)
            distance = search.distance[samples].float()
            within = distance < tau
            tau = torch.where(within, decrease * distance, tau)
            waited = torch.where(within, 0, waited + 1)
            failed = waited >= steps
            constants = torch.where(failed, 2 * constants, constants)
            waited = waited.masked_fill(failed, 0)
            adam.restart(within | failed)
            change = points - originals
            above = (change.abs() > per_sample(tau, change)) * change.sign()
            rate = per_sample((REACH * tau).clamp(max=learning_rate), change)
            adam.step((per_sample(constants, change) * gradient + above) * derivatives, rate)
            going = constants <= largest_constant
            if not going.all():
                adam.keep(going)
                samples, originals, tau, constants, waited = (
                    tensor[going] for tensor in (samples, originals, tau, constants, waited)
                )

    return attack_nearest(find, classifier, inputs, labels, norm=NORM, generator=generator, confidence=confidence)
