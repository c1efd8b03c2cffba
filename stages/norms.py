"""The norms that perturbations are measured in.

`snr` bounds the L2 norm relative to that of the clip of sound: epsilon is the signal-to-noise ratio in dB, and an
attacker's budget is the larger the smaller it is.
"""

from collections.abc import Collection
from math import inf

from stages.knobs import FULL_RANGE

SNR = "snr"

# Per norm the epsilon at which any input is allowed. Where several have budgets, headline numbers are the first's.
FULL_RANGES = {"linf": FULL_RANGE, "l2": inf, "l1": inf, "l0": inf, SNR: -inf}
NORMS = tuple(FULL_RANGES)

# A distance in float32 still counts as within the epsilon that it is equal to, and an epsilon that went through a file
# of six significant digits as the same.
EPSILON_TOLERANCE = 1e-6


def strength(epsilon: float, norm: str) -> float:
    """A number that is the larger the more an attacker with this epsilon may change."""
    return -epsilon if norm == SNR else epsilon


def allows_any(epsilon: float, norm: str) -> bool:
    """Whether any input is allowed at this epsilon."""
    return strength(epsilon, norm) >= strength(FULL_RANGES[norm], norm)


def no_bound(norm: str) -> float:
    """The epsilon of an attack that was given none, or one that bounds nothing."""
    return -inf if norm == SNR else inf


def has_budgets(arguments: Collection[str]) -> bool:
    """Whether an attack with these arguments is given epsilons; without, it looks for the nearest adversarial input."""
    return "epsilons" in arguments


def in_order(by_norm: dict) -> dict:
    """The same with the norms in the order of `NORMS`: that of a mapping in params.yaml is part of no job's key."""
    return {norm: by_norm[norm] for norm in NORMS if norm in by_norm}
