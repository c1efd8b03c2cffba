"""8-bit images and 16-bit sound as the inputs of networks."""

import torch
from torch import Tensor

from stages.datasets.levels import LEVELS, SOUND_LEVELS

SILENCE = 2**15 / SOUND_LEVELS  # the input that a sample of 0 becomes


def as_input(levels: Tensor) -> Tensor:
    """uint8 levels `[N,C,H,W]` -> float32 in [0,1], in the memory layout in which convolutions are fastest.

    Samples of sound, int16 around 0, have 65536 levels of which the middle is silence.
    """
    if levels.dtype == torch.int16:
        return ((levels.float() + 2**15) / SOUND_LEVELS).contiguous(memory_format=torch.channels_last)
    return (levels.float() / LEVELS).contiguous(memory_format=torch.channels_last)
