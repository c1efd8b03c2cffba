"""The 8-bit grid of digital inputs: multiples of 1/255."""

from math import inf

import torch
from torch import Tensor

from stages.datasets.levels import LEVELS
from stages.quantization.formats import INPUT_SCALE
from stages.quantization.rounding import round_straight_through

# In levels: above the few float32 roundings that separate a value from the level it stands for, far below half a level.
TOLERANCE = 1e-4


def nearest_levels(inputs: Tensor) -> Tensor:
    """The level of the 8-bit grid, 0 to 255, nearest to inputs in [0, 1], as the input quantizer of networks rounds.

    Its gradient is that of a multiplication by 255 (straight-through).
    """
    return round_straight_through(inputs / INPUT_SCALE)


def to_digital(adversarial: Tensor, originals: Tensor, epsilon: float, norm: str = "linf") -> Tensor:
    """The nearest point of the grid that lies in the ball of radius `epsilon` (the digital threat model).

    Not rounded toward the original, which would take away up to a level of each perturbation: uniform noise of 1/255
    would be none at all, and what an iterative attack leaves inside the ball would shrink. Where rounding makes a
    perturbation longer than epsilon in the norm l2, the values that it enlarged go back by a level, those first whose
    rounding was the nearest to a tie, until the ball holds it. In l1 and l0 nothing is taken back, as no attack with
    these norms has a budget.

    adversarial: float32 [..., *shape] in [0, 1]. originals: float32 [*shape], on the grid; for l2 a batch of images
    [N, C, H, W]. In linf no value ends more than floor(255 epsilon) levels away. Returns float32 values k/255 exactly
    as division gives them.
    Raises ValueError if an original is not on the grid.
    """
    levels = originals.double() * LEVELS
    off_grid = (levels - levels.round()).abs() > TOLERANCE
    if off_grid.any():
        raise ValueError(f"originals: {originals[off_grid][0].item()}: expected a multiple of 1/{LEVELS}")
    rounded = nearest_levels(adversarial).double() - levels.round()
    if norm == "linf":
        reach = int(min(epsilon, 1) * LEVELS + TOLERANCE)
        rounded = rounded.clamp(-reach, reach)
    elif norm == "l2" and epsilon < inf:
        rounded = _shortened(rounded, adversarial.double() * LEVELS - levels.round(), epsilon * LEVELS)
    return (levels.round() + rounded).float() / LEVELS


def _shortened(rounded: Tensor, change: Tensor, radius: float) -> Tensor:
    """Changes [..., N, *shape] of whole levels whose L2 length is at most the radius; `change` is before rounding."""
    flat, real = rounded.flatten(-3), change.flatten(-3)
    excess = flat.square().sum(-1, keepdim=True) - radius**2
    enlarged = flat.abs() > real.abs()
    saved = torch.where(enlarged, 2 * flat.abs() - 1, 0)  # of the squared length, by a level less
    order = (flat - real).abs().masked_fill(~enlarged, -1).argsort(dim=-1, descending=True, stable=True)
    ordered = saved.gather(-1, order).long()  # whole levels; sums of integers are deterministic on every device
    before = ordered.cumsum(-1) - ordered
    back = torch.zeros_like(flat, dtype=torch.bool).scatter(-1, order, before < excess) & enlarged
    return torch.where(back, flat - flat.sign(), flat).reshape(rounded.shape)
