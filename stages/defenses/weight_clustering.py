"""Piecewise weight clustering (He, Rakin, Li, Chakrabarti and Fan 2020, arXiv 2003.12813).

Bit flips do harm by making small weights large. Drawing each layer's weights to two values, one for the positive and
one for the negative ones, as in a binary network, leaves few small weights to enlarge.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.knobs import Positive


def loss(
    network: nn.Module, inputs: Tensor, labels: Tensor, *, generator: torch.Generator, weight: Positive = 1e-3
) -> Tensor:
    """Mean cross-entropy plus `weight` times the distance of all layers' weights from their two means."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    return F.cross_entropy(network(inputs), labels) + weight * sum(clustering(layer.weight) for layer in layers)


def clustering(weights: Tensor) -> Tensor:
    """The Euclidean distance of positive weights from their mean, plus that of the negative ones from theirs.

    A mean is of the weights as they are, and moves with them.
    """
    weights = weights.flatten()
    return sum(_spread(weights[side]) for side in (weights >= 0, weights < 0) if side.any())


def _spread(weights: Tensor) -> Tensor:
    # The length's gradient is no number at zero, where a single weight is its own mean.
    return (weights - weights.mean()).square().sum().clamp(min=torch.finfo(weights.dtype).tiny).sqrt()
