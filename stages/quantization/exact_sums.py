"""Sums of integer codes times integer weights, in float32 and yet exact.

float32 holds every integer below 2^24, and so any sum of integers is exact, in whatever order it is taken, as long as
no partial sum can get there. Where one can, codes are split into two digits, `codes = base * high + low`, whose sums
are exact each. Putting them together rounds once: `base * high` only moves the exponent, and the addition gives the
float32 next to the exact sum. The result depends on no order either, and is what unsplit sums give where these are
exact.
"""

from collections.abc import Callable

import torch
from torch import Tensor

EXACT_LIMIT = 2**24  # float32 holds every integer below it


def exact_sums(sums: Callable[[Tensor], Tensor], codes: Tensor, largest: int, coefficients: int) -> Tensor:
    """`sums(codes)`, each sum as float32 rounds its exact value.

    sums: linear, its coefficients integers, whose magnitudes add up to `coefficients` at most in each sum.
    codes: float32 holding integers of magnitude `largest` at most.
    The gradient is that of `sums` at the codes: the low digit carries it, as it moves with the codes one by one.
    """
    base = _base(largest, coefficients)
    if base == 1:
        return sums(codes)
    high = (codes.detach() / base).round_()
    low = torch.sub(codes, high, alpha=base)
    return torch.add(sums(low), sums(high), alpha=base)


def largest_sum(largest: int, coefficients: int) -> int:
    """The largest magnitude that a sum which `exact_sums` takes can reach: it is exact if that is below EXACT_LIMIT."""
    base = _base(largest, coefficients)
    digit = largest if base == 1 else max(round(largest / base), base // 2)
    return digit * coefficients


def _base(largest: int, coefficients: int) -> int:
    """What codes are split by: about the root of their range, so that digits are small; 1 where they need not be."""
    if largest * coefficients < EXACT_LIMIT:
        return 1
    return 16 if largest < 256 else 256
