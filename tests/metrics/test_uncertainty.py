"""Quality of uncertainty on numbers that were worked out by hand."""

from math import isnan

import numpy as np
import pandas as pd
import pytest

from stages.metrics.cells import VARIANT
from stages.metrics.uncertainty import (
    COLUMNS,
    accuracy_when_rejecting,
    expected_calibration_error,
    rejection_curve,
    separation,
    uncertainty_table,
)

CORRECT = np.array([True, False, True, True, False])
UNCERTAINTY = np.array([0.1, 0.9, 0.3, 0.5, 0.5])


def test_each_threshold_rejects_what_is_above_it():
    rejected, accuracy = rejection_curve(CORRECT, UNCERTAINTY)
    assert rejected == pytest.approx([0, 0.2, 0.6, 0.8])  # the two at .5 together
    assert accuracy == pytest.approx([3 / 5, 3 / 4, 1, 1])


def test_what_is_left_when_a_share_is_rejected():
    left = {share: accuracy_when_rejecting(CORRECT, UNCERTAINTY, share) for share in (0, 0.19, 0.2, 0.5, 0.9)}
    assert left == pytest.approx({0: 0.6, 0.19: 0.6, 0.2: 0.75, 0.5: 0.75, 0.9: 1})


def test_equal_uncertainties_cannot_be_told_apart():
    rejected, accuracy = rejection_curve(CORRECT, np.ones(5))
    assert rejected.tolist() == [0] and accuracy == pytest.approx([0.6])
    assert separation(CORRECT, np.ones(5)) == 0.5


def test_nothing_has_no_curve():
    with pytest.raises(ValueError, match="there is no sample"):
        rejection_curve(np.array([], dtype=bool), np.array([]))


def test_calibration_error_is_the_mean_gap_of_bins():
    confidence = np.array([0.95, 0.85, 0.95, 0.55, 0.6])
    # Ten bins: .9 to 1 holds two right of .95, .8 to .9 a wrong one, .5 to .6 one of two right at .575.
    expected = (2 * abs(1 - 0.95) + abs(0 - 0.85) + 2 * abs(0.5 - 0.575)) / 5
    assert expected_calibration_error(CORRECT, confidence, bins=10) == pytest.approx(expected)
    assert expected_calibration_error(CORRECT, np.full(5, 0.6)) == pytest.approx(0, abs=1e-12)
    assert expected_calibration_error(np.ones(3, bool), np.ones(3)) == 0
    assert expected_calibration_error(np.zeros(3, bool), np.ones(3)) == 1


def test_separation_counts_pairs():
    # Of six pairs of an error and a right one, .9 beats three, .5 beats two and ties with one.
    assert separation(CORRECT, UNCERTAINTY) == pytest.approx(5.5 / 6)
    assert separation(CORRECT, -UNCERTAINTY) == pytest.approx(0.5 / 6)
    assert isnan(separation(np.ones(3, bool), np.ones(3)))


def scores():
    facts = dict(zip(VARIANT, ("fashion_mnist", "tiny_cnn", "int8", "shield", 0), strict=True))
    common = {"correct": CORRECT, "confidence": 0.6, "entropy": UNCERTAINTY, "mutual_information": UNCERTAINTY[::-1]}
    clean = {"threat": "clean", "surrogate": "", "attack": "clean", "norm": "", "epsilon": 0.0}
    attacked = {"threat": "adaptive", "surrogate": "", "attack": "pgd", "norm": "linf"}
    frames = [facts | common | clean, *(facts | common | attacked | {"epsilon": e} for e in (0.0, 0.1, 0.2))]
    frames.append(facts | common | clean | {"defense": "none", "confidence": np.nan})
    return pd.concat([pd.DataFrame(frame) for frame in frames], ignore_index=True)


def test_the_table_has_a_row_clean_and_one_an_attack_at_the_headline_epsilon():
    table = uncertainty_table(scores(), {"linf": 0.1})
    assert list(table.columns) == COLUMNS
    assert table[["defense", "threat", "epsilon"]].values.tolist() == [
        ["shield", "adaptive", 0.1],
        ["shield", "clean", 0],
    ]
    row = table.iloc[0]
    assert (row["n"], row["accuracy"], row["calibration_error"]) == (5, pytest.approx(0.6), pytest.approx(0, abs=1e-12))
    assert row["entropy_separation"] == pytest.approx(5.5 / 6)
    assert row["entropy_accuracy_05"] == pytest.approx(0.6) and row["entropy_accuracy_20"] == pytest.approx(0.75)
    assert row["mutual_information_separation"] == pytest.approx(separation(CORRECT, UNCERTAINTY[::-1]))
