"""PGD adversarial training (Madry et al. 2018, arXiv 1706.06083) on a mixture of clean and adversarial inputs.

Madry et al. train on adversarial inputs alone (`clean_share` 0). The mixture 1:1 is older (Goodfellow et al. 2015,
arXiv 1412.6572, section 6); mixture and budget here are those of Costa & Pinto 2024 (arXiv 2404.05688).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.defenses.perturbation import pgd
from stages.knobs import Count, Epsilon, Fraction, Positive


def loss(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    epsilon: Epsilon = 0.008,
    step_size: Positive = 0.1,
    steps: Count = 10,
    clean_share: Fraction = 0.5,
) -> Tensor:
    """Mean cross-entropy of inputs `[N,C,H,W]` in [0,1], of which the first `clean_share` stay clean.

    Adversarial inputs take the place of the others. Batches are in random order, so which samples stay clean is random.
    `step_size` is a multiple of epsilon.
    """
    clean = round(clean_share * len(inputs))
    adversarial = pgd(
        network,
        inputs[clean:],
        labels[clean:],
        generator=generator,
        epsilon=epsilon,
        step_size=step_size,
        steps=steps,
    )
    return F.cross_entropy(network(torch.cat([inputs[:clean], adversarial])).float(), labels)
