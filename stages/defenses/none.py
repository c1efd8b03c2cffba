"""No defense: cross-entropy on clean inputs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def loss(network: nn.Module, inputs: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensor:
    """Mean cross-entropy of inputs `[N,...]` in [0,1] with labels `[N]`."""
    return F.cross_entropy(network(inputs), labels)
