"""Comparisons of two networks, or of two attacks, on the same samples."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

SIGNIFICANCE = 0.01


class Difference(NamedTuple):
    """A difference of accuracies, first minus second, with its interval; fractions in [-1,1]."""

    mean: float
    low: float
    high: float


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


def bootstrap_difference(
    first: pd.Series, second: pd.Series, *, seed: int, resamples: int = 9999, confidence: float = 0.95
) -> Difference:
    """Difference of accuracy, first minus second, with its percentile interval by resampling the common samples.

    The same `seed` gives the same interval.

    B. Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7 (1979).
    """
    first_correct, second_correct = on_common_samples(first, second)
    differences = first_correct.astype(float) - second_correct
    interval = stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Difference(float(differences.mean()), float(interval.low), float(interval.high))


def _discordant(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    return int(np.sum(first & ~second)), int(np.sum(second & ~first))


def _exact_p(only_first: int, only_second: int) -> float:
    if only_first + only_second == 0:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second).pvalue)
