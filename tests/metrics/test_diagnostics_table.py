"""The table of diagnostics: one row a network and quantized part."""

import numpy as np
import pandas as pd
import pytest

from stages.metrics.diagnostics import COLUMNS, NOISE_LEVELS, PARTS, diagnostics_table, quantile
from stages.quantization import attribution
from tests.synthetic_diagnostics import synthetic_diagnostics


def measured(diagnostic, values, part="all", magnitude=0.0, scheme="int8", seed=0):
    facts = {"dataset": "d", "model": "m", "scheme": scheme, "defense": "none", "seed": seed}
    facts |= {"diagnostic": diagnostic, "part": part, "magnitude": magnitude}
    return pd.DataFrame({"sample": range(len(values)), "value": values}).assign(**facts)


def network(**others):
    """The rows of one network with four samples; some of its diagnostics given."""
    given = {
        "gradient_norm": [1.0, 2.0, 3.0, 0.0],
        "gradient_step": [0.5, -0.5, 1.0, 0.0],
        "random_step": [0.1, -0.3, 0.2, 0.0],
        "clean_correct": [1.0, 1.0, 0.0, 1.0],
    }
    return pd.concat([measured(name, values) for name, values in (given | others).items()], ignore_index=True)


def test_a_row_of_known_numbers():
    (row,) = diagnostics_table(
        pd.concat(
            [
                network(gradient_cosine=[0.5, np.nan, 0.75, 0.25], distance_l2=[1.0, np.inf, 0.0, 3.0]),
                measured("robust_correct", [0.0, 1.0, 0.0, 0.0], magnitude=8 / 255),
                measured("logit_shift", [0.1, 0.2, 0.3, 0.4], magnitude=2 / 255),
                measured("prediction_change", [0.0, 0.0, 1.0, 0.0], magnitude=2 / 255),
            ]
        )
    ).to_dict("records")
    assert (row["n"], row["clean_accuracy"], row["robust_accuracy"], row["epsilon"]) == (4, 0.75, 0.25, 8 / 255)
    assert (row["zero_gradients"], row["rising_steps"]) == (0.25, 0.5)
    assert (row["gradient_step"], row["random_step"]) == (0.25, pytest.approx(0.15))
    assert [row[f"gradient_norm_{name}"] for name in ("q1", "median", "q3")] == [0, 1, 2]
    assert [row[f"gradient_cosine_{name}"] for name in ("q1", "median", "q3")] == [0.25, 0.5, 0.75]
    assert [row[f"distance_l2_{name}"] for name in ("q1", "median", "q3")] == [1, 3, np.inf]
    assert (row["logit_shift_2"], row["prediction_change_2"]) == (0.25, 0.25)
    assert np.isnan(row["distance_linf_median"]) and np.isnan(row["logit_shift_0"])


def test_a_network_that_was_not_attacked_has_no_robust_accuracy():
    table = diagnostics_table(network())
    assert list(table.columns) == COLUMNS
    assert table[["epsilon", "robust_accuracy"]].isna().all(axis=None)


def test_one_row_a_network_and_part_in_a_fixed_order():
    rows = synthetic_diagnostics()
    table = diagnostics_table(rows.sample(frac=1, random_state=0))
    pd.testing.assert_frame_equal(table, diagnostics_table(rows))
    quantized = table[table["scheme"] != "fp32"]
    for _, parts in quantized.groupby(["scheme", "defense"]):
        assert parts["part"].tolist() == list(PARTS)
    assert table.loc[table["scheme"] == "fp32", "part"].tolist() == ["none"] * 2


def test_seeds_are_rows_of_their_own():
    rows = pd.concat([network(), network().assign(seed=1)])
    assert diagnostics_table(rows)["seed"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([3, 1, 2], 0.5, 2), ([1, 2, 3, 4], 0.5, 2), ([1, np.inf], 0.75, np.inf), ([1, np.nan, 2], 1, 2), ([2.0], 0, 2)],
)
def test_quantile(values, share, expected):
    assert quantile(pd.Series(values, dtype=float), share) == expected


def test_quantile_of_nothing():
    assert np.isnan(quantile(pd.Series([np.nan, np.nan]), 0.5))


def test_parts_and_noise_are_those_that_are_measured():
    from stages import diagnose

    assert PARTS == attribution.PARTS
    assert [round(255 * magnitude) for magnitude in diagnose.NOISE] == list(NOISE_LEVELS)
