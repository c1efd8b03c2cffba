"""The norms that perturbations are measured in."""

from math import inf

from stages.knobs import FULL_RANGE

# Per norm the epsilon at which any input is allowed.
FULL_RANGES = {"l0": inf, "l1": inf, "l2": inf, "linf": FULL_RANGE}
NORMS = tuple(FULL_RANGES)
