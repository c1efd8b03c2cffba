"""Sinkhorn adversarial training (Bouniot, Audigier & Loesch 2021, arXiv 2102.03156).

Cross-entropy on adversarial inputs plus the Sinkhorn divergence between the batch's clean and adversarial predictions,
two clouds of points: how far one has to be carried to become the other.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.defenses.perturbation import pgd
from stages.knobs import Count, Epsilon, NonNegative, Positive


def loss(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    epsilon: Epsilon = 0.008,
    step_size: Positive = 0.1,
    steps: Count = 10,
    weight: NonNegative = 1.0,
    entropic: Positive = 1.0,
    iterations: Count = 50,
    tolerance: NonNegative = 0.1,
) -> Tensor:
    """Mean cross-entropy of adversarial inputs plus `weight` times the divergence; inputs `[N,C,H,W]` in [0,1].

    epsilon, step_size (a multiple of epsilon), steps: the perturbation, PGD's.
    entropic: the weight of entropy in the transport cost. iterations, tolerance: see `transport_cost`.
    """
    adversarial = pgd(network, inputs, labels, generator=generator, epsilon=epsilon, step_size=step_size, steps=steps)
    clean, perturbed = network(torch.cat([inputs, adversarial])).float().chunk(2)
    with torch.autocast(inputs.device.type, enabled=False):  # a difference of near-equal costs needs all of float32
        divergence = sinkhorn_divergence(
            clean.softmax(1), perturbed.softmax(1), entropic=entropic, iterations=iterations, tolerance=tolerance
        )
    return F.cross_entropy(perturbed, labels) + weight * divergence


def sinkhorn_divergence(x: Tensor, y: Tensor, *, entropic: float, iterations: int, tolerance: float) -> Tensor:
    """S(x, y) = W(x, y) - (W(x, x) + W(y, y)) / 2 of two clouds [N,D] and [M,D], a non-negative number.

    W is `transport_cost`; without the costs from each cloud to itself S would not be zero for equal clouds, nor least
    there (Feydy et al. 2019, arXiv 1810.08278).
    """
    cost = [
        transport_cost(one, other, entropic=entropic, iterations=iterations, tolerance=tolerance)
        for one, other in [(x, y), (x, x), (y, y)]
    ]
    return cost[0] - (cost[1] + cost[2]) / 2


def transport_cost(x: Tensor, y: Tensor, *, entropic: float, iterations: int, tolerance: float) -> Tensor:
    """min over plans P of <P, C> + entropic * KL(P || uniform), where C holds the squared distances of x and y.

    Sinkhorn's iterations on logarithms, at most `iterations`, until the potential of x changes by less than `tolerance`
    in the sum of its absolute values. The potentials maximise the dual, so that the gradient of its value is that
    through the costs alone: iterations need not be differentiated (Feydy et al. 2019).
    """
    costs = (x[:, None] - y[None]).square().sum(2)
    with torch.no_grad():
        potential_x, potential_y = costs.new_zeros(len(x)), costs.new_zeros(len(y))
        for _iteration in range(iterations):
            previous = potential_x
            potential_x = _soft_minimum(costs - potential_y, entropic)
            potential_y = _soft_minimum((costs - potential_x[:, None]).T, entropic)
            if (potential_x - previous).abs().sum() < tolerance:
                break
    return _soft_minimum(costs - potential_y, entropic).mean() + potential_y.mean()


def _soft_minimum(costs: Tensor, entropic: float) -> Tensor:
    """-entropic * log(mean over j of exp(-costs[i,j] / entropic)), [N] of [N,M]."""
    return -entropic * ((-costs / entropic).logsumexp(1) - math.log(costs.shape[1]))
