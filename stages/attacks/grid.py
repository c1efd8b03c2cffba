"""The 8-bit grid of digital inputs: multiples of 1/255."""

from torch import Tensor

from stages.datasets.tensors import LEVELS

# In levels: above the few float32 roundings that separate a value from the level it stands for, far below half a level.
TOLERANCE = 1e-4


def to_digital(adversarial: Tensor, originals: Tensor, epsilon: float) -> Tensor:
    """The nearest point of the grid that lies in the ball of radius `epsilon` (the digital threat model).

    Not rounded toward the original, which would take away up to a level of each perturbation: uniform noise of 1/255
    would be none at all, and what an iterative attack leaves inside the ball would shrink.

    adversarial: float32 [..., *shape] in [0, 1]. originals: float32 [*shape], on the grid. No value ends more than
    floor(255 epsilon) levels away. Returns float32 values k/255 exactly as division gives them.
    Raises ValueError if an original is not on the grid.
    """
    levels = originals.double() * LEVELS
    off_grid = (levels - levels.round()).abs() > TOLERANCE
    if off_grid.any():
        raise ValueError(f"originals: {originals[off_grid][0].item()}: expected a multiple of 1/{LEVELS}")
    reach = int(epsilon * LEVELS + TOLERANCE)
    change = (adversarial.double() * LEVELS - levels.round()).round().clamp(-reach, reach)
    return (levels.round() + change).float() / LEVELS
