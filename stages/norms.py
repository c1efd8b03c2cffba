"""The norms that perturbations are measured in."""

from collections.abc import Collection
from math import inf

from stages.knobs import FULL_RANGE

# Per norm the epsilon at which any input is allowed. Where several have budgets, headline numbers are the first's.
FULL_RANGES = {"linf": FULL_RANGE, "l2": inf, "l1": inf, "l0": inf}
NORMS = tuple(FULL_RANGES)

# A distance in float32 still counts as within the epsilon that it is equal to, and an epsilon that went through a file
# of six significant digits as the same.
EPSILON_TOLERANCE = 1e-6


def has_budgets(arguments: Collection[str]) -> bool:
    """Whether an attack with these arguments is given epsilons; without, it looks for the nearest adversarial input."""
    return "epsilons" in arguments


def in_order(by_norm: dict) -> dict:
    """The same with the norms in the order of `NORMS`: that of a mapping in params.yaml is part of no job's key."""
    return {norm: by_norm[norm] for norm in NORMS if norm in by_norm}
