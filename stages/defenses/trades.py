"""TRADES: accuracy traded for smoothness around the data (Zhang et al. 2019, arXiv 1901.08573, algorithm 1).

Cross-entropy on clean inputs plus `beta` times the Kullback-Leibler divergence from the clean prediction to that on the
input in the ball where the divergence is largest.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.defenses.perturbation import ascended, crafting, drawn
from stages.knobs import Count, Epsilon, NonNegative, Positive

# In input units. At the clean input the divergence has its minimum and no gradient, so the ascent starts beside it.
START = 0.001


def loss(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    beta: NonNegative = 6.0,
    epsilon: Epsilon = 0.008,
    step_size: Positive = 0.25,
    steps: Count = 10,
) -> Tensor:
    """Mean over inputs `[N,C,H,W]` in [0,1] of cross-entropy plus `beta` times the divergence, in nats.

    `step_size` is a multiple of epsilon; the paper's on CIFAR-10 is 0.007 for an epsilon of 0.031. Clean and
    adversarial inputs pass together, so that batch norms make of both one function, whose change is measured.
    """
    # In evaluation mode, as the paper's authors do: with batch norms in training mode the divergence would also measure
    # by how much the statistics of clean and half-crafted batches differ.
    with crafting(network), torch.no_grad():
        clean = F.log_softmax(network(inputs).float(), 1)
    start = inputs + START * drawn(inputs, lambda empty: empty.normal_(generator=generator))
    adversarial = ascended(
        network,
        lambda logits: _divergence(clean, F.log_softmax(logits, 1)).sum(),
        inputs,
        start,
        epsilon=epsilon,
        step=step_size * epsilon,
        steps=steps,
    )
    logits = network(torch.cat([inputs, adversarial])).float()
    clean, perturbed = F.log_softmax(logits, 1).chunk(2)
    return F.nll_loss(clean, labels) + beta * _divergence(clean, perturbed).mean()


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of each sample, [N], from log-probabilities [N,K]."""
    return F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(1)
