from math import comb

import numpy as np
import pandas as pd
import pytest

from stages.metrics.paired import mcnemar, on_common_samples, significantly_lower


def pair(only_first, only_second, both=50):
    """Two series of correctness with that many discordant samples."""
    first = [True] * only_first + [False] * only_second + [True] * both
    second = [False] * only_first + [True] * only_second + [True] * both
    return pd.Series(first), pd.Series(second)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [(0, 0, 1.0), (5, 5, 1.0), (0, 7, 2 / 2**7), (0, 8, 2 / 2**8), (1, 9, 2 * (1 + 10) / 2**10), (1, 0, 1.0)],
)
def test_mcnemar_in_closed_form(only_first, only_second, p):
    assert mcnemar(*pair(only_first, only_second)) == pytest.approx(p)
    assert mcnemar(*pair(only_second, only_first)) == pytest.approx(p)


def test_mcnemar_is_twice_the_binomial_tail():
    tail = sum(comb(22, count) for count in range(7)) / 2**22
    assert mcnemar(*pair(6, 16)) == pytest.approx(2 * tail)


def test_significantly_lower_has_a_direction_and_a_threshold():
    assert significantly_lower(*pair(0, 8))  # p = .0078
    assert not significantly_lower(*pair(8, 0))
    assert not significantly_lower(*pair(0, 7))  # p = .0156


def test_comparisons_are_on_common_samples_in_one_order():
    first = pd.Series([True, False, True], index=[3, 1, 7])
    second = pd.Series([False, True, True], index=[1, 3, 9])
    ours, theirs = on_common_samples(first, second)
    np.testing.assert_array_equal(ours, theirs)
    assert sorted(ours) == [False, True]


def test_no_common_sample_is_refused():
    with pytest.raises(ValueError, match="no sample in common"):
        mcnemar(pd.Series([True], index=[1]), pd.Series([True], index=[2]))
