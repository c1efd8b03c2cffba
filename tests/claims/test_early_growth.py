"""The claims of Rakin et al., and those against them, on made-up results of which the answers are known."""

from math import inf

import pandas as pd
import pytest

from stages.claims.early_growth import FEW, IMAGENET, MANY, claims
from stages.claims.evidence import Evidence
from stages.faults.goals import GOALS
from stages.metrics.results import results
from tests.claims.made_up_scores import SUBJECT, attacked, clean
from tests.synthetic_diagnostics import footprints

CLEAN = {"int8": 90, "binary": 70, "early_growth": 80, "binary_wide": 80, "w1a8": 85}
BUDGET = 100


def draw(scheme, attack, left, number=0, defense="none", before=None, **more):
    """Rows of one draw on 1,000 images: `left` maps numbers of flips to correct ones, `before` has other columns of the
    row without flips."""
    network = SUBJECT | {"scheme": scheme, "defense": defense, "seed": number % 2, "attack": attack}
    missing = dict.fromkeys(["target", "aimed", "hit", "recovered", *GOALS], float("nan"))
    facts = network | missing | {"draw": number // 2, "n": 1000, "num_classes": 10} | more
    clean = facts | {"flips": 0, "made": 0, "correct": 10 * CLEAN[scheme]} | (before or {})
    return [clean, *(facts | {"flips": flips, "made": flips, "correct": correct} for flips, correct in left.items())]


def search(scheme, needed, attack="bit_flip_weights", **more):
    """Draws that need so many flips each until the network guesses, and half as many until half is gone."""
    rows = []
    for number, flips in enumerate(needed):
        made = BUDGET if flips == inf else flips
        goals = {} if flips == inf else {"to_chance": flips, "to_half": flips / 2}
        rows += [
            row | {"made": min(row["made"], made)}
            for row in draw(scheme, attack, {BUDGET: 100}, number, **goals, **more)
        ]
    return rows


def judge(rows=(), bytes_of=None, more=(), faults_in_table=False):
    frames = [clean(scheme, percent=percent) for scheme, percent in CLEAN.items()]
    frames += [attacked(scheme, "none", percent) for scheme, percent in {"int8": 20, "early_growth": 30}.items()]
    scores = pd.concat([*frames, *more], ignore_index=True)
    faults = pd.DataFrame(rows) if rows else None
    table = results(scores, {}, None, faults if faults_in_table else None)
    variants = footprints(table).assign(weight_bytes=table["scheme"].map(bytes_of or {}))
    return claims(Evidence(table, scores, None, variants, {"linf": 0.004}, faults))


def one(found, *words):
    (claim,) = [claim for claim in found if all(word in claim.claim for word in ("resnet8 on cifar10: ", *words))]
    return claim


def ratio(found, network, other, attack="bit_flip_weights", goal="the network guesses"):
    return one(found, f"{attack} (", f"until {goal}", f"{network} · none to {other} · none (ratio of medians)")


def test_growth_is_told_from_width_and_from_one_bit():
    found = judge(bytes_of={"binary_wide": 10_500, "early_growth": 10_000})
    gained = one(found, "growth raises clean accuracy")
    assert (gained.paper, gained.ours, gained.holds) == ("2 to 8", 10, "yes")
    beyond = one(found, "growth beats width in clean accuracy")
    assert (beyond.ours, beyond.holds) == (0, "no")
    assert (one(found, "costs clean accuracy").ours, one(found, "costs clean accuracy").holds) == (-20, "yes")
    assert one(found, "the control is as large").holds == "yes"
    assert one(judge(bytes_of={"binary_wide": 13_000, "early_growth": 10_000}), "as large").holds == "no"
    inputs = one(found, "attacks on inputs leave more of early_growth")
    assert (inputs.ours, inputs.holds) == (10, "yes")


def test_ratios_of_flips_are_of_medians_over_draws():
    found = judge(
        [*search("int8", [9, 10, 11, 12] * 2), *search("early_growth", [40] * 8), *search("binary", [10] * 8)]
    )
    compared = ratio(found, "early_growth", "binary")
    assert (compared.ours, compared.ci_low, compared.ci_high, compared.holds) == (4, 4, 4, "yes")
    assert compared.note.startswith("8 draws (never reached, so that only the flips made are known: 0 of 8 and 0 of 8)")
    assert "2 seeds" in compared.note
    assert ratio(found, "early_growth", "binary", goal="half of what it knew is gone").ours == 4
    of_int8 = ratio(found, "early_growth", "int8")
    assert of_int8.ours == 4 and of_int8.ci_low < 4 < of_int8.ci_high and of_int8.holds == "no"  # far below 125
    assert ratio(found, "binary", "int8").holds == "undecided"
    published = one(found, "flips until the 8-bit network guesses")
    assert (published.ours, published.holds) == (10, "yes")
    assert ratio(found, "early_growth", "binary", "bit_flip_attack").holds == "undecided"  # not run


def test_a_network_that_never_guessed_is_known_to_take_more_than_were_tried_and_no_more():
    found = judge([*search("int8", [10] * 5), *search("early_growth", [inf] * 5), *search("binary", [20] * 5)])
    of_int8 = ratio(found, "early_growth", "int8")
    assert (of_int8.ours, of_int8.ci_low, of_int8.ci_high, of_int8.holds) == (10, 10, inf, "undecided")
    assert ratio(found, "early_growth", "binary").holds == "yes"
    turned = judge([*search("early_growth", [20] * 5), *search("binary", [inf] * 5)])
    compared = ratio(turned, "early_growth", "binary")
    assert (compared.ours, compared.ci_low, compared.ci_high, compared.holds) == (0.2, 0, 0.2, "no")
    neither = judge([*search("early_growth", [inf] * 5), *search("binary", [inf] * 5)])
    compared = ratio(neither, "early_growth", "binary")
    assert (compared.ci_low, compared.ci_high, compared.holds) == (0, inf, "undecided")


def test_a_search_that_gave_up_says_nothing_of_what_it_would_have_taken():
    stuck = [row | {"made": min(row["made"], 1)} for row in search("early_growth", [inf] * 5)]
    found = judge([*search("int8", [10] * 5), *stuck])
    compared = ratio(found, "early_growth", "int8")
    assert (compared.ours, compared.ci_low, compared.ci_high, compared.holds) == (0.1, 0.1, inf, "undecided")


def test_a_search_that_random_flips_beat_decides_nothing():
    searches = search("int8", [10] * 16) + search("binary", [60] * 16)
    weak = [row | ({"correct": 500} if row["flips"] else {}) for row in searches]
    random = [row for number in range(16) for row in draw("binary", "random_flips", {BUDGET: 20}, number)]

    def compared(rows):
        rows = [row | {"searches": row["attack"] != "random_flips"} for row in (*rows, *random) if row["seed"] == 0]
        rows = [row | {"memory_bits": 1000, "unpredicted": 0, "seen": 0} for row in rows]
        return ratio(judge(rows, faults_in_table=True), "binary", "int8")

    assert compared(searches).holds == "yes"
    beaten = compared(weak)
    assert beaten.holds == "undecided" and "random flips leave less of binary · none than" in beaten.note


def test_few_flips_of_other_attackers_confirm_or_refute():
    aimed = {"target": 3.0, "aimed": 900.0}
    rows = [
        *(
            row
            for number in range(6)
            for row in draw(
                "early_growth", "all_to_one", {FEW: 500}, number, before={"hit": 90}, **aimed, hit=720, to_target=10
            )
        ),
        *(
            row
            for number in range(6)
            for row in draw("int8", "all_to_one", {FEW: 500}, number, before={"hit": 9}, **aimed, hit=45, to_target=40)
        ),
        *(row for number in range(2) for row in draw("early_growth", "sign_flips", {FEW: 760}, number)),
        *(row for number in range(2) for row in draw("int8", "sign_flips", {FEW: 90}, number)),
    ]
    found = judge(rows)
    broken = one(found, "flips of all_to_one (all of memory) break early_growth")
    assert (broken.ours, broken.holds) == (80, "yes") and broken.ci_low < 80 < broken.ci_high
    more = one(found, "is more vulnerable", "all_to_one (")
    assert (more.ours, more.holds) == (pytest.approx(70 - 4), "yes")
    fewer = one(found, "takes fewer flips of all_to_one (")
    assert (fewer.ours, fewer.holds) == (0.25, "yes")
    left = one(found, "sign flips without data (all of memory) break early_growth")
    assert (left.ours, left.holds) == (95, "no") and left.ci_low < 95 < left.ci_high  # images are drawn, too
    assert (
        one(found, "data (all of memory) break int8").ours,
        one(found, "data (all of memory) break int8").holds,
    ) == (10, "yes")
    assert one(found, "flips of one_to_one_weights (weights) break").holds == "undecided"


def test_remedies_are_held_against_the_8_bit_network():
    rows = [*search("int8", [10] * 4), *search("int8", [30] * 4, defense="weight_clustering")]
    rows += [
        row for number in range(4) for row in draw("int8", "bit_flip_weights", {FEW: 100}, number, recovered=400.0)
    ]
    found = judge(rows)
    clustered = one(found, "int8 · weight_clustering takes more flips", "bit_flip_weights")
    assert (clustered.ours, clustered.holds) == (3, "yes")
    recovered = one(found, "checksums recover", "bit_flip_weights")
    assert (recovered.ours, recovered.holds) == (pytest.approx(30), "yes")
    unseen = [
        row for number in range(4) for row in draw("int8", "bit_flip_unseen", {FEW: 500}, number, recovered=500.0)
    ]
    same = one(judge(unseen), "checksums recover", "bit_flip_unseen")
    assert (same.ours, same.ci_low, same.ci_high, same.holds) == (0, 0, 0, "no")
    without = one(judge(draw("int8", "bit_flip_weights", {FEW: 100})), "checksums recover", "bit_flip_weights")
    assert without.holds == "undecided" and "no checksums" in without.note


def test_what_was_not_run_is_undecided_and_no_claim_is_left_out():
    found = judge()
    mine = [claim for claim in found if claim.claim.startswith("resnet8 on cifar10: ")]
    assert (len(mine), len(found)) == (56, 58)
    assert [(claim.paper, claim.holds) for claim in found[56:]] == [(4.3, "undecided"), (37.1, "undecided")]
    assert "was not run on early_growth · none" in ratio(found, "early_growth", "int8").note


def test_every_model_of_a_study_is_judged_and_resnet18_held_against_the_papers_numbers():
    on_imagenet = {"dataset": "imagenet", "model": "resnet18"}
    rows = [
        row | on_imagenet
        for scheme, left in (("binary", 60), ("early_growth", 250))
        for number in range(4)
        for row in draw(scheme, "bit_flip_weights", {MANY: left}, number)
    ]
    found = judge(rows, more=[clean("early_growth", percent=60).assign(**on_imagenet)])
    assert sum(claim.claim.startswith("resnet18 on imagenet: ") for claim in found) == 56 + 2
    plain, grown = found[-2:]
    assert (plain.ours, plain.holds, plain.paper) == (pytest.approx(6), "yes", IMAGENET["binary", "none"])
    assert (grown.ours, grown.holds) == (pytest.approx(25), "no")
    assert one(found, "growth raises clean accuracy").ours == 10  # of the other model alone
