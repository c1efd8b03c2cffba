"""How people write the sizes of perturbations."""

from stages.datasets.levels import LEVELS, SOUND_LEVELS
from stages.norms import SNR, allows_any

NORM_NAMES = {"l0": "L0", "l1": "L1", "l2": "L2", "linf": "Linf", SNR: "SNR"}
ANY = "any"  # the epsilon at which any input was allowed
GRIDS = (LEVELS, SOUND_LEVELS)  # what inputs lie on, 8-bit images and 16-bit sound, the coarser first
NEAR = 1e-4  # of a step: tables hold epsilons to six digits


def epsilon_label(epsilon: float, norm: str) -> str:
    """An epsilon as people write it: in Linf `8/255`, or `2/65535` where 8 bits have none, `any` for any input."""
    if norm and allows_any(epsilon, norm):
        return ANY
    if norm == SNR:
        return f"{epsilon:g} dB"
    levels = _grid(epsilon) if norm == "linf" and epsilon > 0 else None
    return f"{round(epsilon * levels)}/{levels}" if levels else f"{epsilon:g}"


def budget_label(epsilon: float, norm: str, *, several_norms: bool = False) -> str:
    """An epsilon with the norm that it is of: `L2 epsilon 0.5`. Linf goes without saying where no other norm is."""
    if norm == SNR:
        return f"{NORM_NAMES[norm]} {epsilon_label(epsilon, norm)}"
    name = f"{NORM_NAMES[norm]} epsilon" if several_norms or norm != "linf" else "epsilon"
    return f"{name} {epsilon_label(epsilon, norm)}" + (" values" if norm == "l0" else "")


def levels_in(norm: str, epsilon: float) -> int:
    """What sizes near this epsilon are told in parts of: in Linf 255, or 65535 where 8 bits have no such, else 1."""
    return (_grid(epsilon) or LEVELS) if norm == "linf" else 1


def distance_label(distance: float, levels: int = 1) -> str:
    """A distance as people write it, with three digits: `1.92/255`, of `levels`."""
    return f"{distance * levels:.3g}/{levels}" if levels > 1 else f"{distance:.3g}"


def _grid(epsilon: float) -> int | None:
    """The levels of the coarsest grid that an epsilon is a number of steps on, if it is on any."""
    steps = ((levels, epsilon * levels) for levels in GRIDS)
    return next((levels for levels, count in steps if abs(count - round(count)) < NEAR), None)
