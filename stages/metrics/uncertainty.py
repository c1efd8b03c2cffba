"""How good a network's uncertainty is: accuracy against rejection, calibration, and whether errors are uncertain."""

import numpy as np
import pandas as pd

from stages.metrics.cells import VARIANT
from stages.norms import EPSILON_TOLERANCE

BINS = 15  # of confidence
UNCERTAINTIES = ("entropy", "mutual_information")
REJECTED = (0.05, 0.2)  # shares at which the table has accuracies
CELL = [*VARIANT, "threat", "surrogate", "attack", "norm", "epsilon"]
COLUMNS = [
    *CELL,
    *("n", "accuracy", "confidence", "calibration_error"),
    *(
        f"{uncertainty}_{name}"
        for uncertainty in UNCERTAINTIES
        for name in ("separation", "accuracy_05", "accuracy_20")
    ),
]


def rejection_curve(correct: np.ndarray, uncertainty: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares that are rejected, ascending from 0, and the accuracy of the rest, in [0,1], both [P].

    One point a threshold: samples that are equally uncertain are rejected together. correct: bool [N].
    uncertainty: [N], finite. Geifman and El-Yaniv, "Selective classification for deep neural networks", NIPS 2017,
    https://arxiv.org/abs/1705.08500. Raises ValueError without samples.
    """
    if not len(correct):
        raise ValueError("rejection_curve: there is no sample, expected some")
    order = np.argsort(uncertainty, kind="stable")
    right = np.cumsum(np.asarray(correct, dtype=float)[order])
    last_of_its_value = np.append(np.diff(np.asarray(uncertainty)[order]) > 0, True)
    kept = np.flatnonzero(last_of_its_value)[::-1] + 1
    return 1 - kept / len(order), right[kept - 1] / kept


def accuracy_when_rejecting(correct: np.ndarray, uncertainty: np.ndarray, share: float) -> float:
    """The accuracy of what is left when at most this share of the samples, the most uncertain ones, are rejected."""
    rejected, accuracy = rejection_curve(correct, uncertainty)
    return float(accuracy[np.flatnonzero(rejected <= share + 1e-9)[-1]])


def expected_calibration_error(correct: np.ndarray, confidence: np.ndarray, bins: int = BINS) -> float:
    """How far confidence and accuracy differ, in [0,1]: the mean over equal bins of confidence, by their samples.

    confidence: [N] in [0, 1], the probability of the predicted class. Guo, Pleiss, Sun and Weinberger, "On calibration
    of modern neural networks", ICML 2017, https://arxiv.org/abs/1706.04599 (equation 3); a bin includes its upper end.
    """
    places = np.clip(np.ceil(np.asarray(confidence, dtype=float) * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(places, weights=np.asarray(correct, dtype=float) - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(places))


def separation(correct: np.ndarray, uncertainty: np.ndarray) -> float:
    """The probability that an error is more uncertain than a correct prediction, ties counted half (the area under the
    ROC curve); NaN where there are no errors, or nothing else."""
    correct = np.asarray(correct, dtype=bool)
    ranks = pd.Series(uncertainty).rank().to_numpy()
    errors, rest = (~correct).sum(), correct.sum()
    if not errors or not rest:
        return float("nan")
    return float((ranks[~correct].sum() - errors * (errors + 1) / 2) / (errors * rest))


def at_headlines(scores: pd.DataFrame, headlines: dict[str, float]) -> pd.DataFrame:
    """The scores of networks that say how sure they are, clean and at the headline epsilon of each norm."""
    budgets = scores["norm"].map(headlines)
    near = (scores["epsilon"] - budgets).abs() <= EPSILON_TOLERANCE
    return scores[scores["confidence"].notna() & (near | (scores["threat"] == "clean"))]


def uncertainty_table(scores: pd.DataFrame, headlines: dict[str, float]) -> pd.DataFrame:
    """One row a network, attack and norm, clean and at the headline epsilon: columns `COLUMNS`.

    `scores` is the concatenation of all scores files, of which networks without a vote have no confidence and are left
    out. `n`: the samples. `accuracy`: of the predictions themselves, which confidence is about: unlike robust accuracy
    also where a perturbation happens to undo a clean mistake. `confidence`: the mean probability of the predicted
    class. `calibration_error`: in [0,1].
    `<uncertainty>_separation`: the probability that an error is more uncertain than a correct prediction.
    `<uncertainty>_accuracy_<percent>`: of what is left when that share is rejected.
    """
    groups = at_headlines(scores, headlines).groupby(CELL)
    rows = [dict(zip(CELL, key, strict=True)) | _statistics(group) for key, group in groups]
    return pd.DataFrame(rows, columns=COLUMNS).sort_values(CELL, ignore_index=True)


def _statistics(rows: pd.DataFrame) -> dict[str, float]:
    correct = rows["correct"].to_numpy(dtype=bool)
    found: dict[str, float] = {
        "n": len(rows),
        "accuracy": correct.mean(),
        "confidence": rows["confidence"].mean(),
        "calibration_error": expected_calibration_error(correct, rows["confidence"].to_numpy()),
    }
    for name in UNCERTAINTIES:
        uncertainty = rows[name].to_numpy()
        found[f"{name}_separation"] = separation(correct, uncertainty)
        for share in REJECTED:
            found[f"{name}_accuracy_{100 * share:02.0f}"] = accuracy_when_rejecting(correct, uncertainty, share)
    return found
