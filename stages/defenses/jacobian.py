"""Jacobian regularization with random projections (Hoffman, Roberts & Yaida 2019, arXiv 1908.02729).

Penalises the squared Frobenius norm of the Jacobian of the logits with respect to the input, of sound to its features,
so that small perturbations move the logits little. The norm is estimated by projecting the logits on random unit
vectors (equations 8 and 9 of the paper).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.defenses.layer_inputs import with_layer_inputs
from stages.knobs import Count, Positive


def loss(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    weight: Positive = 0.01,
    projections: Count = 1,
) -> Tensor:
    """Mean cross-entropy plus `weight / 2` times the estimated squared norm of the Jacobian, inputs in [0,1]."""
    logits, inputs = with_layer_inputs(network, inputs)
    squared_norm = sum(_projected_norm(logits, inputs, generator) for _ in range(projections)) / projections
    return F.cross_entropy(logits, labels) + weight / 2 * squared_norm


def _projected_norm(logits: Tensor, inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Mean over the batch of `classes * |v J|^2` for one random unit vector v a sample."""
    direction = F.normalize(torch.randn(logits.shape, generator=generator), dim=1).to(logits)
    (gradient,) = torch.autograd.grad(logits, inputs, direction, create_graph=True)
    return logits.shape[1] * gradient.float().square().flatten(1).sum(1).mean()
