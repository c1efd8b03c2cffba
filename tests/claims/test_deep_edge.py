"""The claims of Costa and Pinto on made-up results of which the answers are known."""

import numpy as np
import pandas as pd
import pytest

from stages.claims.deep_edge import CURVE, REPLAYED, SCHEMES, claims
from stages.claims.evidence import Evidence
from stages.metrics.results import results
from tests.claims.made_up_scores import SAMPLES, SUBJECT, attacked, clean, minimal
from tests.synthetic import synthetic_scores
from tests.synthetic_diagnostics import footprints, synthetic_diagnostics

FLOAT = ("fp32", "none")
NEAR = np.linspace(0.1, 1, SAMPLES)
ANY_ORDER = np.random.default_rng(0).permutation(NEAR)


def evidence(frames, diagnostics=None, headlines=None):
    scores = pd.concat(frames, ignore_index=True)
    table = results(scores, {})
    return Evidence(table, scores, diagnostics, footprints(table), headlines or {"linf": 0.008, "l2": 0.5})


def undefended():
    return [clean("fp32"), clean("int16x8", gradient_norm=1.2), clean("int8", gradient_norm=np.r_[:SAMPLES] * 0.05)]


def chosen(found, *words):
    return [claim for claim in found if all(word in claim.claim for word in words)]


def one(found, *words):
    (claim,) = chosen(found, *words)
    return claim


@pytest.fixture(scope="module")
def replayed():
    """Their curve as they found it, but for int8 at one epsilon, and int16x8 at another, which was not run."""
    frames = undefended()
    for epsilon, accuracies in CURVE.items():
        for scheme, accuracy in zip(SCHEMES, accuracies, strict=True):
            percent = 60 if (scheme, epsilon) == ("int8", 0.002) else accuracy
            if (scheme, epsilon) != ("int16x8", 0.008):
                crafted_on = FLOAT if scheme != "fp32" else None
                frames.append(attacked(scheme, "none", percent, epsilon=epsilon, crafted_on=crafted_on))
    return claims(evidence(frames))


def test_the_curve_holds_but_for_the_point_that_is_another(replayed):
    curve = chosen(replayed, "PGD crafted on the float network, ")
    assert len(curve) == 21
    others = {claim.claim: claim for claim in curve if claim.holds != "yes"}
    differs, missing = others.values()
    assert "int8, epsilon 0.002:" in differs.claim and "int16x8, epsilon 0.008:" in missing.claim
    assert (differs.paper, differs.ours, differs.holds) == (16.7, 60, "no")
    assert differs.ci_low == pytest.approx(53.1, abs=0.1) and "within 5 points" in differs.note
    assert (missing.ours, missing.holds) == (None, "undecided")
    assert missing.note.startswith("pgd replayed from fp32 · none at epsilon 0.008 was not run on int16x8 · none")


def test_the_curve_is_one_of_real_valued_perturbations():
    frames = [*undefended(), attacked("int8", "none", 16.7, epsilon=0.002, crafted_on=FLOAT).assign(grid="digital")]
    claim = one(claims(evidence(frames)), "network, int8, epsilon 0.002:")
    assert claim.holds == "undecided" and claim.note.endswith("with real-valued perturbations")


def test_a_flagged_point_of_the_curve_says_so(replayed):
    frames = [*undefended(), attacked("fp32", "none", 80, epsilon=0.001), attacked("fp32", "none", 86, epsilon=0.002)]
    claim = one(claims(evidence(frames)), "network, fp32, epsilon 0.002:")
    assert claim.note.endswith("; flagged: non_monotone")
    assert not [claim for claim in replayed if "epsilon 0.001:" in claim.claim and "flagged" in claim.note]


def test_plateaus_and_steps(replayed):
    plateau = chosen(replayed, "plateau below 1/510, int8")
    assert [(claim.ours, claim.holds) for claim in plateau] == [(0, "yes"), (0, "yes")]
    falling = chosen(replayed, "no plateau below 1/510, int16x8")
    assert [claim.holds for claim in falling] == ["yes", "yes"]
    assert falling[1].ours == -21  # 66.5 of 200 samples is 133, of 87.5 is 175
    step = one(replayed, "step at 1/510")
    assert (step.paper, step.ours, step.holds) == (-70.8, -27.5, "yes")
    assert one(replayed, "step at 3/510").holds == "yes"
    flat = one(replayed, "plateau below 3/510, int8")
    assert (flat.paper, flat.ours, flat.holds) == (-0.2, 0, "yes")


def test_noise_is_attenuated_or_amplified_by_the_sign_of_a_difference(replayed):
    smaller = one(replayed, "attenuates what", "int8 minus")
    assert (smaller.paper, smaller.ours, smaller.holds) == (22, 22, "yes")
    larger = one(replayed, "amplifies what", "int8 minus")
    assert (larger.paper, larger.ours, larger.holds) == (-22.8, 20.5, "no")


def test_distances_of_minimal_norm_attacks():
    frames = [*undefended(), minimal("fp32", "none", NEAR), minimal("int8", "none", 2 * NEAR)]
    frames += [minimal("int16x8", "none", ANY_ORDER), minimal("fp32", "none", NEAR, "jsma", "l0")]
    frames += [minimal("int16x8", "none", NEAR / 2, "jsma", "l0")]
    found = claims(evidence(frames))
    doubled = one(found, "distance to", "int8 to fp32, ddn (l2)")
    assert (doubled.paper, doubled.ours, doubled.holds) == ("increases", 2, "yes")
    assert doubled.note.startswith("175 samples")  # that both get right when clean
    same = one(found, "distance to", "int16x8 to fp32, ddn (l2)")
    assert same.holds == "undecided" and same.ci_low < 1 < same.ci_high
    assert one(found, "distance to", "int16x8 to fp32, jsma (l0)").holds == "no"
    missing = one(found, "distance to", "int8 to fp32, jsma (l0)")
    assert missing.note == "jsma at epsilon inf was not run on int8 · none"


def test_an_attack_that_fails_on_most_samples_does_not_tell_how_far_they_are():
    nothing = np.full(SAMPLES, np.inf)
    found = claims(evidence([*undefended(), minimal("fp32", "none", NEAR), minimal("int8", "none", nothing)]))
    claim = one(found, "distance to", "int8 to fp32, ddn (l2)")
    assert claim.holds == "undecided"
    assert claim.note == "ddn found errors of less than half of the samples on int8 · none"


def test_gradients_that_explode_and_that_do_not(replayed):
    exploded = one(replayed, "explode or vanish, int8")
    assert exploded.ours == pytest.approx(99 * 0.05) and exploded.holds == "yes"
    alike = one(replayed, "explode or vanish, int16x8")
    assert (alike.ours, alike.holds) == (pytest.approx(1.2), "no")
    vanished = one(replayed, "gradients vanish, int8")
    assert (vanished.ours, vanished.holds) == (0.5, "no")  # one of 200
    frames = [clean("fp32"), clean("int8", gradient_norm=np.r_[:SAMPLES] % 2)]
    assert one(claims(evidence(frames)), "gradients vanish, int8").holds == "yes"


def filtered():
    frames = [*undefended(), clean("int8", "feature_squeezing", 80)]
    for epsilon, by_replay, adaptively in ((0.004, 76, 16), (0.008, 32, 4)):
        frames.append(attacked("int8", "feature_squeezing", by_replay, epsilon=epsilon, crafted_on=("int8", "none")))
        frames.append(attacked("int8", "feature_squeezing", adaptively, epsilon=epsilon))
    return claims(evidence(frames))


def test_filters_by_replay_and_adaptively():
    found = filtered()
    told = {
        (word, how): one(found, "feature_squeezing " + word, "on int8", how)
        for word in ("works", "falls short")
        for how in ("by replay", "adaptively")
    }
    assert {key: claim.ours for key, claim in told.items()} == pytest.approx(
        {("works", "by replay"): 0.95, ("works", "adaptively"): 0.2}
        | {("falls short", "by replay"): 0.4, ("falls short", "adaptively"): 0.05}
    )
    assert [claim.holds for claim in told.values()] == ["yes", "no", "yes", "yes"]
    assert told["falls short", "by replay"].note.endswith("epsilon 0.008")
    correction = one(found, "replay tells what feature_squeezing on int8")
    assert (correction.ours, correction.holds) == (28, "no")
    assert {claim.holds for claim in chosen(found, "pixel_defend")} == {"undecided"}


def test_a_filter_that_was_attacked_at_small_perturbations_alone_is_not_known_to_fall_short():
    frames = [*undefended(), clean("int8", "feature_squeezing", 80), attacked("int8", "feature_squeezing", 16)]
    found = claims(evidence(frames))
    assert one(found, "feature_squeezing works", "on int8", "adaptively").holds == "no"
    claim = one(found, "feature_squeezing falls short", "on int8", "adaptively")
    assert (claim.holds, claim.note) == ("undecided", "pgd was not run on int8 · feature_squeezing above epsilon 0.004")


def test_trained_defenses_keep_their_distance():
    frames = [*undefended(), minimal("int8", "none", NEAR), clean("int8", "pgd_at"), clean("fp32", "pgd_at")]
    frames += [minimal("fp32", "pgd_at", 3 * NEAR), minimal("int8", "pgd_at", 2 * NEAR)]
    # The least of both attacks counts, and one that was run on one of the two networks does not.
    frames += [minimal("fp32", "pgd_at", 2 * NEAR, "deepfool"), minimal("int8", "pgd_at", 4 * NEAR, "deepfool")]
    frames += [minimal("fp32", "pgd_at", NEAR / 9, "zoo")]
    found = claims(evidence(frames))
    kept = one(found, "pgd_at keeps its distance", "(l2,")
    assert (kept.ours, kept.holds) == (1, "yes")
    increased = one(found, "pgd_at increases the distance of int8", "(l2,")
    assert (increased.ours, increased.holds) == (2, "yes")
    missing = one(found, "pgd_at keeps", "(linf,")
    assert missing.note == "no minimal-norm attack in linf was run on int8 · pgd_at and fp32 · pgd_at"


def test_converged_attacks_beside_theirs():
    pair = {"pgd": 50, "pgd_strong": 20}
    frames = [attacked("int8", "none", percent, attack, 0.008) for attack, percent in pair.items()]
    frames += [attacked("fp32", "none", 20, attack, 0.008) for attack in pair]
    found = chosen(claims(evidence([*undefended(), *frames])), "has converged")
    assert [(claim.ours, claim.holds) for claim in found] == [(0, "yes"), (30, "no")]
    assert "on int8 · none: its accuracy minus that of pgd_strong" in found[1].claim
    alone = claims(evidence([*undefended(), frames[0]]))
    assert one(alone, "have converged").note == "no attack was run that ends in _strong"


def test_several_seeds_are_resampled_by_images():
    norms = {"fp32": 1, "int8": 3}
    frames = [clean(scheme, gradient_norm=norms[scheme], seed=seed) for scheme in norms for seed in (0, 1)]
    frames += [attacked("fp32", "none", 66, epsilon=0.001, seed=seed) for seed in (0, 1)]
    found = claims(evidence(frames))
    assert one(found, "explode or vanish, int8").note.startswith("200 samples, 2 seeds; ")
    curve = one(found, "network, fp32, epsilon 0.001:")
    assert curve.note.startswith("200 samples, 2 seeds; ") and curve.ours == pytest.approx(66)


def diagnosed(**others):
    rows = synthetic_diagnostics(schemes=("fp32", "int8"), defenses=("none",), samples=SAMPLES, **others)
    return rows.assign(**SUBJECT)


def test_what_diagnostics_tell():
    found = claims(evidence(undefended(), diagnosed()))
    aligned = one(found, "gradients misalign, int8")
    assert 0.96 < aligned.ours < 0.98 and aligned.holds == "no"
    # The shift at noise of 16/255 is 1 + 16/16 times that without any.
    amplified = one(found, "amplifies uniform noise of 16/255", "int8")
    assert (amplified.ours, amplified.holds) == (pytest.approx(2), "yes")
    assert one(found, "attenuates uniform noise of 1/255", "int8").holds == "no"
    weights = one(found, "leaves what quantizing int8's weights")
    assert (weights.ours, weights.holds) == (pytest.approx(17 / 16), "yes")
    assert one(found, "changes what quantizing int8's input").holds == "no"
    assert one(found, "distance to", "int8 to fp32, l2 of the diagnostics").ours == pytest.approx(1, abs=0.1)
    assert one(found, "gradients misalign, int16x8").holds == "undecided"


def test_diagnosed_distances_are_of_images_that_both_networks_get_right():
    rows = diagnosed()
    for part, wrong, distance in (("none", range(0, 50), 0.1), ("all", range(40, 90), 0.2)):
        mine = (rows["diagnostic"] == "distance_l2") & (rows["part"] == part) & (rows["scheme"] == "int8")
        rows.loc[mine, "value"] = np.where(rows.loc[mine, "sample"].isin(wrong), 0.0, distance)
    claim = one(claims(evidence(undefended(), rows)), "distance to", "int8 to fp32, l2 of the diagnostics")
    assert (claim.ours, claim.holds) == (pytest.approx(2), "yes")
    assert claim.note.startswith("110 samples; ")


def test_which_part_of_quantization_makes_steps_of_the_curve():
    rows = diagnosed()
    # At no perturbation, and at each of the replayed budgets.
    right = {"input": (80, 80, 60, 60, 40), "weights": (80, 70, 60, 50, 50), "activations": (80, 70, 60, 50, 40)}
    for part, percents in right.items():
        for magnitude, percent in zip((0.0, *REPLAYED), percents, strict=True):
            name = "replayed_correct" if magnitude else "clean_correct"
            mine = (rows["diagnostic"] == name) & (rows["part"] == part) & (rows["scheme"] == "int8")
            mine &= np.isclose(rows["magnitude"], magnitude / 255)
            assert mine.sum() == SAMPLES
            rows.loc[mine, "value"] = (rows.loc[mine, "sample"] < percent * SAMPLES / 100).astype(float)
    found = claims(evidence(undefended(), rows))
    of_input = chosen(found, "its input alone quantized, PGD")
    assert [("leaves" in claim.claim, claim.ours, claim.holds) for claim in of_input] == [
        *((True, 0, "yes"), (False, -20, "yes"), (True, 0, "yes"), (False, -20, "yes"))
    ]
    of_weights = chosen(found, "its weights alone quantized, PGD")
    assert [claim.holds for claim in of_weights] == ["yes", "yes", "yes", "no"]
    assert [claim.holds for claim in chosen(found, "its activations alone quantized, PGD")] == ["yes"] * 4


def test_calibration_on_test_images_is_told_from_that_on_training_images():
    control = "int8_calibrated_on_test"
    frames = [
        *(*undefended(), attacked("int8", "none", 30, epsilon=0.008), minimal("int8", "none", NEAR)),
        *(clean(control, percent=95), attacked(control, "none", 30, epsilon=0.008)),
        minimal(control, "none", 1.2 * NEAR),
    ]
    found = chosen(claims(evidence(frames)), "calibrating int8 on test images")
    assert [(round(claim.ours, 3), claim.holds) for claim in found] == [(7.5, "no"), (0, "yes"), (1.2, "no")]
    without = chosen(claims(evidence(undefended())), "calibrating int8 on test images")
    assert {claim.holds for claim in without} == {"undecided"}


def test_gradients_of_codes_are_told_from_those_of_dequantized_logits():
    for factor, zero, holds in ((20, 10, "no"), (1, 0, "yes")):
        rows = diagnosed()
        mine = rows[(rows["diagnostic"] == "gradient_norm") & (rows["part"] == "all")]
        value = np.where(mine["sample"] < zero * SAMPLES / 100, 0.0, factor * mine["value"])
        of_codes = mine.assign(diagnostic="gradient_norm_of_codes", value=value)
        found = chosen(claims(evidence(undefended(), pd.concat([rows, of_codes]))), "logits left as 8-bit codes")
        norms, zeros, *of_int16x8 = sorted(found, key=lambda claim: "int16x8" in claim.claim)
        assert norms.ours == pytest.approx(factor, rel=0.2) and zeros.ours == pytest.approx(zero)
        assert (norms.holds, zeros.holds) == (holds, holds)
        assert {claim.holds for claim in of_int16x8} == {"undecided"}


def test_a_study_of_something_else_decides_nothing():
    scores = synthetic_scores(schemes=("fp32", "int8"), defenses=("none",), also=(), samples=20, test_samples=40)
    for other in (evidence([scores]), evidence([scores], synthetic_diagnostics(), {"l2": 0.5})):
        found = claims(other)
        assert {claim.holds for claim in found} == {"undecided"} and all(claim.note for claim in found)


def test_claims_are_told_apart_and_do_not_depend_on_the_order_of_scores():
    frames = [*undefended(), minimal("fp32", "none", NEAR), minimal("int8", "none", ANY_ORDER)]
    found = claims(evidence(frames, diagnosed()))
    assert len({claim.claim for claim in found}) == len(found)
    shuffled = [pd.concat(frames[::-1]).sample(frac=1, random_state=0)]
    assert claims(evidence(shuffled, diagnosed().sample(frac=1, random_state=0))) == found
