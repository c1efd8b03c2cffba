"""White noise with a signal-to-noise ratio as its budget: the control of `pgd_snr`, `gaussian_noise` for each clip."""

import torch
from torch import Tensor

from stages.attacks import gaussian_noise
from stages.attacks.result import AttackResult
from stages.attacks.signal_to_noise import radii
from stages.classifier import Classifier

NORM = "snr"
THREAT = "noise"
ITERATIVE = False


def attack(
    classifier: Classifier, inputs: Tensor, labels: Tensor, *, epsilons: Tensor, generator: torch.Generator
) -> AttackResult:
    """As gaussian_noise, on clips of sound: float32 [N, 1, 1, T] in [0, 1], with silence in the middle.

    epsilons: [E] or [E, N], in dB. Distances are L2, in input units.
    """
    return gaussian_noise.attack(classifier, inputs, labels, epsilons=radii(inputs, epsilons), generator=generator)
