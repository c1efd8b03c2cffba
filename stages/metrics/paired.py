"""Comparisons of two networks, or of two attacks, on the same samples."""

import numpy as np
import pandas as pd
from scipy import stats

SIGNIFICANCE = 0.01


def on_common_samples(first: pd.Series, second: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """The values (bool) of two series on the samples, their index, that both have, in the same order.

    Raises `ValueError` where there is no such sample.
    """
    if not first.index.equals(second.index):
        common = first.index.intersection(second.index)
        first, second = first.loc[common], second.loc[common]
    if first.empty:
        raise ValueError("two evaluations to compare have no sample in common")
    return first.to_numpy(dtype=bool), second.to_numpy(dtype=bool)


def mcnemar(first: pd.Series, second: pd.Series) -> float:
    """Two-sided p-value of McNemar's exact test that two series are equally accurate.

    Each is the correctness (bool) of samples, its index; the test is on the samples that both have.

    Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12 (1947); the discordant samples are binomial with probability 1/2.
    """
    only_first, only_second = _discordant(*on_common_samples(first, second))
    return _exact_p(only_first, only_second)


def significantly_lower(first: pd.Series, second: pd.Series, significance: float = SIGNIFICANCE) -> bool:
    """Whether `first` is less accurate than `second` (bool, indexed by sample), by `mcnemar` below `significance`."""
    only_first, only_second = _discordant(*on_common_samples(first, second))
    return only_first < only_second and _exact_p(only_first, only_second) < significance


def _discordant(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    return int(np.sum(first & ~second)), int(np.sum(second & ~first))


def _exact_p(only_first: int, only_second: int) -> float:
    if only_first + only_second == 0:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second).pvalue)
