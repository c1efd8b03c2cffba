"""A claim of a paper, our number, and whether it holds."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from math import inf, isnan

import pandas as pd

from stages.metrics.bootstrap import Estimate, NoCommonSample

YES, NO, UNDECIDED = "yes", "no", "undecided"


class Undecidable(ValueError):
    """Why a study's results say nothing about a claim."""


@dataclass(frozen=True)
class Claim:
    """One row of claims.csv.

    claim: what is said, with the number that it is judged by and its unit.
    paper: the paper's number in the same unit, or a word where it gives a direction only; empty where it says nothing.
    ours, ci_low, ci_high: our number with its 95 % interval; None where there is none.
    holds: `yes`, `no`, or `undecided` where the interval includes the other answer or there is no number.
    note: what the number is over and what counts as holding, or why there is none.
    """

    claim: str
    paper: float | str
    ours: float | None
    ci_low: float | None
    ci_high: float | None
    holds: str
    note: str

    def __post_init__(self) -> None:
        if self.holds not in (YES, NO, UNDECIDED):
            raise ValueError(f"claim {self.claim!r}: holds: {self.holds!r}, expected {YES}, {NO} or {UNDECIDED}")


def judged(
    claim: str,
    paper: float | str,
    measure: Callable[[], Estimate],
    *,
    between: tuple[float, float] | None = None,
    outside: tuple[float, float] | None = None,
    note: str = "",
) -> Claim:
    """A claim that our number lies between two bounds, or outside of them; one of both is given.

    It holds where all of the interval does, and does not where none of it does. A bound itself is no value between.
    """
    if (between is None) == (outside is None):
        raise ValueError(f"claim {claim!r}: expected one of between and outside")
    # Where our number would have to lie outside, what lies between is the other answer.
    answers = {YES: YES, NO: NO} if between else {YES: NO, NO: YES}

    def holds(estimate: Estimate) -> str:
        return answers.get(_between(estimate, *(between or outside)), UNDECIDED)

    return _measured(claim, paper, measure, holds, note)


def near(claim: str, paper: float, measure: Callable[[], Estimate], *, tolerance: float, note: str = "") -> Claim:
    """A claim that our number is the paper's: it holds where the paper's is within `tolerance` of our interval."""

    def holds(estimate: Estimate) -> str:
        return YES if estimate.low - tolerance <= paper <= estimate.high + tolerance else NO

    return _measured(claim, paper, measure, holds, note)


def undecided(claim: str, paper: float | str, why: str) -> Claim:
    """A claim that the study's results say nothing about."""
    return Claim(claim, paper, None, None, None, UNDECIDED, why)


def claims_table(claims: Iterable[Claim]) -> pd.DataFrame:
    """One row a claim, in their order; missing numbers are NaN, the paper's are text."""
    table = pd.DataFrame([asdict(claim) for claim in claims], columns=[field.name for field in fields(Claim)])
    table["paper"] = [shown(paper) for paper in table["paper"]]
    return table.astype(dict.fromkeys(["ours", "ci_low", "ci_high"], float))


def shown(paper: float | str) -> str:
    """The paper's number, or its word, as text."""
    return paper if isinstance(paper, str) else f"{paper:g}"


def _measured(
    claim: str, paper: float | str, measure: Callable[[], Estimate], holds: Callable[[Estimate], str], note: str
) -> Claim:
    try:
        estimate = measure()
    except (Undecidable, NoCommonSample) as why:
        return undecided(claim, paper, str(why))
    if isnan(estimate.value):
        return undecided(claim, paper, "not defined: both numbers that it is the ratio of are zero, or infinite")
    over = f"{estimate.samples} {estimate.unit}" + (f", {estimate.runs} seeds" if estimate.runs > 1 else "")
    told = "; ".join(part for part in (over, note) if part)
    return Claim(claim, paper, estimate.value, estimate.low, estimate.high, holds(estimate), told)


def _between(estimate: Estimate, low: float, high: float) -> str:
    """Whether all of an interval lies between two bounds, none of it, or some. An infinite bound bounds nothing."""
    if (low > -inf and estimate.high <= low) or (high < inf and estimate.low >= high):
        return NO
    return YES if (low == -inf or estimate.low > low) and (high == inf or estimate.high < high) else UNDECIDED
