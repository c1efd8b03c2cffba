"""Sums of integer codes times integer weights, in float32 and yet exact.

float32 holds every integer below 2^24, and so any sum of integers is exact, in whatever order it is taken, as long as
no partial sum can get there. Codes of up to 8 bits go through as they are. Wider codes are split into two digits,
`codes = 256 * high + low`, whose sums are exact each. Putting them together rounds once: `256 * high` only moves the
exponent, and the addition gives the float32 next to the exact sum. The result depends on no order either.
"""

from collections.abc import Callable

import torch
from torch import Tensor

EXACT_LIMIT = 2**24  # float32 holds every integer below it
BASE = 256  # of the digits of wide codes


def exact_sums(sums: Callable[[Tensor], Tensor], codes: Tensor, largest: int) -> Tensor:
    """`sums(codes)`, each sum as float32 rounds its exact value.

    sums: linear, its coefficients integers. codes: float32 holding integers of magnitude `largest` at most.
    The gradient is that of `sums` at the codes: the low digit carries it, as it moves with the codes one by one.
    """
    if largest < BASE:
        return sums(codes)
    high = (codes.detach() / BASE).round_()
    low = torch.sub(codes, high, alpha=BASE)
    return torch.add(sums(low), sums(high), alpha=BASE)


def largest_digit(largest: int) -> int:
    """The largest magnitude that `exact_sums` multiplies weights with, for codes of magnitude `largest` at most."""
    return largest if largest < BASE else max(round(largest / BASE), BASE // 2)
