"""Tables of attacks on memory against numbers counted by hand."""

from math import inf

import pandas as pd
import pytest

from stages.faults.goals import GOALS
from stages.metrics.faults import bit_flips_table, fault_rows, flipped_bits_table, flips_needed_table
from stages.metrics.intervals import wilson
from stages.metrics.results import results
from tests.synthetic import synthetic_scores

VARIANT = {"dataset": "fashion_mnist", "model": "resnet8", "scheme": "int8", "defense": "none"}
SIZES = pd.DataFrame([VARIANT | {"seed": seed, "weight_bytes": 80_000} for seed in (0, 1)])


def draw(number, correct, *, attack="bit_flip_attack", searches=True, seed=0, **columns):
    """Rows of one draw: `correct` maps numbers of flips to correct images of 100; without a flip 90 are."""
    shared = {"seed": seed, "attack": attack, "draw": number, "searches": searches, "memory_bits": 1000, "n": 100}
    missing = dict.fromkeys(["source", "target", "aimed", "hit", "seen", "recovered", "checksum_bytes", *GOALS])
    return [
        VARIANT
        | shared
        | missing
        | {"num_classes": 10, "unpredicted": 0}
        | {"flips": flips, "made": flips, "correct": right}
        | columns
        | ({"made": 0} if flips == 0 else {})
        for flips, right in ({0: 90} | correct).items()
    ]


def frame(*draws):
    rows = pd.DataFrame([row for rows in draws for row in rows])
    return rows.astype(dict.fromkeys(["target", "aimed", "hit", "seen", "recovered", "checksum_bytes", *GOALS], float))


@pytest.fixture(scope="module")
def scores():
    return synthetic_scores(
        schemes=("int8",),
        defenses=("none",),
        also=(),
        attacks=("noise", "pgd"),
        transfer=(),
        samples=40,
        test_samples=200,
        seeds=(0, 1),
    )


def test_rows_are_means_over_the_draws_that_all_have_the_number_of_flips(scores):
    faults = frame(draw(0, {1: 80, 2: 40, 3: 11}), draw(1, {1: 60, 2: 30}))
    table = results(scores, {}, None, faults)
    rows = table[table["threat"] == "bit_flip"]
    assert rows["flips"].tolist() == [1, 2]
    assert rows["accuracy"].tolist() == pytest.approx([0.7, 0.35])
    assert rows["n"].tolist() == [2, 2]
    assert (rows["ci_low"] <= rows["accuracy"]).all() and (rows["accuracy"] <= rows["ci_high"]).all()
    without = results(scores, {})
    assert table[table["threat"] != "bit_flip"].reset_index(drop=True).equals(without)


def test_one_draw_is_as_uncertain_as_its_test_images(scores):
    (row,) = fault_rows(frame(draw(0, {1: 80})), results(scores, {})).itertuples()
    assert (row.n, row.accuracy) == (1, 0.8)
    assert (row.ci_low, row.ci_high) == pytest.approx(tuple(float(end) for end in wilson(80, 100)))


def test_several_seeds_have_a_row_over_them(scores):
    faults = frame(*(draw(number, {1: 50 + 10 * seed}, seed=seed) for seed in (0, 1) for number in (0, 1)))
    table = results(scores, {}, None, faults)
    (row,) = table[(table["threat"] == "bit_flip") & (table["seed"] == "all")].itertuples()
    assert (row.n, row.accuracy) == (2, pytest.approx(0.55))


def test_flags_of_the_network_and_of_attacks_that_random_flips_beat(scores):
    strong = [draw(number, {5: 60 - number}) for number in range(8)]
    random = [draw(number, {5: 30 + number}, attack="random_flips", searches=False) for number in range(8)]
    clean = results(scores, {})
    rows = fault_rows(frame(*strong, *random), clean).set_index("attack")["flags"]
    assert rows.to_dict() == {"bit_flip_attack": "noise_beats_attack", "random_flips": ""}
    below = results(scores, {"fashion_mnist": {"resnet8": 1.0}})
    assert "below_quality_target" in fault_rows(frame(*random), below)["flags"].iloc[0]


@pytest.mark.parametrize(
    ("otherwise", "draws"),
    [
        ({"target": 2.0, "aimed": 50.0, "hit": 50.0}, 8),  # it is not after accuracy
        ({"memory_bits": 900}, 8),  # it reaches other words
    ],
)
def test_a_search_that_was_after_something_else_than_random_flips_is_not_compared_with_them(scores, otherwise, draws):
    strong = [draw(number, {5: 60 - number}, **(otherwise if number < draws else {})) for number in range(8)]
    random = [draw(number, {5: 30 + number}, attack="random_flips", searches=False) for number in range(8)]
    rows = fault_rows(frame(*strong, *random), results(scores, {})).set_index("attack")["flags"]
    assert rows.to_dict() == {"bit_flip_attack": "", "random_flips": ""}


def test_a_search_that_gave_up_is_compared_with_random_flips_and_one_that_reached_guessing_is_not_beaten(scores):
    stuck = [draw(number, {5: 60 - number}, made=1) for number in range(8)]
    ended = [draw(number, {5: 11}, attack="ended", made=3) for number in range(8)]
    random = [draw(number, {5: number}, attack="random_flips", searches=False) for number in range(8)]
    rows = fault_rows(frame(*stuck, *ended, *random), results(scores, {})).set_index("attack")["flags"]
    assert rows.to_dict() == {"bit_flip_attack": "noise_beats_attack", "ended": "", "random_flips": ""}


def test_quantiles_success_and_recovery_stand_beside_clean_accuracy_and_bytes(scores):
    draws = [
        draw(
            number,
            {2: right},
            attack="targeted",
            target=1.0,
            aimed=50.0,
            hit=10.0 * number,
            seen=1.0,
            recovered=70.0,
            checksum_bytes=9.0,
        )
        for number, right in enumerate([10, 50, 20, 40, 30])
    ]
    clean = results(scores, {})
    (row,) = bit_flips_table(frame(*draws), clean, SIZES).itertuples()
    assert (row.accuracy_least, row.accuracy_median, row.accuracy_most) == (0.1, 0.3, 0.5)
    assert row.accuracy_q05 == 0.1 and row.accuracy_q95 == 0.5
    assert (row.targeted_success, row.targeted_success_least, row.targeted_success_most) == pytest.approx(
        (0.4, 0.0, 0.8)
    )
    assert row.targeted_before == pytest.approx(0.4)
    assert (row.detected, row.accuracy_recovered, row.checksum_bytes, row.weight_bytes) == (0.5, 0.7, 9, 80_000)
    assert row.clean_accuracy == clean.loc[(clean["threat"] == "clean") & (clean["seed"] == "0"), "accuracy"].item()
    assert row.error_rate == 0.002 and row.draws == 5


def test_flips_to_goals_are_counted_over_draws_and_seeds_infinite_where_they_were_not_reached(scores):
    faults = frame(
        draw(0, {1: 80, 2: 12, 5: 11}, to_half=2, to_chance=3, made=3),
        draw(1, {1: 60, 2: 10, 5: 10}, to_half=2, to_chance=2, made=2),
        draw(2, {1: 90, 2: 80, 5: 70}),
        draw(3, {1: 85, 2: 45, 5: 45}, to_half=2, made=2),  # the search gave up
        draw(0, {1: 5, 5: 5}, seed=1, to_half=1, to_chance=1, made=1),
        draw(0, {1: 5}, attack="targeted", target=2.0, aimed=9.0, hit=5.0, to_target=1),
    )
    table = flips_needed_table(faults, results(scores, {}), SIZES).set_index(["attack", "goal", "seed"]).sort_index()
    assert set(table.index) == {
        *(("bit_flip_attack", goal, seed) for goal in ("chance", "half") for seed in ("0", "1", "all")),
        ("targeted", "target", "0"),
    }
    chance = table.loc["bit_flip_attack", "chance"]
    assert chance.loc["0", ["least", "median", "most", "draws", "budget"]].tolist() == [2, 3, inf, 4, 5]
    assert chance.loc["0", ["reached", "gave_up"]].tolist() == [0.5, 0.25]
    assert chance.loc["1", ["least", "most"]].tolist() == [1, 1]
    assert chance.loc["all", ["least", "median", "draws"]].tolist() == [1, 3, 5]
    assert table.loc[("bit_flip_attack", "half", "0"), ["median", "most", "reached"]].tolist() == [2, inf, 0.75]
    assert table.loc[("targeted", "target", "0"), ["median", "reached"]].tolist() == [1, 1]


def test_flipped_bits_are_counted_and_shared_in_the_order_of_the_network():
    place = VARIANT | {"seed": 0, "attack": "bit_flip_attack", "kind": "weights", "width": 8, "tensor": "weight"}
    flipped = pd.DataFrame(
        [
            place | {"place": "ba".index(layer), "layer": layer, "bit": bit}
            for layer, bit in [("a", 7), ("a", 7), ("b", 7), ("b", 6)]
        ]
    )
    table = flipped_bits_table(flipped)
    assert table[["layer", "bit", "flips", "share"]].values.tolist() == [
        ["b", 6, 1, 0.25],
        ["b", 7, 1, 0.25],
        ["a", 7, 2, 0.5],
    ]
