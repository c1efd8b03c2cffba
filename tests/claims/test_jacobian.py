"""The claims of Ayaz et al. on made-up results of which the answers are known."""

import pandas as pd
import pytest

from stages.claims.evidence import Evidence
from stages.claims.jacobian import GAINS, claims
from stages.metrics.results import results
from tests.claims.made_up_scores import attacked, clean
from tests.synthetic_diagnostics import footprints

CLEAN = {"fp32": 90, "int8": 90, "w4a4": 85, "w2a2": 75}


def evidence(frames):
    scores = pd.concat(frames, ignore_index=True)
    table = results(scores, {})
    return Evidence(table, scores, None, footprints(table), {"linf": 0.004, "l2": 0.5})


def one(found, *words):
    (claim,) = [claim for claim in found if all(word in claim.claim for word in words)]
    return claim


@pytest.fixture(scope="module")
def found():
    """Under PGD and Square in linf, and one more attack that the benchmark alone saw."""
    left = {
        ("fp32", "none"): (20, 30),
        ("int8", "none"): (20, 30),
        ("int8", "block_jacobian"): (30, 26),
        ("w4a4", "none"): (40, 25),
        ("w2a2", "none"): (20, 20),
        ("w4a4", "block_jacobian"): (40, 30),
        ("w4a4", "jacobian"): (35, 30),
    }
    frames = [clean(scheme, defense, CLEAN[scheme]) for scheme, defense in left]
    for network, (pgd, square) in left.items():
        frames.append(attacked(*network, pgd))
        frames.append(attacked(*network, square, "square").assign(threat="black_box"))
    frames.append(attacked("int8", "none", 0, "square_l2", 0.5, "l2").assign(threat="black_box"))
    return claims(evidence(frames))


def test_the_paper_s_gain_is_a_mean_over_the_attacks_that_both_networks_saw(found):
    claim = one(found, "cifar10: accuracy under white-box and black-box", "w4a4 · block_jacobian minus int8 · none")
    assert (claim.paper, claim.ours, claim.holds) == (8.3, 10, "yes")  # 35 for 25
    control = one(found, "cifar10: the penalty gains without few bits", "int8 · block_jacobian minus int8 · none")
    assert (control.ours, control.holds) == (3, "yes")  # 28 for 25
    missing = one(found, "cifar10: accuracy under", "w2a2 · block_jacobian")
    assert missing.holds == "undecided" and "no attack of white_box or black_box was run on both" in missing.note


def test_the_penalty_is_told_from_bits_and_recipe(found):
    each_layer = one(found, "cifar10: a penalty on each layer raises the worst case of w4a4", "minus none")
    assert (each_layer.ours, each_layer.holds) == (5, "yes")  # the least of 40 and 30, for that of 40 and 25
    instead = one(found, "cifar10: a penalty on each layer raises the worst case of w4a4", "minus jacobian")
    assert (instead.ours, instead.holds) == (0, "no")


def test_what_few_bits_give_and_cost(found):
    gained = one(found, "cifar10: few bits raise the worst case, w4a4 minus int8")
    assert (gained.ours, gained.holds) == (5, "yes")
    none = one(found, "cifar10: few bits raise the worst case, w2a2 minus int8")
    assert (none.ours, none.holds) == (0, "no")
    cost = one(found, "cifar10: few bits cost clean accuracy, w2a2 minus int8")
    assert (cost.ours, cost.holds) == (-15, "yes")


def test_gradients_mask_where_others_find_more_than_pgd(found):
    masked = one(found, "cifar10: gradients of w4a4 · none mask")
    assert (masked.ours, masked.holds) == (15, "yes")  # float: none beyond PGD's 20
    assert one(found, "cifar10: gradients of w2a2 · none mask").holds == "no"


def test_what_was_not_run_is_undecided_and_no_claim_is_left_out(found):
    for dataset, _ in GAINS:
        mine = [claim for claim in found if claim.claim.startswith(f"{dataset}:")]
        assert len(mine) == 40
        if dataset != "cifar10":
            assert {claim.holds for claim in mine} == {"undecided"}
    assert "under black-box attacks" in one(found, "svhn: accuracy", "w1a1 · block_jacobian").claim
