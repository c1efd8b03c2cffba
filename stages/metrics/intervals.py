"""Confidence intervals: over samples for one network, over seeds for several."""

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


def wilson(successes, trials, confidence: float = CONFIDENCE) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's score interval of a proportion: `(low, high)`, each shaped like `successes`, in [0,1].

    `successes` and `trials` are counts (arrays or numbers). Raises `ValueError` unless 0 <= successes <= trials and
    trials > 0.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    successes, trials = np.asarray(successes, dtype=float), np.asarray(trials, dtype=float)
    if np.any(trials <= 0) or np.any(successes < 0) or np.any(successes > trials):
        raise ValueError(f"a proportion needs 0 <= successes <= trials and trials > 0, got {successes} of {trials}")
    z = stats.norm.ppf((1 + confidence) / 2)
    proportion = successes / trials
    center = proportion + z**2 / (2 * trials)
    half_width = z * np.sqrt(proportion * (1 - proportion) / trials + z**2 / (4 * trials**2))
    shrinkage = 1 + z**2 / trials
    low, high = (center - half_width) / shrinkage, (center + half_width) / shrinkage
    # At 0 and at all successes one end is the proportion itself, which rounding would miss by an ulp.
    return np.where(successes == 0, 0.0, low), np.where(successes == trials, 1.0, high)


def t_interval(values, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Student's t-interval `(low, high)` of the mean of independent fractions (one per seed), cut to [0,1].

    Raises `ValueError` for fewer than two values, which have no spread to judge by.

    Student, "The probable error of a mean", Biometrika 6 (1908).
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        raise ValueError(f"a t-interval needs at least 2 values, got {len(values)}")
    half_width = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return max(0.0, float(values.mean() - half_width)), min(1.0, float(values.mean() + half_width))
