from math import inf

import numpy as np
import pandas as pd
import pytest

from stages.metrics.results import results
from stages.reporting.distances import distances
from tests.synthetic import synthetic_scores

OPTIONS = {"schemes": ("int8",), "defenses": ("none",), "also": (), "transfer": (), "samples": 40, "test_samples": 80}


def measured(scores):
    return distances(scores, results(scores, {}))


def study(**options):
    return synthetic_scores(**(OPTIONS | options))


def by_hand(found, attack="deepfool", norm="l2"):
    """Scores of one int8 network; `found` has per sample the distance of the error, infinite where there is none."""
    found = np.array(found, dtype=float)
    shared = {"dataset": "data", "model": "net", "scheme": "int8", "defense": "none", "seed": 0, "flips": 0}
    shared |= {"sample": np.arange(len(found)), "label": 0, "prediction": 0, "surrogate": "", "grid": ""}
    shared |= {"l0": 0, "l1": 0.0, "l2": 0.0, "linf": 0.0, "forwards": 1.0, "backwards": 0.0}
    shared |= {"detected": None, "eot_samples": 0, "stochastic": False, "gradient_norm": 1.0}
    clean = {"threat": "clean", "attack": "clean", "norm": "", "minimal_norm": False, "epsilon": 0.0}
    clean |= {"correct": True}
    crafted = {"threat": "white_box", "attack": attack, "norm": norm, "minimal_norm": True, "epsilon": inf}
    crafted |= {"correct": np.isinf(found), norm: np.where(np.isinf(found), 0, found)}
    return pd.DataFrame(shared | clean), pd.DataFrame(shared | crafted)


@pytest.mark.parametrize("norm", ["l0", "l1", "l2", "linf"])
def test_quartiles_are_distances_within_which_that_many_have_an_error(norm):
    (row,) = measured(pd.concat(by_hand([4, 1, 3, 2], norm=norm))).to_dict("records")
    assert (row["low"], row["median"], row["high"]) == (1, 2, 3)
    assert (row["norm"], row["n"], row["found"], row["attacks"]) == (norm, 4, 1, "deepfool")


@pytest.mark.parametrize(
    ("found", "quartiles"),
    [([1, 2, inf, inf], (1, 2, inf)), ([1, inf, inf, inf], (1, inf, inf)), ([inf] * 4, (inf, inf, inf))],
)
def test_what_was_not_found_is_infinitely_far(found, quartiles):
    (row,) = measured(pd.concat(by_hand(found))).to_dict("records")
    assert (row["low"], row["median"], row["high"]) == quartiles
    assert row["found"] == np.isfinite(found).mean()


def test_images_that_are_wrong_when_clean_do_not_count():
    clean, crafted = by_hand([0, 1, 2, 3])
    clean["correct"] = clean["sample"] > 0
    (row,) = measured(pd.concat([clean, crafted])).to_dict("records")
    assert (row["low"], row["median"], row["high"], row["n"]) == (1, 2, 3, 3)


def test_of_several_attacks_the_nearest_counts_for_each_image():
    clean, first = by_hand([1, 9, 9, inf])
    _, second = by_hand([9, 2, 3, 4], attack="ddn")
    (row,) = measured(pd.concat([clean, first, second])).to_dict("records")
    assert (row["low"], row["median"], row["high"], row["attacks"]) == (1, 2, 3, "ddn, deepfool")


def test_transferred_attacks_have_no_say_and_attacks_with_budgets_alone_have_no_row():
    alone = measured(study(attacks=("deepfool",)))
    among_others = measured(study(attacks=("pgd", "deepfool"), schemes=("int8", "w4a4"), transfer=("deepfool",)))
    among_others = among_others[among_others["scheme"] == "int8"]
    pd.testing.assert_frame_equal(among_others.reset_index(drop=True), alone)
    assert measured(study(attacks=("pgd", "pgd_l2"))).empty


def with_a_budget(found, epsilon, norm="l2"):
    """Scores of an attack with a budget of `epsilon`, as `by_hand` makes those of one without."""
    return by_hand(found, attack="pgd_l2", norm=norm)[1].assign(minimal_norm=False, epsilon=epsilon)


def test_errors_within_budgets_are_as_far_as_they_were_measured():
    clean, sought = by_hand([4, 1, 8, inf])
    budgets = [with_a_budget([inf, inf, 2.5, inf], 3.0), with_a_budget([3.5, inf, 3.5, 4.5], 5.0)]
    (row,) = measured(pd.concat([clean, sought, *budgets])).to_dict("records")
    assert (row["low"], row["median"], row["high"]) == (1, 2.5, 3.5)
    assert (row["n"], row["found"], row["attacks"]) == (4, 1, "deepfool, pgd_l2")


@pytest.mark.parametrize(("norm", "epsilon"), [("l2", inf), ("linf", 1.0)])
def test_errors_without_bounds_are_near_nothing(norm, epsilon):
    clean, sought = by_hand([0.1, inf, inf, inf], norm=norm)
    loose = with_a_budget([0.9, 0.9, 0.9, 0.9], epsilon, norm)
    (row,) = measured(pd.concat([clean, sought, loose])).to_dict("records")
    assert (row["found"], row["attacks"]) == (0.25, "deepfool")


def test_samples_that_no_attack_sought_the_nearest_error_of_do_not_count():
    clean, sought = by_hand([1, 2, 3, 4])
    budget = with_a_budget([5, 6, 7, 0.5], 8.0)
    (row,) = measured(pd.concat([clean, sought[sought["sample"] < 3], budget])).to_dict("records")
    assert (row["low"], row["median"], row["high"], row["n"]) == (1, 2, 3, 3)


def test_the_made_up_margins_come_back():
    """A minimal-norm attack at infinity: its own distances of the images that are right when clean."""
    scores = study(attacks=("deepfool",))
    rows = scores[(scores["attack"] == "deepfool") & (scores["epsilon"] == inf)]
    sizes = np.sort(rows["l2"][rows["l2"] > 0])
    (row,) = measured(scores).to_dict("records")
    assert row["n"] == len(sizes)
    assert row["median"] == sizes[(len(sizes) + 1) // 2 - 1]


def test_seeds_are_pooled():
    both = measured(study(attacks=("deepfool",), seeds=(0, 1)))
    each = [measured(study(attacks=("deepfool",), seeds=(seed,))) for seed in (0, 1)]
    assert len(both) == 1
    assert both["n"].item() == sum(found["n"].item() for found in each)
    medians = sorted(found["median"].item() for found in each)
    assert medians[0] <= both["median"].item() <= medians[1]


def test_flags_are_those_of_the_attack_that_found_the_nearest():
    masked = study(attacks=("deepfool", "ddn"), masked=("int8",))
    assert "no_collapse" in measured(masked)["flags"].item().split(";")
    # A second attack that is no use takes nothing away from one that works.
    clean, first = by_hand([1, 2, 3, 4])
    _, useless = by_hand([inf] * 4, attack="ddn")
    scores = pd.concat([clean, first, useless])
    table = results(scores, {})
    assert table.set_index("attack").loc["ddn", "flags"] == "no_collapse"
    assert distances(scores, table)["flags"].item() == ""
