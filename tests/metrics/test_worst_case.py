import numpy as np
import pandas as pd
import pytest

from stages.metrics.cells import DISTANCES, Cell, outcomes
from stages.metrics.worst_case import members, worst_case
from tests.synthetic import synthetic_scores


def cell(threat, attack, epsilon=8 / 255, norm="linf", surrogate=""):
    return Cell("data", "net", "fp32", "none", 0, threat, surrogate, attack, norm, "digital", epsilon, 0)


def rows(correct, samples=None, distance=0.1, forwards=1.0):
    correct = np.array(correct, dtype=bool)
    index = np.arange(len(correct)) if samples is None else samples
    columns = {"correct": correct, "withstood": np.nan, **dict.fromkeys(DISTANCES, distance)}
    return pd.DataFrame(
        columns | {"forwards": forwards, "backwards": 0.0, "eot_samples": 1, "stochastic": False}, index=index
    )


PGD, NOISE = cell("white_box", "pgd"), cell("noise", "noise")
TRANSFER = cell("transfer", "pgd", surrogate="data-net-int8-none-s0")


def test_a_sample_is_robust_where_no_attack_succeeds():
    worst = worst_case({PGD: rows([1, 0, 1, 0]), NOISE: rows([1, 1, 0, 0]), TRANSFER: rows([1, 1, 1, 1])})
    assert list(worst) == [PGD.worst_case]
    assert worst[PGD.worst_case]["correct"].tolist() == [True, False, False, False]


def test_only_samples_common_to_all_attacks_count():
    worst = worst_case({PGD: rows([1, 1, 1], samples=[2, 4, 6]), NOISE: rows([0, 1, 1], samples=[4, 6, 8])})
    assert worst[PGD.worst_case]["correct"].to_dict() == {4: False, 6: True}


def test_where_a_detector_may_reject_a_sample_is_harmed_that_comes_to_harm_under_any_attack():
    attacks = {PGD: rows([1, 0, 0]), NOISE: rows([1, 1, 1])}
    attacks[PGD]["withstood"], attacks[NOISE]["withstood"] = [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]
    worst = worst_case(attacks)[PGD.worst_case]
    assert worst["withstood"].tolist() == [1, 1, 0] and worst["detected"].isna().all()


def test_no_common_sample_is_refused():
    with pytest.raises(ValueError, match=r"data-net-fp32-none-s0 at epsilon 0\.0313725: .* no sample in common"):
        worst_case({PGD: rows([1], samples=[0]), NOISE: rows([1], samples=[1])})


def test_the_least_successful_distance_counts_and_costs_add_up():
    attacks = {PGD: rows([0, 1, 0], distance=0.3, forwards=11), NOISE: rows([1, 1, 0], distance=0.2, forwards=1)}
    worst = worst_case(attacks)[PGD.worst_case]
    np.testing.assert_array_equal(worst["l2"], [0.3, np.nan, 0.2])
    assert worst["forwards"].tolist() == [12, 12, 12]


def test_norms_and_epsilons_stay_apart():
    attacks = [PGD, cell("white_box", "pgd", epsilon=4 / 255), cell("white_box", "pgd", norm="l2")]
    assert members(dict.fromkeys(attacks)) == {attack.worst_case: [attack] for attack in attacks}


def test_an_attack_takes_no_part_at_epsilons_it_was_not_run_at():
    small = cell("noise", "noise", epsilon=1 / 255)
    assert members(dict.fromkeys([PGD, NOISE, small])) == {PGD.worst_case: [PGD, NOISE], small.worst_case: [small]}


def test_clean_rows_and_sanity_checks_stay_out():
    assert members(dict.fromkeys([PGD.clean, cell("white_box", "pgd", epsilon=1.0)])) == {}
    # Under L2 an epsilon of 1 is a budget like any other, and what was found at any distance is none.
    assert len(members(dict.fromkeys([cell("white_box", "pgd", epsilon=1.0, norm="l2")]))) == 1
    found = [cell(threat, "deepfool", epsilon=np.inf, norm="l2") for threat in ("white_box", "transfer")]
    assert members(dict.fromkeys(found)) == {}


def test_worst_case_is_at_most_each_attack():
    attacked = outcomes(synthetic_scores(schemes=("fp32",), samples=60, test_samples=100))
    worst = worst_case(attacked)
    assert len(worst) == 4 * 6
    for cell_, group in members(attacked).items():
        assert len(group) == 3 + 3
        for member in group:
            assert not (worst[cell_]["correct"] & ~attacked[member]["correct"]).any()
