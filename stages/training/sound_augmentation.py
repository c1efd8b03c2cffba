"""Augmentation of batches of sound, on 16-bit samples in memory, after Warden 2018 (arXiv 1804.03209)."""

import torch
from torch import Tensor

NOISY = 0.8  # share of clips that noise is mixed into, as in the paper's training code
SAMPLES_PER_MILLISECOND = 16


def shift_and_mix(
    clips: Tensor, *, time_shift: int, background_noise: float, noise: Tensor | None, generator: torch.Generator
) -> Tensor:
    """Moves each clip in time, silence following, then mixes noise into most of them.

    clips: int16 `[N,1,1,T]`; the result has the same shape and dtype. time_shift: ms, the furthest either way.
    background_noise: the loudest, as a share of the noise's own loudness; each clip's is uniform up to it.
    noise: int16 `[M,1,1,T]`, of which each clip gets one; needed where `background_noise` is above 0.
    Draws come from `generator` (on the CPU), and none where both settings are 0.
    """
    count, device = len(clips), clips.device
    if time_shift:
        furthest, samples = time_shift * SAMPLES_PER_MILLISECOND, clips.shape[-1]
        shifts = torch.randint(-furthest, furthest + 1, (count, 1, 1, 1), generator=generator).to(device)
        places = torch.arange(samples, device=device) - shifts
        moved = clips.gather(3, places.clamp(0, samples - 1))
        clips = torch.where((places >= 0) & (places < samples), moved, 0)
    if background_noise:
        chosen = torch.randint(len(noise), (count,), generator=generator).to(device)
        volume = background_noise * torch.rand(count, generator=generator)
        volume = torch.where(torch.rand(count, generator=generator) < NOISY, volume, 0).to(device)
        mixed = clips + (volume[:, None, None, None] * noise[chosen]).round()
        clips = mixed.clamp(-(2**15), 2**15 - 1).to(torch.int16)
    return clips
