"""Defensive distillation (Papernot et al. 2016, arXiv 1511.04508), with the loss of Hinton et al. 2015.

A student learns the softened predictions of an undefended teacher of its own architecture, and the labels (arXiv
1503.02531). This is the variant of Costa & Pinto 2024 (arXiv 2404.05688), whose student starts from the teacher's
weights; Papernot et al. train teacher and student at one temperature from scratch and use no labels. Their defense
hides gradients and does not move the boundary (Carlini & Wagner 2016, arXiv 1607.04311).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.knobs import Fraction, Positive


def loss(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    teacher: nn.Module,
    temperature: Positive = 20.0,
    alpha: Fraction = 0.1,
) -> Tensor:
    """alpha * CE(labels) + (1 - alpha) * T^2 * KL(teacher || student at temperature T), means of `[N,C,H,W]` in [0,1].

    teacher: a trained network of the same architecture, in evaluation mode.
    alpha: weighs the labels, as in Keras' example of distillation.
    temperature: T; its square keeps the size of the soft term's gradient whatever it is (Hinton et al., section 2).
    """
    with torch.no_grad():
        soft_labels = F.log_softmax(teacher(inputs).float() / temperature, 1)
    logits = network(inputs).float()
    softened = F.log_softmax(logits / temperature, 1)
    divergence = F.kl_div(softened, soft_labels, log_target=True, reduction="batchmean")
    return alpha * F.cross_entropy(logits, labels) + (1 - alpha) * temperature**2 * divergence
