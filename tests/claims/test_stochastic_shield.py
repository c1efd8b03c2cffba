"""The claims of Qendro et al. on made-up results of which the answers are known."""

import numpy as np
import pandas as pd
import pytest

from stages.claims.evidence import Evidence
from stages.claims.stochastic_shield import SUBJECTS, claims
from stages.metrics.results import results
from tests.claims.made_up_scores import SAMPLES, attacked, clean
from tests.synthetic_diagnostics import footprints

EPSILON = 0.004
CLEAN = {
    **{"none": 85, "shield__filter": 80, "shield__dropout": 84, "shield": 80, "shield__late": 83},
    **{"pgd_at": 80, "shield__pgd_at": 76},
}
MACS = {"none": 100, "shield": 1000, "shield__late": 101}


def evidence(frames, **of_all):
    scores = pd.concat(frames, ignore_index=True).assign(**of_all)
    table = results(scores, {})
    variants = footprints(table)
    variants = variants.assign(macs=variants["defense"].map(MACS).fillna(100), filter_operations=4321)
    return Evidence(table, scores, None, variants, {"linf": EPSILON})


def replayed(defense, percent, crafted_on="none"):
    return attacked("int8", defense, percent, crafted_on=("int8", crafted_on))


def rejecting(frame, percent):
    """The same scores where so many percent of the errors are rejected, the first ones, and no other sample."""
    errors = np.flatnonzero(~frame["correct"].to_numpy())
    detected = np.zeros(SAMPLES, dtype=bool)
    detected[errors[: round(len(errors) * percent / 100)]] = True
    return frame.assign(detected=detected)


def frames():
    """Of int8: robust by replay, as good as undefended under who averages, and half of the replayed errors noticed."""
    return [
        *(clean("int8", defense, percent).assign(detected=False) for defense, percent in CLEAN.items()),
        attacked("int8", "none", 10),
        rejecting(replayed("shield__filter", 30), 20),
        attacked("int8", "shield__filter", 12),
        rejecting(replayed("shield__dropout", 12), 0),
        attacked("int8", "shield__dropout", 11),
        rejecting(replayed("shield", 50), 100),
        replayed("shield", 16, crafted_on="shield__once"),
        attacked("int8", "shield", 25),
        rejecting(attacked("int8", "shield", 14, "pgd_eot"), 75),
        attacked("int8", "shield", 13.5, "pgd_eot_50"),
        rejecting(attacked("int8", "shield", 15, "pgd_evading"), 0),
        replayed("shield__late", 40),
        attacked("int8", "shield__late", 11),
        attacked("int8", "pgd_at", 50),
        attacked("int8", "shield__pgd_at", 53),
    ]


@pytest.fixture(scope="module")
def found():
    return claims(evidence(frames()))


def one(found, *words):
    (claim,) = [claim for claim in found if all(word in claim.claim for word in words)]
    return claim


def test_the_claim_holds_under_replay_and_not_in_the_worst_case(found):
    by_replay = one(found, "int8: shield__late is efficient and robust jointly, by replay")
    assert (by_replay.paper, by_replay.ours, by_replay.holds) == ("jointly", 28, "yes")  # 30 more, for 2 clean
    assert by_replay.note.endswith("holds above 5 points and up to 2 times the multiply-accumulates, here 1.01")
    worst = one(found, "int8: shield__late is efficient and robust jointly, under the worst")
    assert (worst.ours, worst.holds) == (-1, "no")  # 1 more, for 2 clean
    costs = one(found, "int8: shield__late is efficient: ")
    assert (costs.ours, costs.ci_low, costs.holds) == (1.01, None, "yes") and "4,321 other operations" in costs.note


def test_what_is_robust_and_takes_ten_times_the_computing_is_not_both(found):
    by_replay = one(found, "int8: shield is efficient and robust jointly, by replay")
    assert (by_replay.ours, by_replay.holds) == (35, "no") and by_replay.ci_low > 5  # 40 more, for 5 clean
    costs = one(found, "int8: shield is efficient: ")
    assert (costs.ours, costs.holds) == (10, "no")


def test_efficient_and_unclear_whether_robust_is_unclear():
    unclear = [*(frame for frame in frames() if not is_replayed(frame, "shield__late")), replayed("shield__late", 17)]
    by_replay = one(claims(evidence(unclear)), "int8: shield__late is efficient and robust jointly, by replay")
    assert by_replay.holds == "undecided" and by_replay.ci_low < 5 < by_replay.ci_high


def is_replayed(frame, defense):
    return (frame["defense"] == defense).all() and (frame["threat"] == "transfer").all()


def test_each_part_is_told_apart(found):
    gains = {
        (name, how): one(found, f"int8: {name} makes robust {how}").ours
        for name in ("the filter alone", "dropout alone", "the shield")
        for how in ("by replay", "in the worst case")
    }
    assert list(gains.values()) == pytest.approx([20, 2, 2, 1, 40, 3.5])
    cost = one(found, "int8: dropout alone leaves clean accuracy")
    assert (cost.ours, cost.holds) == (-1, "undecided") and cost.ci_low < -2 < cost.ci_high
    assert one(found, "int8: the shield leaves clean accuracy").holds == "no"


def test_attackers_are_compared_with_stronger_ones(found):
    assert one(found, "int8: replay tells what shield withstands").ours == pytest.approx(36.5)
    once, draw, longer = (
        one(found, f"int8: {what}") for what in ("gradients of one pass", "gradients of one draw", "ave")
    )
    assert "pgd replayed from shield__once leaves minus pgd_eot" in once.claim
    assert [once.ours, draw.ours, longer.ours] == pytest.approx([2, 11, 0.5])
    assert [once.holds, draw.holds, longer.holds] == ["yes", "no", "yes"]


def test_an_attacker_who_does_more_than_the_stronger_one_is_enough():
    stronger = [*(frame for frame in frames() if (frame["attack"] != "pgd_eot_50").all())]
    stronger.append(attacked("int8", "shield", 40, "pgd_eot_50"))
    claim = one(claims(evidence(stronger)), "int8: averages over 20 passes are enough")
    assert (claim.ours, claim.holds) == (-26, "yes")


def test_what_the_shield_adds_to_a_trained_network(found):
    more = one(found, "int8: training is worth more than shield", "pgd_at")
    assert (more.ours, more.holds) == (36.5, "yes")
    adds = one(found, "int8: shield adds to pgd_at")
    assert (adds.ours, adds.holds) == (3, "yes")
    assert one(found, "int8: shield around pgd_at leaves clean accuracy").ours == -4


def test_errors_that_are_rejected_are_those_that_an_attacker_made(found):
    shares = {
        (defense, name): one(found, f"int8: uncertainty notices errors under {name}: share that {defense} rejects")
        for defense, name in (("shield", "replay"), ("shield", "pgd_eot"), ("shield", "pgd_evading"))
    }
    # Of 80 % that are right when clean; clean mistakes, the last errors, are none of the attacker's.
    assert shares["shield", "replay"].ours == 100 and shares["shield", "replay"].note.startswith("60 samples")
    assert shares["shield", "pgd_eot"].ours == pytest.approx(100 * 129 / 132)
    assert [claim.holds for claim in shares.values()] == ["yes", "yes", "no"]
    filtered = one(found, "int8", "under replay: share that shield__filter rejects")
    assert filtered.ours == pytest.approx(28) and filtered.holds == "no"
    assert one(found, "int8", "under pgd_evading: share that shield__filter").holds == "undecided"


def test_a_network_without_a_detector_rejects_nothing():
    found = claims(evidence([*frames()], detected=None))
    claim = one(found, "int8: uncertainty notices errors under pgd_eot")
    assert (claim.holds, claim.note) == ("undecided", "int8 · shield rejects nothing")


def test_claims_are_of_the_study_s_data_and_what_was_not_run_is_undecided(found):
    assert {claim.claim.partition(":")[0] for claim in found} == {"cifar10, int8", "cifar10, w4a4"}
    assert {claim.holds for claim in found if "w4a4" in claim.claim} == {"undecided"}
    sound = evidence(frames(), dataset="speech_commands_test_split", model="dscnn")
    of_sound = claims(sound)
    assert len(of_sound) == len(found) == 54
    assert one(of_sound, "speech_commands_test_split, int8: shield adds to jacobian").holds == "undecided"
    nothing = claims(evidence(frames(), dataset="svhn"))
    assert len(nothing) == len(SUBJECTS) * len(found) and {claim.holds for claim in nothing} == {"undecided"}
    assert all(claim.note for claim in nothing)


def test_claims_are_told_apart(found):
    assert len({claim.claim for claim in found}) == len(found)
