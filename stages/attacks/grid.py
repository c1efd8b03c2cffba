"""The grid of digital inputs: multiples of 1/255, or of 1/65535 where they are sound."""

import torch
from torch import Tensor

from stages.datasets.levels import LEVELS
from stages.quantization.rounding import round_straight_through

# In levels of 8 bits: above the few float32 roundings that separate a value from the level it stands for, far below
# half of one, also of those of 16 bits, which are 257 times finer.
TOLERANCE = 1e-4


def nearest_levels(inputs: Tensor, levels: int = LEVELS) -> Tensor:
    """The level, from 0 to the highest, nearest to inputs in [0, 1], as the input quantizer of networks rounds.

    Its gradient is that of a multiplication by that number (straight-through).
    """
    return round_straight_through(inputs / (1 / levels))


def to_digital(
    adversarial: Tensor, originals: Tensor, epsilon: float | Tensor, norm: str = "linf", highest: int = LEVELS
) -> Tensor:
    """The nearest point of the grid that lies in the ball of radius `epsilon` (the digital threat model).

    Not rounded toward the original, which would take away up to a level of each perturbation: uniform noise of 1/255
    would be none at all, and what an iterative attack leaves inside the ball would shrink. Where rounding makes a
    perturbation longer than epsilon in the norm l2, the values that it enlarged go back by a level, those first whose
    rounding was the nearest to a tie, until the ball holds it. In l1 and l0 nothing is taken back, as no attack with
    these norms has a budget.

    adversarial: float32 [..., *shape] in [0, 1]. originals: float32 [*shape], on the grid; for l2 a batch of images
    [N, C, H, W], for which epsilon may be one for each, float64 [N]. highest: the level of 1.
    In linf no value ends more than floor(255 epsilon) levels away. Returns float32 values k/255 exactly as division
    gives them.
    Raises ValueError if an original is not on the grid.
    """
    levels, tolerance = originals.double() * highest, TOLERANCE * highest / LEVELS
    off_grid = (levels - levels.round()).abs() > tolerance
    if off_grid.any():
        raise ValueError(f"originals: {originals[off_grid][0].item()}: expected a multiple of 1/{highest}")
    rounded = nearest_levels(adversarial, highest).double() - levels.round()
    if norm == "linf":
        reach = int(min(epsilon, 1) * highest + tolerance)
        rounded = rounded.clamp(-reach, reach)
    elif norm == "l2":
        radii = torch.as_tensor(epsilon, dtype=torch.float64, device=originals.device) * highest
        if radii.isfinite().any():
            rounded = _shortened(rounded, adversarial.double() * highest - levels.round(), radii)
    return (levels.round() + rounded).float() / highest


def _shortened(rounded: Tensor, change: Tensor, radii: Tensor) -> Tensor:
    """Changes [..., N, *shape] of whole levels whose L2 length is at most the radius; `change` is before rounding."""
    flat, real = rounded.flatten(-3), change.flatten(-3)
    excess = flat.square().sum(-1, keepdim=True) - radii.reshape(-1, 1) ** 2
    enlarged = flat.abs() > real.abs()
    saved = torch.where(enlarged, 2 * flat.abs() - 1, 0)  # of the squared length, by a level less
    order = (flat - real).abs().masked_fill(~enlarged, -1).argsort(dim=-1, descending=True, stable=True)
    ordered = saved.gather(-1, order).long()  # whole levels; sums of integers are deterministic on every device
    before = ordered.cumsum(-1) - ordered
    back = torch.zeros_like(flat, dtype=torch.bool).scatter(-1, order, before < excess) & enlarged
    return torch.where(back, flat - flat.sign(), flat).reshape(rounded.shape)
