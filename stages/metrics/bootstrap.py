"""Intervals of comparisons on the same samples, by resampling them.

B. Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7 (1979).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

CHUNK = 4_000_000  # values that are resampled at a time


class Estimate(NamedTuple):
    """A statistic with its interval, in its own unit, and what it is over: so many samples of each of so many runs.

    unit: what the samples are.
    """

    value: float
    low: float
    high: float
    samples: int
    runs: int
    unit: str = "samples"


class NoCommonSample(ValueError):
    """Evaluations to compare were made on different samples."""


def paired_bootstrap(
    statistic: Callable[..., np.ndarray],
    *measured: pd.Series,
    seed: int = 0,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Estimate:
    """A statistic of what was measured on the same samples, with its percentile interval.

    `measured` are indexed by `sample`, or by another level (the run) and `sample`. Where there are several runs, a
    sample is drawn with its values of all runs, since those of one image are alike: the interval is over samples, for
    these runs. Only samples that all have, in all common runs, and that are not NaN, count; values may be infinite.
    `statistic` takes one array [R, V] each and gives [R]. Where it is not defined in a resample (NaN) it could be
    anything, so the interval grows. The same `seed` gives the same interval.

    Raises NoCommonSample where no sample is left.
    """
    columns = _on_common_samples(measured)
    count, runs = columns[0].shape
    generator = np.random.default_rng(seed)
    chunk = max(1, CHUNK // columns[0].size)
    drawn = []
    for start in range(0, resamples, chunk):
        rows = generator.integers(0, count, (min(chunk, resamples - start), count))
        drawn.append(statistic(*(column[rows].reshape(len(rows), -1) for column in columns)))
    found = np.concatenate(drawn)
    undefined = np.isnan(found)
    # Values that occur, so that infinite ones do no harm: no averages between two.
    low, high = (
        np.quantile(np.where(undefined, anything, found), share, method="inverted_cdf")
        for anything, share in ((-np.inf, (1 - confidence) / 2), (np.inf, (1 + confidence) / 2))
    )
    (value,) = statistic(*(column.reshape(1, -1) for column in columns))
    return Estimate(float(value), float(low), float(high), count, runs)


def mean(values: np.ndarray) -> np.ndarray:
    """Means [R] of values [R, V]."""
    return values.mean(axis=1)


def median(values: np.ndarray) -> np.ndarray:
    """Medians [R] of values [R, V]: of two in the middle the lower, so that infinite ones do no harm."""
    middle = (values.shape[1] - 1) // 2
    return np.partition(values, middle, axis=1)[:, middle]


def difference_of_means(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """First minus second, [R]."""
    return mean(first) - mean(second)


def ratio_of_means(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """First over second, [R]; NaN where both are zero."""
    return _ratio(mean(first), mean(second))


def ratio_of_medians(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """First over second, [R]; NaN where both are zero or both are infinite."""
    return _ratio(median(first), median(second))


def _ratio(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return first / second


def _on_common_samples(measured: tuple[pd.Series, ...]) -> list[np.ndarray]:
    """One array [samples, runs] each."""
    frame = pd.concat([series.astype(float) for series in measured], axis=1, join="inner", keys=range(len(measured)))
    frame = frame.dropna()
    if frame.index.nlevels > 1:
        frame = frame.unstack([name for name in frame.index.names if name != "sample"]).dropna()
    if frame.empty:
        raise NoCommonSample("evaluations to compare have no sample in common")
    return [frame[number].to_numpy().reshape(len(frame), -1) for number in range(len(measured))]
