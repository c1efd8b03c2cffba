"""Every flag where it fires, where it must not, and on both sides of its threshold."""

import numpy as np
import pandas as pd
import pytest

from stages.metrics import flags as flags_module
from stages.metrics.cells import DISTANCES, VARIANT, Cell, outcomes
from stages.metrics.flags import (
    MEANINGS,
    below_quality_target,
    black_box_beats_white_box,
    flags,
    inherited_by_worst_case,
    mostly_failed,
    no_collapse,
    noise_beats_attack,
    non_monotone,
    not_converged,
    only_queried,
    only_transferred,
    other_norm_beats_worst_case,
    planted_missed,
    random_needs_eot,
    single_step_beats_iterative,
    transfer_beats_white_box,
    zero_gradient,
)
from stages.metrics.worst_case import worst_case
from tests.synthetic import synthetic_scores

# Nested sets of correct samples that differ in 8 have p = 2 / 2^8 = .0078, in 7 p = .0156.
SIGNIFICANT, INSIGNIFICANT = 8, 7


def cell(threat="white_box", attack="pgd", epsilon=8 / 255, surrogate="", scheme="fp32", defense="none", norm="linf"):
    return Cell("data", "net", scheme, defense, 0, threat, surrogate, attack, norm, "digital", epsilon, 0)


def rows(correct, total=200, gradient_norm=np.nan, eot_samples=1, stochastic=False):
    """The first `correct` samples are classified correctly."""
    columns = {
        "correct": np.arange(total) < correct,
        "detected": np.nan,
        "withstood": np.nan,
        **dict.fromkeys(DISTANCES, 0.1),
        "forwards": 1.0,
        "backwards": 0.0,
        "eot_samples": eot_samples,
        "stochastic": stochastic,
    }
    return pd.DataFrame(columns | {"gradient_norm": gradient_norm})


CLEAN = cell().clean
PGD, PGD_AT_0, PGD_SANITY = cell(), cell(epsilon=0.0), cell(epsilon=1.0)
FGSM, FGSM_AT_0 = cell(attack="fgsm"), cell(attack="fgsm", epsilon=0.0)
NOISE, NOISE_AT_0 = cell("noise", "noise"), cell("noise", "noise", epsilon=0.0)
SQUARE, SQUARE_AT_0 = cell("black_box", "square"), cell("black_box", "square", epsilon=0.0)
TRANSFER = cell("transfer", "pgd", surrogate="data-net-int8-none-s0")
FGSM_TRANSFER = cell("transfer", "fgsm", surrogate="data-net-int8-none-s0")


def gradient_norms(zeros_correct, zeros_wrong=0, correct=180, total=200, unevaluated=100):
    """Clean rows of which that many have a zero gradient; the last ones were not evaluated."""
    norms = np.ones(total)
    norms[:zeros_correct] = 0
    norms[correct : correct + zeros_wrong] = 0
    evaluated = rows(correct, total, gradient_norm=norms)
    return pd.concat([evaluated, rows(unevaluated, unevaluated)], ignore_index=True)


@pytest.mark.parametrize(("zeros", "fires"), [(9, False), (10, True)])
def test_zero_gradient_above_5_percent_of_the_correct(zeros, fires):
    attacked = {PGD: rows(10), PGD_AT_0: rows(180), FGSM: rows(10), NOISE: rows(170), TRANSFER: rows(100)}
    cells = {CLEAN: gradient_norms(zeros)} | attacked | worst_case(attacked)
    assert zero_gradient(cells) == ({PGD, FGSM, PGD.worst_case} if fires else set())


def test_zero_gradient_ignores_misclassified_and_unevaluated_samples():
    assert zero_gradient({CLEAN: gradient_norms(0, zeros_wrong=20), PGD: rows(10)}) == set()
    # 10 of 180 correct evaluated ones: neither the 100 unevaluated nor the 20 wrong ones dilute it
    assert zero_gradient({CLEAN: gradient_norms(10), PGD: rows(10)}) == {PGD}


def test_zero_gradient_stays_with_its_network():
    other = cell(scheme="w1a1")
    cells = {CLEAN: gradient_norms(0), other.clean: gradient_norms(100), PGD: rows(10), other: rows(10)}
    assert zero_gradient(cells) == {other}


def test_zero_gradient_without_norms_is_refused():
    with pytest.raises(ValueError, match="data-net-fp32-none-s0-clean: gradient_norm is empty"):
        zero_gradient({CLEAN: rows(180), PGD: rows(10)})
    assert zero_gradient({CLEAN: rows(180), NOISE: rows(170)}) == set()


@pytest.mark.parametrize(("left", "fires"), [(2, False), (3, True)])
def test_no_collapse_above_1_percent(left, fires):
    cells = {PGD_SANITY: rows(left), PGD: rows(10), PGD_AT_0: rows(180), FGSM: rows(40), TRANSFER: rows(90)}
    assert no_collapse(cells) == ({PGD, PGD_SANITY} if fires else set())


def test_no_collapse_stays_with_its_network_and_knows_what_a_full_budget_is():
    other = cell(scheme="int8")
    assert no_collapse({PGD_SANITY: rows(50), other: rows(50)}) == {PGD_SANITY}
    assert no_collapse({cell(norm="l2", epsilon=1.0): rows(50)}) == set()
    at_any_distance, near = cell(norm="l2", epsilon=np.inf), cell(norm="l2", epsilon=0.5)
    assert no_collapse({at_any_distance: rows(3), near: rows(90)}) == {at_any_distance, near}
    assert no_collapse({cell("transfer", norm="l2", epsilon=np.inf): rows(50), near: rows(90)}) == set()


@pytest.mark.parametrize(("left", "fires"), [(90, False), (91, True)])
def test_mostly_failed_above_half_of_the_samples_that_were_correct(left, fires):
    near, at_any_distance = (cell("black_box", "boundary", epsilon, norm="l2") for epsilon in (0.5, np.inf))
    own = {near, at_any_distance, near.worst_case}
    others = {PGD: rows(180), PGD_SANITY: rows(180), cell("transfer", "boundary", np.inf, norm="l2"): rows(180)}
    attacked = {CLEAN: rows(180), near: rows(170), at_any_distance: rows(left, total=190)}
    assert mostly_failed(attacked | others) == ({near, at_any_distance} if fires else set())
    found = all_flags({near: rows(170), at_any_distance: rows(left)}, clean=gradient_norms(0))
    assert {cell for cell, names in found.items() if "mostly_failed" in names} == (own if fires else set())


def test_gradients_of_single_draws_harm_no_worst_case_with_averaged_ones():
    single = {PGD: rows(15, stochastic=True), PGD_SANITY: rows(0, stochastic=True)}
    cells = {cell("adaptive", "pgd_eot"): 10, cell("adaptive", "pgd_eot", epsilon=1.0): 0}
    averaged = {cell: rows(correct, eot_samples=2, stochastic=True) for cell, correct in cells.items()}
    assert all_flags(single)[PGD.worst_case] == {"random_needs_eot"}
    found = all_flags(single | averaged)
    assert found[PGD] == {"random_needs_eot"} and PGD.worst_case not in found


def test_a_failed_search_by_queries_harms_no_worst_case_with_a_sound_one():
    boundary, square = cell("black_box", "boundary"), SQUARE
    found = inherited_by_worst_case({boundary: rows(12), square: rows(10)}, {boundary: {"mostly_failed"}})
    assert found == {square.worst_case: set()}


@pytest.mark.parametrize(("difference", "fires"), [(INSIGNIFICANT, False), (SIGNIFICANT, True)])
def test_noise_beats_attack(difference, fires):
    cells = {NOISE: rows(100), PGD: rows(100 + difference), FGSM: rows(90)}
    assert noise_beats_attack(cells) == ({PGD} if fires else set())


def test_noise_is_compared_within_one_epsilon_and_network_and_not_with_transfer():
    cells = {
        NOISE: rows(100),
        cell(epsilon=4 / 255): rows(150),
        cell(scheme="int8"): rows(150),
        cell(norm="l2"): rows(150),
        TRANSFER: rows(150),
    }
    assert noise_beats_attack(cells) == set()
    assert noise_beats_attack({NOISE_AT_0: rows(100), PGD_AT_0: rows(150)}) == set()


@pytest.mark.parametrize(("difference", "fires"), [(INSIGNIFICANT, False), (SIGNIFICANT, True)])
def test_transfer_beats_white_box(difference, fires):
    cells = {TRANSFER: rows(60), PGD: rows(60 + difference)}
    assert transfer_beats_white_box(cells) == ({PGD} if fires else set())


def test_transfer_is_compared_with_the_same_attack():
    assert transfer_beats_white_box({TRANSFER: rows(60), FGSM: rows(100), PGD: rows(20)}) == set()
    assert transfer_beats_white_box({FGSM_TRANSFER: rows(60), FGSM: rows(100)}) == {FGSM}


@pytest.mark.parametrize(("difference", "fires"), [(INSIGNIFICANT, False), (SIGNIFICANT, True)])
def test_single_step_beats_iterative(difference, fires):
    cells = {FGSM: rows(60), PGD: rows(60 + difference), PGD_SANITY: rows(0)}
    assert single_step_beats_iterative(cells) == ({PGD} if fires else set())


def test_single_step_is_told_by_the_missing_sanity_check():
    assert single_step_beats_iterative({FGSM: rows(60), PGD: rows(100)}) == set()
    both = {FGSM: rows(60), PGD: rows(100), PGD_SANITY: rows(0), cell(attack="fgsm", epsilon=1.0): rows(0)}
    assert single_step_beats_iterative(both) == set()
    # A weaker single step is how it should be, and noise is no attack.
    assert single_step_beats_iterative({FGSM: rows(100), PGD: rows(60), PGD_SANITY: rows(0), NOISE: rows(20)}) == set()


def test_a_black_box_attack_is_no_single_step():
    assert single_step_beats_iterative({SQUARE: rows(20), PGD: rows(60), PGD_SANITY: rows(0)}) == set()
    assert no_collapse({SQUARE: rows(150), SQUARE._replace(epsilon=1.0): rows(150)}) == set()


@pytest.mark.parametrize(("difference", "fires"), [(INSIGNIFICANT, False), (SIGNIFICANT, True)])
def test_black_box_beats_white_box(difference, fires):
    cells = {SQUARE: rows(60), PGD: rows(60 + difference), PGD_SANITY: rows(0), FGSM: rows(150), NOISE: rows(170)}
    assert black_box_beats_white_box(cells) == ({PGD} if fires else set())


@pytest.mark.parametrize(("left_by_the_other", "fires"), [(60 + INSIGNIFICANT, False), (60 + SIGNIFICANT, True)])
def test_a_black_box_attack_has_to_beat_every_iterative_one(left_by_the_other, fires):
    other = cell(attack="apgd")
    sanity = {PGD_SANITY: rows(0), other._replace(epsilon=1.0): rows(0)}
    cells = {SQUARE: rows(60), PGD: rows(150), other: rows(left_by_the_other)} | sanity
    assert black_box_beats_white_box(cells) == ({PGD, other} if fires else set())


def test_one_black_box_attack_that_beats_all_iterative_ones_is_enough():
    weak = cell("black_box", "random")
    cells = {weak: rows(170), SQUARE: rows(60), PGD: rows(150), PGD_SANITY: rows(0)}
    assert black_box_beats_white_box(cells) == {PGD}


def test_black_box_is_compared_within_one_budget_and_with_iterative_attacks_only():
    cells = {
        SQUARE: rows(60),
        FGSM: rows(150),
        TRANSFER: rows(150),
        NOISE: rows(170),
        PGD_SANITY: rows(0),
        cell(epsilon=4 / 255): rows(150),
        cell(scheme="int8"): rows(150),
        cell(norm="l2"): rows(150),
        PGD._replace(grid="pre_quantizer"): rows(150),
    }
    assert black_box_beats_white_box(cells) == set()
    assert black_box_beats_white_box({SQUARE_AT_0: rows(60), PGD_AT_0: rows(150), PGD_SANITY: rows(0)}) == set()


def probed(cell_, probe, correct):
    """Rows of a probe of the attack of a cell, `correct` with None where nothing could be planted."""
    facts = dict(zip(VARIANT, cell_.variant, strict=True)) | {"attack": cell_.attack, "norm": cell_.norm}
    rows_ = {"correct": pd.array(correct, dtype="boolean"), "sample": range(len(correct)), "noise": 0.0}
    return pd.DataFrame(facts | {"epsilon": cell_.epsilon, "probe": probe} | rows_)


def first_correct(correct, total):
    return [sample < correct for sample in range(total)]


@pytest.mark.parametrize(("difference", "fires"), [(INSIGNIFICANT, False), (SIGNIFICANT, True)])
def test_not_converged(difference, fires):
    smaller = cell(epsilon=4 / 255)
    cells = {PGD: rows(60), smaller: rows(150), PGD_SANITY: rows(0), PGD_AT_0: rows(180), TRANSFER: rows(90)}
    cells |= {FGSM: rows(60), cell(scheme="int8"): rows(60), cell(norm="l2"): rows(60), PGD.worst_case: rows(60)}
    cells[CLEAN] = rows(200)
    probes = probed(PGD, "doubled", first_correct(60 - difference, 100))
    assert not_converged(cells, probes) == ({PGD, smaller, PGD_SANITY, PGD.worst_case} if fires else set())
    planted = pd.concat([probed(PGD, "planted", [False] * 64), probed(FGSM, "planted", [False] * 64)])
    assert not_converged(cells, planted) == set()


def test_not_converged_compares_at_its_own_epsilon_and_not_with_a_doubled_run_that_left_more():
    smaller = cell(epsilon=4 / 255)
    cells = {CLEAN: rows(200), smaller: rows(150), PGD: rows(20)}
    assert not_converged(cells, probed(PGD, "doubled", first_correct(90, 100))) == set()


def test_not_converged_counts_no_clean_mistake_that_the_doubled_run_undid():
    doubled = probed(PGD, "doubled", [True] * 60 + [False] * 20 + [True] * 20)
    assert not_converged({CLEAN: rows(80), PGD: rows(80)}, doubled) == {PGD}
    assert not_converged({CLEAN: rows(100), PGD: rows(80)}, doubled) == set()


def test_not_converged_judges_every_attack_on_the_network_itself():
    for attacked in (SQUARE, cell("adaptive"), cell(attack="deepfool", norm="l2")):
        probes = probed(attacked, "doubled", first_correct(60, 100))
        assert not_converged({CLEAN: rows(200), attacked: rows(90), NOISE: rows(170)}, probes) == {attacked}


@pytest.mark.parametrize(("missed", "fires"), [(3, False), (4, True)])
def test_planted_missed_below_95_percent(missed, fires):
    cells = {PGD: rows(60), PGD_SANITY: rows(0), PGD_AT_0: rows(180), TRANSFER: rows(90), FGSM: rows(60)}
    cells |= {cell(scheme="int8"): rows(60)}
    probes = pd.concat([probed(PGD, "planted", first_correct(missed, 64)), probed(FGSM, "doubled", [True] * 64)])
    assert planted_missed(cells, probes) == ({PGD, PGD_SANITY} if fires else set())


def test_planted_missed_counts_samples_with_a_planted_example_only():
    assert planted_missed({PGD: rows(60)}, probed(PGD, "planted", [True] * 3 + [False] * 10 + [None] * 51)) == {PGD}
    assert planted_missed({PGD: rows(60)}, probed(PGD, "planted", [True] * 3 + [False] * 61)) == set()
    assert planted_missed({PGD: rows(60)}, probed(PGD, "planted", [None] * 64)) == set()


def test_worst_case_inherits_what_probes_say_of_its_strongest_attack():
    attacked = {PGD: rows(60), PGD_SANITY: rows(0), SQUARE: rows(80)}
    cells = {CLEAN: gradient_norms(0)} | attacked | worst_case(attacked)
    weak_square = probed(SQUARE, "planted", [True] * 64)
    assert flags(cells, {}, weak_square) == {SQUARE: {"planted_missed"}}
    weak_pgd = pd.concat([probed(PGD, "planted", [True] * 64), probed(PGD, "doubled", first_correct(20, 100))])
    flagged = flags(cells, {}, weak_pgd)
    assert flagged[PGD] == flagged[PGD.worst_case] == {"planted_missed", "not_converged"}
    assert flags(cells, {}) == {}


@pytest.mark.parametrize(("difference", "fires"), [(INSIGNIFICANT, False), (SIGNIFICANT, True)])
def test_non_monotone(difference, fires):
    small, middle, large = (cell(epsilon=steps / 255) for steps in (1, 4, 16))
    cells = {large: rows(100 + difference), small: rows(150), middle: rows(100)}
    assert non_monotone(cells) == ({large} if fires else set())


def test_non_monotone_compares_with_every_smaller_epsilon_of_one_attack():
    small, middle, large = (cell(epsilon=steps / 255) for steps in (0, 4, 16))
    assert non_monotone({small: rows(50), middle: rows(150), large: rows(150)}) == {middle, large}
    assert non_monotone({small: rows(50), cell(attack="fgsm"): rows(150), cell(scheme="int8"): rows(150)}) == set()
    assert non_monotone({small: rows(150), CLEAN: rows(180), middle: rows(100), large: rows(100)}) == set()


def test_non_monotone_judges_noise_transfer_and_worst_case():
    for threat, attack in [("noise", "noise"), ("transfer", "pgd"), ("worst_case", "all")]:
        small, large = (cell(threat, attack, epsilon=steps / 255) for steps in (1, 4))
        assert non_monotone({small: rows(100), large: rows(120)}) == {large}


@pytest.mark.parametrize(("correct", "fires"), [(1720, False), (1719, True)])
@pytest.mark.parametrize("scheme", ["fp32", "int8"])
def test_below_quality_target_flags_all_rows_of_a_baseline(correct, fires, scheme):
    own = cell(scheme=scheme)
    at_0, noise = own._replace(epsilon=0.0), cell("noise", "noise", scheme=scheme)
    attacked = {own: rows(10), at_0: rows(150), noise: rows(100)}
    cells = {own.clean: rows(correct, 2000)} | attacked | worst_case(attacked)
    assert below_quality_target(cells, {"data": {"net": 0.86}}) == (set(cells) if fires else set())


def test_below_quality_target_judges_baselines_with_a_target_only():
    others = [cell(scheme="w4a4"), cell(defense="jacobian"), cell(scheme="int8", defense="fast_at")]
    assert below_quality_target({other.clean: rows(20) for other in others}, {"data": {"net": 0.86}}) == set()
    assert below_quality_target({CLEAN: rows(20)}, {"data": {"another": 0.86}, "other": {"net": 0.86}}) == set()


def all_flags(attacked, clean=None):
    attacked = {CLEAN: gradient_norms(0) if clean is None else clean} | attacked
    return flags(attacked | worst_case(attacked), {})


def test_worst_case_inherits_from_the_iterative_attack():
    attacked = {PGD: rows(150), PGD_SANITY: rows(50), NOISE: rows(120), FGSM: rows(90), TRANSFER: rows(80)}
    flagged = all_flags(attacked | {SQUARE: rows(70)})
    signs = {"no_collapse", "noise_beats_attack", "single_step_beats_iterative", "transfer_beats_white_box"}
    assert flagged[PGD] == flagged[PGD.worst_case] == signs | {"black_box_beats_white_box"}
    assert flagged[PGD_SANITY] == {"no_collapse"}
    assert set(flagged) == {PGD, PGD.worst_case, PGD_SANITY}


@pytest.mark.parametrize(("difference", "inherits"), [(SIGNIFICANT, False), (INSIGNIFICANT, True)])
def test_worst_case_inherits_from_its_strongest_members_alone(difference, inherits):
    strong, weak = cell(attack="apgd"), PGD
    cells = {strong: rows(10), weak: rows(10 + difference)}
    found = inherited_by_worst_case(cells, {weak: {"no_collapse"}})
    assert found == {PGD.worst_case: {"no_collapse"} if inherits else set()}


def test_an_attack_that_misses_what_was_planted_harms_no_worst_case_with_a_sound_one():
    cells = {PGD: rows(10), cell(attack="apgd"): rows(12)}
    assert inherited_by_worst_case(cells, {PGD: {"planted_missed"}}) == {PGD.worst_case: set()}
    all_miss = {key: {"planted_missed"} for key in cells}
    assert inherited_by_worst_case(cells, all_miss) == {PGD.worst_case: {"planted_missed"}}
    signs = {PGD: {"planted_missed", "zero_gradient", "not_converged"}}
    assert inherited_by_worst_case(cells, signs) == {PGD.worst_case: {"zero_gradient"}}


@pytest.mark.parametrize(("left", "too_high"), [(90, False), (10, True)])
def test_a_worst_case_has_not_converged_where_a_doubled_attack_beats_all_together(left, too_high):
    strong, smaller = cell(attack="apgd"), cell(epsilon=1 / 255)
    attacked = {PGD: rows(150), strong: rows(90), smaller: rows(170), CLEAN: gradient_norms(0)}
    cells = attacked | worst_case(attacked)
    flagged = flags(cells, {}, probed(PGD, "doubled", first_correct(left, 100)))
    assert flagged[PGD] == {"not_converged"} and strong not in flagged
    expected = {"not_converged"} if too_high else set()
    assert flagged.get(PGD.worst_case, set()) == flagged.get(smaller.worst_case, set()) == expected


@pytest.mark.parametrize(("stochastic", "eot_samples", "fires"), [(True, 1, True), (True, 2, False), (False, 1, False)])
def test_a_random_network_needs_several_draws(stochastic, eot_samples, fires):
    made = {"stochastic": stochastic, "eot_samples": eot_samples}
    cells = {PGD: rows(90, **made), PGD_AT_0: rows(180, **made), SQUARE: rows(60, stochastic=stochastic, eot_samples=0)}
    assert random_needs_eot(cells) == ({PGD} if fires else set())


def test_an_adaptive_attack_is_judged_like_any_that_has_gradients():
    adaptive, sanity = cell("adaptive"), cell("adaptive", epsilon=1.0)
    flagged = all_flags({adaptive: rows(150), sanity: rows(50), NOISE: rows(120), SQUARE: rows(70)})
    assert flagged[adaptive] == {"no_collapse", "noise_beats_attack", "black_box_beats_white_box"}
    assert flagged[adaptive.worst_case] == flagged[adaptive]


def test_worst_case_does_not_inherit_from_a_single_step_where_an_iterative_attack_is_sound():
    attacked = {FGSM: rows(150), NOISE: rows(120), PGD: rows(20)}
    assert PGD.worst_case not in all_flags(attacked | {PGD_SANITY: rows(0)})
    del attacked[PGD]
    assert all_flags(attacked)[FGSM.worst_case] == {"noise_beats_attack"}


def test_worst_case_rests_on_queries_where_nothing_has_gradients():
    attacked = {SQUARE: rows(150), NOISE: rows(120)}
    assert all_flags(attacked)[SQUARE.worst_case] == {"noise_beats_attack", "only_queried"}
    assert SQUARE.worst_case not in all_flags(attacked | {PGD: rows(20), PGD_SANITY: rows(0)})


def test_a_sound_evaluation_has_no_flags():
    attacked = {
        **{SQUARE_AT_0: rows(180), SQUARE: rows(40)},
        **{PGD_AT_0: rows(180), PGD: rows(10), PGD_SANITY: rows(0), FGSM_AT_0: rows(180), FGSM: rows(60)},
        **{NOISE_AT_0: rows(180), NOISE: rows(170), TRANSFER: rows(120)},
    }
    assert all_flags(attacked) == {}


def test_epsilon_0_has_no_flags_about_attacks():
    attacked = {PGD_AT_0: rows(180), PGD: rows(170), PGD_SANITY: rows(50), NOISE_AT_0: rows(100), NOISE: rows(100)}
    flagged = all_flags(attacked, clean=gradient_norms(100))
    assert flagged[PGD] == {"zero_gradient", "no_collapse", "noise_beats_attack"}
    assert all(cell_.epsilon > 0 for cell_ in flagged)


def test_synthetic_study_flags_the_masked_network_only():
    attacked = outcomes(synthetic_scores(schemes=("fp32", "int8"), samples=100, test_samples=200))
    flagged = flags(attacked | worst_case(attacked), {})
    assert {cell_.scheme for cell_ in flagged} == {"w1a1"}
    headline = next(cell_ for cell_ in flagged if cell_.threat == "worst_case" and cell_.epsilon == 16 / 255)
    assert {"zero_gradient", "no_collapse", "transfer_beats_white_box"} <= flagged[headline]


@pytest.mark.parametrize(
    ("flag", "members", "fires"),
    [
        (only_transferred, (NOISE, TRANSFER), True),
        (only_transferred, (NOISE, TRANSFER, PGD), False),
        (only_transferred, (SQUARE,), False),
        (only_transferred, (NOISE_AT_0,), False),
        (only_queried, (NOISE, SQUARE), True),
        (only_queried, (SQUARE, FGSM), False),
        (only_queried, (NOISE, TRANSFER), False),
        (only_queried, (NOISE_AT_0,), False),
    ],
)
def test_a_worst_case_says_so_where_no_attack_was_run_or_none_with_gradients(flag, members, fires):
    cells = {member: rows(100) for member in members}
    worst = worst_case(cells)
    assert flag(cells | worst) == (set(worst) if fires else set())
    # A smaller budget at which gradients of the network itself were followed says nothing of a larger one.
    smaller = {cell(epsilon=1 / 255): rows(150)}
    assert flag(cells | smaller) == (set(worst) if fires else set())


def sized(correct, l2):
    """Outcomes of perturbations of this size in L2, one for all samples or one for each."""
    return rows(correct).assign(l2=l2)


def half_within(even):
    """Sizes of which, among the first 100 samples, every other one is above .5."""
    return np.where((np.arange(200) < 100) & (np.arange(200) % 2 == (not even)), 0.6, 0.4)


L2 = cell(norm="l2", epsilon=0.5)


@pytest.mark.parametrize(
    ("rival", "fires"),
    [
        ({cell(): sized(100 - SIGNIFICANT, 0.5)}, True),
        ({cell(): sized(100 - INSIGNIFICANT, 0.5)}, False),
        ({cell(): sized(100 - SIGNIFICANT, 0.501)}, False),
        # What each sample shows counts, not the mean.
        ({cell(): sized(100 - 2 * SIGNIFICANT, half_within(even=True))}, True),
        ({cell(): sized(100 - 2 * INSIGNIFICANT, half_within(even=True))}, False),
        # One sample may fall to one attack and the next to another, crafted for whatever epsilon.
        (
            {
                SQUARE: sized(100 - SIGNIFICANT, half_within(even=True)),
                PGD_SANITY: sized(100 - SIGNIFICANT, half_within(even=False)),
            },
            True,
        ),
        ({cell(norm="l2", epsilon=1.0): rows(0)}, False),
        ({cell(scheme="int8"): rows(0)}, False),
        ({cell()._replace(grid="pre_quantizer"): rows(0)}, False),
    ],
)
def test_perturbations_of_other_norms_are_judged_by_their_size_in_this_one(rival, fires):
    attacked = {L2: rows(100)} | rival
    cells = {CLEAN: rows(180), cell(scheme="int8").clean: rows(180)} | attacked | worst_case(attacked)
    flagged = {cell_ for cell_ in other_norm_beats_worst_case(cells) if cell_.norm == "l2"}
    assert flagged == ({L2.worst_case} if fires else set())


def test_other_norms_are_compared_on_samples_attacked_in_both_and_say_nothing_in_decibels():
    linf, elsewhere = rows(90), rows(0).set_axis(np.arange(200, 400))
    clean = {CLEAN: rows(400, total=400)}
    half = {L2: rows(100), cell(): linf[linf.index < 90 + INSIGNIFICANT]}
    assert other_norm_beats_worst_case(clean | half | worst_case(half)) == set()
    none = {L2: rows(100), cell(): elsewhere}
    assert other_norm_beats_worst_case(clean | none | worst_case(none)) == set()
    decibels = {cell(norm="snr", epsilon=20.0): rows(180), PGD: rows(0).assign(linf=1.0)}
    assert other_norm_beats_worst_case(clean | decibels | worst_case(decibels)) == set()


def test_samples_that_are_wrong_when_clean_count_for_no_norm():
    attacked = {L2: rows(100), cell(): rows(100).assign(l2=0.9)}
    clean = {CLEAN: rows(100)}
    assert other_norm_beats_worst_case(clean | attacked | worst_case(attacked)) == set()


def test_every_flag_has_a_meaning():
    assert all(callable(getattr(flags_module, flag)) for flag in MEANINGS)
    attacked = {PGD: rows(150), PGD_SANITY: rows(160), NOISE: rows(120), FGSM: rows(90), TRANSFER: rows(80)}
    attacked = attacked | {SQUARE: rows(70), cell(attack="fgsm", epsilon=4 / 255): rows(90, stochastic=True)}
    attacked = attacked | {cell(epsilon=1 / 255): rows(100), CLEAN: gradient_norms(100)}
    attacked = attacked | {SQUARE._replace(epsilon=1.0): rows(150)}
    attacked = attacked | {cell("noise", "noise", epsilon=2 / 255): rows(150)}
    attacked = attacked | {SQUARE._replace(epsilon=5 / 255): rows(100), L2: rows(100)}
    probes = pd.concat([probed(PGD, "planted", [True] * 64), probed(PGD, "doubled", [False] * 100)])
    raised = flags(attacked | worst_case(attacked), {"data": {"net": 1.0}}, probes)
    assert set().union(*raised.values()) == set(MEANINGS)
