import json
from io import StringIO

import numpy as np
import pandas as pd
import pytest

from stages.artifacts.scores import save_scores
from stages.metrics.cells import EFFORT
from stages.metrics.results import (
    COLUMNS,
    at_epsilon,
    csv_text,
    metrics,
    results,
    variant_names,
    variants_table,
    worst_case_table,
)
from stages.plan import Variant
from tests.synthetic import EPSILONS, synthetic_scores

HEADLINE = 8 / 255
SMALL = {"schemes": ("fp32", "int8"), "samples": 60, "test_samples": 120}


@pytest.fixture(scope="module")
def scores():
    return synthetic_scores(**SMALL)


@pytest.fixture(scope="module")
def table(scores):
    return results(scores, {"resnet8": 0.86})


def by_hand():
    """One network, four test samples of which three are attacked at 8/255."""
    shared = {"dataset": "data", "model": "net", "scheme": "int8", "defense": "none", "seed": 0, "surrogate": ""}
    clean = {"threat": "clean", "attack": "clean", "norm": "", "grid": "", "epsilon": 0.0, "sample": [0, 1, 2, 3]}
    pgd = {"threat": "white_box", "attack": "pgd", "norm": "linf", "grid": "digital", "epsilon": HEADLINE}
    noise = pgd | {"threat": "noise", "attack": "noise", "sample": [0, 1, 2]}
    frames = [
        pd.DataFrame(clean | {"correct": [True, True, False, True], "l0": 0, "l1": 0.0, "l2": 0.0, "linf": 0.0}),
        pd.DataFrame(
            pgd
            | {"sample": [0, 1, 2], "correct": [False] * 3}
            | {"l0": [5, 7, 100], "l1": 1.0, "l2": [0.2, 0.4, 9.0], "linf": 0.03}
        ),
        pd.DataFrame(noise | {"correct": [True, False, True], "l0": 3, "l1": 0.5, "l2": 0.1, "linf": 0.02}),
    ]
    unknown = {"detected": None, "stochastic": False}
    effort = [(1.0, 0.0, 0), (11.0, 10.0, 1), (1.0, 0.0, 0)]
    scored = [
        frame.assign(**shared, **unknown, flips=0, **dict(zip(EFFORT, spent, strict=True)), gradient_norm=1.0)
        for frame, spent in zip(frames, effort, strict=True)
    ]
    return pd.concat(scored, ignore_index=True)


def test_results_of_a_case_computed_by_hand():
    table = results(by_hand(), {})
    assert list(table.columns) == COLUMNS
    assert table["threat"].tolist() == ["clean", "white_box", "noise", "worst_case"]
    assert table["attack"].tolist() == ["clean", "pgd", "noise", "all"]
    assert table["n"].tolist() == [4, 3, 3, 3]
    # Sample 2 was wrong clean, so neither its distance under PGD counts nor that noise happened to correct it.
    np.testing.assert_allclose(table["accuracy"], [3 / 4, 0, 1 / 3, 0])
    np.testing.assert_allclose(table["mean_l0"], [np.nan, 6, 3, 4])
    np.testing.assert_allclose(table["mean_l2"], [np.nan, 0.3, 0.1, 0.15])
    np.testing.assert_allclose(table["mean_linf"], [np.nan, 0.03, 0.02, 0.025])
    np.testing.assert_allclose(table["forwards"], [1, 11, 1, 12])
    np.testing.assert_allclose(table["backwards"], [0, 10, 0, 10])
    # Wilson 0 of 3: z^2 / (3 + z^2)
    assert table.loc[1, ["ci_low", "ci_high"]].tolist() == [0, pytest.approx(1.959964**2 / (3 + 1.959964**2))]
    assert (table["seed"] == "0").all() and (table["surrogate"] == "").all() and (table["flags"] == "").all()


def test_the_columns_are_those_of_the_design(table):
    assert ",".join(table.columns) == (
        "dataset,model,scheme,defense,seed,threat,surrogate,attack,norm,grid,epsilon,flips,n,accuracy,ci_low,ci_high,"
        "detected,accuracy_with_detector,"
        "mean_l0,mean_l1,mean_l2,mean_linf,forwards,backwards,eot_samples,flags"
    )


def test_one_row_a_cell(table):
    identity = COLUMNS[: COLUMNS.index("n")]
    assert not table.duplicated(identity).any()
    networks, surrogates = 7, 6
    rows_of_a_network = 1 + 6 * 3 + 1 + surrogates * 6 + 6  # clean, attacks, sanity check, transfer, worst case
    assert len(table) == networks * rows_of_a_network


def test_intervals_hold_the_accuracy(table):
    assert (table["ci_low"] <= table["accuracy"]).all() and (table["accuracy"] <= table["ci_high"]).all()
    assert (table["ci_low"] >= 0).all() and (table["ci_high"] <= 1).all()


def test_accuracy_at_epsilon_0_is_clean_accuracy_on_the_same_samples(scores, table):
    clean = scores[(scores["threat"] == "clean") & (scores["sample"] < SMALL["samples"])]
    expected = clean.groupby(variant_names(clean))["correct"].mean()
    at_0 = table[(table["epsilon"] == 0) & (table["threat"] != "clean")]
    np.testing.assert_array_equal(at_0["accuracy"], expected[variant_names(at_0)])
    assert at_0["mean_l2"].isna().all()


def test_worst_case_is_at_most_each_attack(table):
    attacked = table[~table["threat"].isin(["clean", "worst_case"]) & (table["epsilon"] < 1)]
    worst = table[table["threat"] == "worst_case"]
    worst = pd.Series(worst["accuracy"].to_numpy(), index=[*zip(variant_names(worst), worst["epsilon"], strict=True)])
    bounds = worst[[*zip(variant_names(attacked), attacked["epsilon"], strict=True)]].to_numpy()
    assert (bounds <= attacked["accuracy"]).all() and (bounds < attacked["accuracy"]).any()


def test_sanity_checks_are_in_the_table_but_not_in_the_worst_case(table):
    assert set(table.loc[table["epsilon"] == 1, "threat"]) == {"white_box"}


def test_order_of_scores_does_not_matter(scores, table):
    shuffled = scores.sample(frac=1, random_state=3)
    assert csv_text(results(shuffled, {"resnet8": 0.86})) == csv_text(table)


def test_scores_survive_their_files(tmp_path, scores, table):
    save_scores(tmp_path / "scores.parquet", scores)
    restored = pd.read_parquet(tmp_path / "scores.parquet")
    pd.testing.assert_frame_equal(restored.dtypes.to_frame(), scores.dtypes.to_frame())
    assert csv_text(results(restored, {"resnet8": 0.86})) == csv_text(table)


def test_quality_target_reaches_the_flags(scores):
    table = results(scores, {"fashion_mnist": {"resnet8": 0.99}})
    flagged = table[table["flags"].str.contains("below_quality_target")]
    baselines = table[table["scheme"].isin(["fp32", "int8"]) & (table["defense"] == "none")]
    pd.testing.assert_frame_equal(flagged, baselines)


def test_flags_are_sorted_and_joined(table):
    worst = at_epsilon(table[table["threat"] == "worst_case"], HEADLINE)
    joined = worst.loc[worst["scheme"] == "w1a1", "flags"].item().split(";")
    assert len(joined) >= 3 and joined == sorted(joined)


def test_rows_over_seeds():
    table = results(synthetic_scores(**SMALL, defenses=("none",), seeds=(0, 1, 10)), {})
    over, single = table[table["seed"] == "all"], table[table["seed"] != "all"]
    assert len(over) * 3 == len(single) and (over["n"] == 3).all()
    assert single["seed"].unique().tolist() == ["0", "1", "10"]
    mine = {"scheme": "int8", "threat": "transfer", "epsilon": 2 / 255}
    seeds, row = single, over
    for column, value in mine.items():
        seeds, row = seeds[seeds[column] == value], row[row[column] == value]
    seeds = seeds[seeds["surrogate"].str.contains("-fp32-")]
    row = row[row["surrogate"] == "fashion_mnist-resnet8-fp32-none-sall"].squeeze()
    assert row["accuracy"] == pytest.approx(seeds["accuracy"].mean())
    half_width = 4.302653 * seeds["accuracy"].std() / np.sqrt(3)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(
        (row["accuracy"] - half_width, row["accuracy"] + half_width), abs=1e-6
    )
    assert seeds["accuracy"].nunique() > 1


def test_a_worst_case_is_repeated_by_seeds_with_the_same_attacks_only():
    scores = synthetic_scores(**SMALL, defenses=("none",), also=(), seeds=(0, 1, 2))
    fewer = scores[(scores["seed"] != 2) | (scores["attack"] != "fgsm")]

    def over_seeds(scores, threat):
        table = results(scores, {})
        return table[(table["seed"] == "all") & (table["threat"] == threat) & (table["norm"] == "linf")]

    assert set(over_seeds(scores, "worst_case")["n"]) == {3}
    assert set(over_seeds(fewer, "worst_case")["n"]) == {2}
    alone = over_seeds(scores[(scores["seed"] == 0) | (scores["attack"] != "fgsm")], "worst_case")
    assert alone.empty  # the first seed's attacks are those of no other
    pgd = over_seeds(fewer, "white_box")
    assert set(pgd.loc[pgd["attack"] == "pgd", "n"]) == {3}


def test_one_seed_has_no_row_over_seeds(table):
    assert set(table["seed"]) == {"0"}


def test_a_row_over_seeds_has_the_flags_of_all():
    table = results(synthetic_scores(**SMALL, defenses=("none",), seeds=(0, 1)), {})
    masked = table[(table["scheme"] == "w1a1") & (table["attack"] == "all") & (table["epsilon"] == 16 / 255)]
    per_seed = {flag for flags in masked["flags"][masked["seed"] != "all"] for flag in flags.split(";")}
    assert masked["flags"][masked["seed"] == "all"].item() == ";".join(sorted(per_seed))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda scores: scores.drop(columns="linf"), "column 'linf' is missing"),
        (lambda scores: scores.assign(grid=None), "column 'grid' has a null"),
        (lambda scores: pd.concat([scores, scores.tail(1)]), "under noise at epsilon .*: sample 2 is there twice"),
        (lambda scores: scores[scores["threat"] != "clean"], "the clean scores of data-net-int8-none-s0 are missing"),
        (lambda scores: scores[1:], "sample 0 has no clean score"),
    ],
)
def test_incomplete_scores_are_refused(spoil, message):
    with pytest.raises(ValueError, match=message):
        results(spoil(by_hand()), {})


def test_variant_names_are_those_of_the_plan(table):
    parts = {"dataset": "data", "model": "net", "scheme": "int8", "defense": "none", "seed": 3}
    assert variant_names(pd.DataFrame([parts])).tolist() == [Variant(**parts).name]


def test_worst_case_table(table):
    wide = worst_case_table(table, "linf")
    assert wide.columns[0] == "epsilon" and set(wide.columns[1:]) == set(variant_names(table))
    np.testing.assert_array_equal(wide["epsilon"], EPSILONS)
    one = table[(table["threat"] == "worst_case") & (table["scheme"] == "w1a1")]
    np.testing.assert_array_equal(wide["fashion_mnist-resnet8-w1a1-none-s0"], one["accuracy"])


def test_metrics(table):
    found = metrics(table, "linf", HEADLINE)
    assert found["headline_epsilon"] == 0.0313725
    assert set(found["variants"]) == set(variant_names(table))
    rows = table[variant_names(table) == "fashion_mnist-resnet8-w1a1-none-s0"]
    worst = at_epsilon(rows[rows["threat"] == "worst_case"], HEADLINE).squeeze()
    assert found["variants"]["fashion_mnist-resnet8-w1a1-none-s0"] == {
        "clean_accuracy": round(rows["accuracy"].iloc[0], 6),
        "worst_case_accuracy": round(worst["accuracy"], 6),
        "flags": worst["flags"].count(";") + 1,
    }
    assert json.loads(json.dumps(found)) == found


def test_metrics_and_worst_case_table_of_several_seeds_name_each():
    table = results(synthetic_scores(**SMALL, defenses=("none",), also=(), seeds=(0, 1)), {})
    expected = [f"fashion_mnist-resnet8-{scheme}-none-s{seed}" for scheme in ("fp32", "int8") for seed in (0, 1)]
    assert [*metrics(table, "linf", HEADLINE)["variants"]] == expected
    assert worst_case_table(table, "linf").columns[1:].tolist() == expected


def test_metrics_without_the_headline_epsilon_are_refused(table):
    with pytest.raises(ValueError, match=r"no worst case at the headline epsilon 0\.0117647"):
        metrics(table, "linf", 3 / 255)


def test_at_epsilon_finds_rows_that_went_through_a_file(table):
    restored = pd.read_csv(StringIO(csv_text(table)), keep_default_na=False)
    assert len(at_epsilon(restored, HEADLINE)) == len(at_epsilon(table, HEADLINE)) > 0


def test_csv_has_six_digits_and_unix_lines():
    text = csv_text(pd.DataFrame({"epsilon": [8 / 255, 1.0], "mean_l2": [np.nan, 1e-7], "flags": ["a;b", ""]}))
    assert text == "epsilon,mean_l2,flags\n0.0313725,,a;b\n1,1e-07,\n"


def test_variants_table():
    parts = {"dataset": "data", "model": "net", "scheme": "int8", "defense": "none", "seed": 0}
    sizes = {"parameters": 4, "macs": 3, "weight_bytes": 2, "peak_activation_bytes": 1}
    infos = [
        {"variant": parts, "footprint": sizes, "layers": []},
        {"variant": parts | {"scheme": "fp32"}, "footprint": sizes | {"weight_bytes": 8}},
    ]
    assert csv_text(variants_table(infos)) == (
        "dataset,model,scheme,defense,seed,parameters,macs,weight_bytes,peak_activation_bytes\n"
        "data,net,fp32,none,0,4,3,8,1\n"
        "data,net,int8,none,0,4,3,2,1\n"
    )


def test_a_detector_rejects_what_it_takes_for_adversarial():
    scores = by_hand()
    detected = {"clean": [True, False, False, False], "pgd": [True, True, False], "noise": [False, True, False]}
    for attack, rejected in detected.items():
        scores.loc[scores["attack"] == attack, "detected"] = rejected
    table = results(scores, {}).set_index("attack")
    assert table.loc["clean", "detected"] == 0.25 and table.loc["clean", "accuracy_with_detector"] == 0.5
    assert table.loc["pgd", "detected"] == pytest.approx(2 / 3)
    # The first sample is rejected when clean and the third is then a mistake: attacked, they cannot be robust.
    assert table.loc["pgd", "accuracy_with_detector"] == pytest.approx(1 / 3)
    assert table.loc["noise", "accuracy_with_detector"] == pytest.approx(1 / 3)
    assert table.loc["all", "accuracy_with_detector"] == pytest.approx(1 / 3) and np.isnan(table.loc["all", "detected"])


def test_a_detector_that_rejects_everything_protects_nobody():
    table = results(by_hand().assign(detected=True), {})
    assert (table["detected"].dropna() == 1).all() and (table["accuracy_with_detector"] == 0).all()


def test_without_a_detector_nothing_is_said_of_it(table):
    assert table[["detected", "accuracy_with_detector"]].isna().all(axis=None)
