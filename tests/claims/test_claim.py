"""When a claim holds, and how claims are written."""

from math import inf, nan

import pytest

from stages.claims.claim import Claim, Undecidable, claims_table, judged, near, undecided
from stages.metrics.bootstrap import Estimate, NoCommonSample
from stages.metrics.results import csv_text


def measured(low, high, value=None, runs=1):
    return lambda: Estimate((low + high) / 2 if value is None else value, low, high, 50, runs)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.1, 1.9, "yes"),
        (1.0, 1.9, "undecided"),  # a bound is no value between
        (0.5, 1.5, "undecided"),
        (0.5, 3.0, "undecided"),
        (0.5, 1.0, "no"),
        (2.0, 2.5, "no"),
        (1.0, 1.0, "no"),
    ],
)
def test_a_claim_holds_where_all_of_the_interval_does(low, high, expected):
    assert judged("c", "p", measured(low, high), between=(1, 2)).holds == expected
    inverse = {"yes": "no", "no": "yes", "undecided": "undecided"}[expected]
    assert judged("c", "p", measured(low, high), outside=(1, 2)).holds == inverse


def test_an_infinite_bound_bounds_nothing():
    assert judged("c", "p", measured(2, inf), between=(1, inf)).holds == "yes"
    assert judged("c", "p", measured(inf, inf), between=(1, inf)).holds == "yes"
    assert judged("c", "p", measured(-inf, 1), between=(1, inf)).holds == "no"
    assert judged("c", "p", measured(-inf, inf, value=3), between=(1, inf)).holds == "undecided"


@pytest.mark.parametrize(("paper", "expected"), [(44, "no"), (45, "yes"), (52, "yes"), (65, "yes"), (66, "no")])
def test_a_number_is_near_where_the_papers_is_within_the_tolerance_of_the_interval(paper, expected):
    assert near("c", paper, measured(50, 60), tolerance=5).holds == expected


def test_a_claim_needs_one_kind_of_bounds():
    for bounds in ({}, {"between": (0, 1), "outside": (0, 1)}):
        with pytest.raises(ValueError, match="claim 'c': expected one of between and outside"):
            judged("c", "p", measured(0, 1), **bounds)


@pytest.mark.parametrize("error", [Undecidable("pgd was not run"), NoCommonSample("no sample in common")])
def test_what_was_not_run_is_undecided_and_says_why(error):
    def measure():
        raise error

    for claim in (judged("c", 3, measure, between=(0, 1)), near("c", 3, measure, tolerance=1)):
        assert claim == undecided("c", 3, str(error))
        assert (claim.ours, claim.holds) == (None, "undecided")


def test_other_errors_are_errors():
    with pytest.raises(KeyError):
        judged("c", 3, lambda: {}["x"], between=(0, 1))


def test_a_ratio_of_nothing_to_nothing_is_undecided():
    claim = judged("c", "p", measured(-inf, inf, value=nan), between=(0, 1))
    assert (claim.ours, claim.holds) == (None, "undecided") and "not defined" in claim.note


def test_the_note_says_what_the_number_is_over():
    assert judged("c", "p", measured(0, 1), between=(0, 1)).note == "50 samples"
    claim = judged("c", "p", measured(0, 1, runs=3), between=(0, 1), note="holds above 0")
    assert claim.note == "50 samples, 3 seeds; holds above 0"


def test_an_answer_is_one_of_three():
    with pytest.raises(ValueError, match="claim 'c': holds: 'maybe', expected yes, no or undecided"):
        Claim("c", 1, 1, 1, 1, "maybe", "")


def test_claims_as_csv():
    claims = [
        judged("a, b", 85.0, measured(0.5, 1.5), between=(0, 2)),
        undecided("c", "increases", "not run"),
        judged("d", "", measured(1, inf, value=2), between=(2, inf)),
    ]
    assert csv_text(claims_table(claims)) == (
        "claim,paper,ours,ci_low,ci_high,holds,note\n"
        '"a, b",85,1,0.5,1.5,yes,50 samples\n'
        "c,increases,,,,undecided,not run\n"
        "d,,2,1,inf,undecided,50 samples\n"
    )
    assert csv_text(claims_table([])) == "claim,paper,ours,ci_low,ci_high,holds,note\n"
