"""Budgets of sound as signal-to-noise ratios: an L2 ball around each clip whose size follows the clip's loudness."""

import torch
from torch import Tensor

from stages.attacks.distances import length
from stages.datasets.tensors import SILENCE
from stages.norms import SNR


def radii(clips: Tensor, ratios: Tensor) -> Tensor:
    """The L2 norms, float64 [E, N] in input units, of the loudest changes of clips that leave these ratios.

    `20 log10(|clip| / |change|)` dB is the ratio, with the clip's samples around silence. Of a clip without any sound
    no change leaves one, and the radius is 0. It is at most that of all of [0, 1].

    clips: float32 [N, ...] in [0, 1]. ratios: in dB, [E] or [E, N]; -infinity allows any change.
    """
    loudness = length(clips.double() - SILENCE)
    dampings = 10 ** (-ratios.to(clips.device, torch.float64) / 20)
    dampings = dampings[:, None] if dampings.ndim == 1 else dampings
    largest = clips[0].numel() ** 0.5 if len(clips) else 0.0
    # Not the product where any change is allowed: infinity times 0 is no number.
    return torch.where(dampings.isinf(), largest, (dampings.nan_to_num(posinf=1.0) * loudness).clamp(max=largest))


def ball(norm: str, epsilon: float, inputs: Tensor) -> tuple[str, float | Tensor]:
    """The norm and the radius of the balls, around inputs [N, ...], that an epsilon of this norm stands for.

    They are the given ones, and of an SNR those of L2: one radius a clip, float64 [N].
    """
    if norm != SNR:
        return norm, epsilon
    return "l2", radii(inputs, torch.tensor([epsilon]))[0]
