import numpy as np
import pytest
from scipy import stats

from stages.metrics.intervals import t_interval, wilson

# The last four: R. G. Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17
# (1998), table I, method 3.
KNOWN = [
    (8, 10, 0.4902, 0.9433),
    (10, 10, 0.7225, 1.0),
    (0, 10, 0.0, 0.2775),
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
]


@pytest.mark.parametrize(("successes", "trials", "low", "high"), KNOWN)
def test_wilson_against_tables(successes, trials, low, high):
    assert wilson(successes, trials) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_wilson_ends_are_exact_at_no_and_at_all_successes():
    trials = np.arange(1, 500)
    assert np.all(wilson(np.zeros(499), trials)[0] == 0)
    assert np.all(wilson(trials, trials)[1] == 1)


def test_wilson_of_arrays_agrees_with_scipy():
    successes = np.arange(201)
    low, high = wilson(successes, 200)
    expected = [stats.binomtest(int(count), 200).proportion_ci(method="wilson") for count in successes]
    np.testing.assert_allclose(low, [interval.low for interval in expected], atol=1e-12)
    np.testing.assert_allclose(high, [interval.high for interval in expected], atol=1e-12)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 10), (11, 10)])
def test_wilson_refuses_impossible_counts(successes, trials):
    with pytest.raises(ValueError, match="0 <= successes <= trials"):
        wilson(successes, trials)


def test_t_interval_in_closed_form():
    # mean .6, deviation .1, t(.975; 2 degrees of freedom) = 4.302653
    half_width = 4.302653 * 0.1 / np.sqrt(3)
    assert t_interval([0.5, 0.6, 0.7]) == pytest.approx((0.6 - half_width, 0.6 + half_width), abs=1e-6)


def test_t_interval_stays_a_fraction():
    assert t_interval([0.0, 1.0]) == (0.0, 1.0)


def test_t_interval_refuses_a_single_value():
    with pytest.raises(ValueError, match="at least 2 values, got 1"):
        t_interval([0.5])
