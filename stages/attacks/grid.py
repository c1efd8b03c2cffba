"""The 8-bit grid of digital inputs: multiples of 1/255."""

import numpy as np
import torch
from torch import Tensor

LEVELS = 255
# In levels: above the few float32 roundings that separate a value from the level it stands for, far below half a level.
TOLERANCE = 1e-4


def from_levels(levels: np.ndarray, device: torch.device) -> Tensor:
    """uint8 levels [N, C, H, W] as float32 inputs in [0, 1], in the memory layout in which convolutions are fastest."""
    inputs = torch.from_numpy(levels).to(device).float() / LEVELS
    return inputs.contiguous(memory_format=torch.channels_last)


def to_digital(adversarial: Tensor, originals: Tensor) -> Tensor:
    """Round `adversarial` onto the grid, toward the original, so that it stays in its ball (the digital threat model).

    adversarial: float32 [..., *shape] in [0, 1]. originals: float32 [*shape], on the grid. Where epsilon is j/255, no
    value ends more than j levels away. Returns float32 values k/255 exactly as division gives them.
    Raises ValueError if an original is not on the grid.
    """
    levels = originals.double() * LEVELS
    off_grid = (levels - levels.round()).abs() > TOLERANCE
    if off_grid.any():
        raise ValueError(f"originals: {originals[off_grid][0].item()}: expected a multiple of 1/{LEVELS}")
    change = adversarial.double() * LEVELS - levels.round()
    whole = (change.abs() + TOLERANCE).floor() * change.sign()
    return (levels.round() + whole).float() / LEVELS
