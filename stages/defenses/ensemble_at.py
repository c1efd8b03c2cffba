"""Ensemble adversarial training (Tramèr et al. 2018, arXiv 1705.07204).

Trains on adversarial inputs of other, static networks: the network cannot weaken these by masking its own gradients,
and they are what a transferring attacker would send.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.defenses.perturbation import fgsm, pgd
from stages.knobs import Count, Epsilon, Fraction, Positive

MODELS = ["tiny_cnn", "mobilenetv1_025"]


def loss(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    sources: Sequence[nn.Module],
    models: list = MODELS,
    include_itself: bool = True,
    epsilon: Epsilon = 0.008,
    step_size: Positive = 0.1,
    steps: Count = 10,
    clean_share: Fraction = 0.5,
) -> Tensor:
    """Mean cross-entropy of inputs `[N,C,H,W]` in [0,1], of which the first `clean_share` stay clean.

    The others become adversarial inputs of one source a batch, drawn at random, each as likely. A static network is
    attacked by FGSM or PGD, both as likely (Costa & Pinto 2024, arXiv 2404.05688); the network that is trained is, as
    in the paper, a source as well, attacked by FGSM, unless `include_itself` is false.

    sources: trained networks of other architectures, in evaluation mode.
    models: the architectures of these, read by the plan, which provides `sources`.
    step_size: PGD's, a multiple of epsilon.
    Raises ValueError if there is no source.
    """
    if not sources:
        raise ValueError(f"defenses.ensemble_at: models: {models!r}: expected at least one other architecture")
    clean = round(clean_share * len(inputs))
    attacked, attacked_labels = inputs[clean:], labels[clean:]
    chosen = _draw(len(sources) + include_itself, generator)
    if chosen == len(sources):
        adversarial = fgsm(network, attacked, attacked_labels, epsilon=epsilon)
    elif _draw(2, generator):
        adversarial = fgsm(sources[chosen], attacked, attacked_labels, epsilon=epsilon)
    else:
        adversarial = pgd(
            sources[chosen],
            attacked,
            attacked_labels,
            generator=generator,
            epsilon=epsilon,
            step_size=step_size,
            steps=steps,
        )
    return F.cross_entropy(network(torch.cat([inputs[:clean], adversarial])).float(), labels)


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
