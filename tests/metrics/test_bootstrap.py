"""Intervals by resampling common samples."""

import numpy as np
import pandas as pd
import pytest

from stages.metrics.bootstrap import (
    NoCommonSample,
    difference_of_means,
    mean,
    median,
    paired_bootstrap,
    ratio_of_means,
    ratio_of_medians,
)


def over_runs(*runs):
    """One series a run, by seed and sample."""
    return pd.concat({seed: pd.Series(values) for seed, values in enumerate(runs)}, names=["seed", "sample"])


def test_a_difference_is_the_paired_mean_with_its_standard_error():
    first = pd.Series([1] * 30 + [0] * 10 + [1] * 60)
    second = pd.Series([0] * 30 + [1] * 10 + [1] * 60)
    found = paired_bootstrap(difference_of_means, first, second, seed=7)
    assert (found.value, found.samples, found.runs) == (pytest.approx(0.2), 100, 1)
    # Differences are 1, -1 and 0 in shares .3, .1 and .6: deviation sqrt(.4 - .2^2) = .6, standard error .06.
    assert found.low == pytest.approx(0.2 - 1.96 * 0.06, abs=0.02)
    assert found.high == pytest.approx(0.2 + 1.96 * 0.06, abs=0.02)
    assert found == paired_bootstrap(difference_of_means, first, second, seed=7)
    assert found != paired_bootstrap(difference_of_means, first, second, seed=8)


def test_the_same_two_accuracies_on_the_same_samples_leave_nothing_to_chance():
    same = pd.Series([True] * 50 + [False] * 50)
    assert paired_bootstrap(difference_of_means, same, same.copy())[:3] == (0, 0, 0)
    apart = paired_bootstrap(difference_of_means, same, ~same)
    assert apart.value == 0 and apart.low < -0.1 and apart.high > 0.1


def test_a_median_has_the_interval_of_order_statistics():
    found = paired_bootstrap(median, pd.Series(range(1, 402)))
    # Binomial: ranks 201 -+ 1.96 * sqrt(401) / 2.
    assert found.value == 201
    assert (found.low, found.high) == (pytest.approx(201 - 19.6, abs=4), pytest.approx(201 + 19.6, abs=4))


def test_ratios_are_those_of_the_medians_and_of_the_means():
    values = pd.Series([1.0, 2.0, 6.0])
    for statistic in (ratio_of_medians, ratio_of_means):
        assert paired_bootstrap(statistic, 3 * values, values)[:3] == (3, 3, 3)
    assert paired_bootstrap(ratio_of_medians, values, pd.Series([4.0, 4.0, 4.0])).value == 0.5
    assert paired_bootstrap(ratio_of_means, values, pd.Series([4.0, 4.0, 4.0])).value == 0.75


def test_infinite_values_are_larger_than_any():
    found = paired_bootstrap(ratio_of_medians, pd.Series([1.0, 2.0, np.inf]), pd.Series([1.0, 1.0, 1.0]))
    assert (found.value, found.low, found.high) == (2, 1, np.inf)


def test_what_is_not_defined_could_be_anything():
    infinite = pd.Series([np.inf, np.inf, np.inf, 1.0])
    found = paired_bootstrap(ratio_of_medians, infinite, infinite)
    assert np.isnan(found.value) and (found.low, found.high) == (-np.inf, np.inf)


def test_only_common_samples_count_in_one_order():
    first = pd.Series([5.0, 1.0, 7.0, np.nan], index=pd.Index([3, 1, 7, 4], name="sample"))
    second = pd.Series([1.0, 2.0, 9.0, 9.0], index=pd.Index([1, 3, 9, 4], name="sample"))
    found = paired_bootstrap(difference_of_means, first, second)
    assert (found.value, found.samples) == (1.5, 2)
    with pytest.raises(NoCommonSample, match="no sample in common"):
        paired_bootstrap(difference_of_means, first, second.drop([1, 3]))


def test_a_sample_is_drawn_with_all_its_runs():
    values = np.arange(100.0)
    one, three = paired_bootstrap(mean, over_runs(values)), paired_bootstrap(mean, over_runs(values, values, values))
    # Runs that agree tell no more than one of them.
    assert three[:4] == one[:4] and (one.runs, three.runs) == (1, 3)


def test_only_common_runs_count():
    first, second = over_runs([1.0, 2.0], [3.0, 5.0]), over_runs([0.0, 0.0])
    found = paired_bootstrap(difference_of_means, first, second)
    assert (found.value, found.samples, found.runs) == (1.5, 2, 1)


def test_resampling_in_chunks_gives_the_same_up_to_chance(monkeypatch):
    values = pd.Series(np.arange(50.0))
    whole = paired_bootstrap(mean, values)
    monkeypatch.setattr("stages.metrics.bootstrap.CHUNK", 50 * 3)
    assert paired_bootstrap(mean, values) == pytest.approx(whole, abs=0.5)
