"""Rakin et al., "RA-BNN: Constructing Robust & Accurate Binary Neural Network to Simultaneously Defend Adversarial
Bit-Flip Attack and Improve Accuracy".

https://arxiv.org/abs/2103.13813 (2021), and its conference version (IEEE CCWC 2025), which says up to 100 times where
the first says more than 125.

Their claims: a complete binary network withstands the bit-flip attack, and one that has grown withstands it longer and
is more accurate. Beside them what others say against it (Aegis, Wang et al. 2023, https://arxiv.org/abs/2302.13520:
such defenses make networks more vulnerable to targeted attacks; DNL, Galil et al. 2025,
https://arxiv.org/abs/2502.07408: the signs of few large weights need no data), and the control that the paper lacks: a
binary network that is as wide and has not grown.

The paper's attacker flips weights. Every claim about a search is judged twice: so, and where all of memory may be hit,
scales, biases and batch norm too. The abstract does not say than what 125 times is; than the 8-bit network is our
reading. Since networks of other clean accuracy have another way to go until they guess, claims are also judged by the
flips until half of what a network knew is gone. Numbers of flips are medians over draws (batches of the attacker's
images). Their intervals resample the seeds of both networks and the draws of each seed; of accuracies after flips also
the test images, the same ones for all draws. A draw in which a goal was not reached counts as the number of flips that
were made, but for one end of the interval, where it counts as infinitely many: a search that gave up is no network that
withstood. Where random flips leave less than a search does, claims on it are undecided. The thresholds are ours and
stand in the notes.
"""

from collections.abc import Callable, Iterator
from functools import partial
from math import inf

import numpy as np
import pandas as pd
from scipy import stats

from stages.claims.claim import Claim, Undecidable, judged, near
from stages.claims.evidence import Evidence, Network, clean_gain, named, worst_case_gain
from stages.metrics.bootstrap import Estimate

INT8: Network = ("int8", "none")
BINARY: Network = ("binary", "none")  # weights and activations, first and last layer too
GROWN: Network = ("early_growth", "none")
WIDE: Network = ("binary_wide", "none")  # the control
BINARY_WEIGHTS: Network = ("w1a8", "none")
REMEDIES: dict[Network, str] = {
    ("int8", "weight_clustering"): "raises",  # He et al. 2020, arXiv 2003.12813
    ("int8", "pgd_at"): "",
    BINARY_WEIGHTS: "raises",
    WIDE: "raises",
}
WEIGHTS_ALONE, ANYTHING = "weights", "all of memory"
ATTACKS = {"bit_flip_weights": WEIGHTS_ALONE, "bit_flip_attack": ANYTHING}
TARGETED = {
    f"{mode}{suffix}": region
    for mode in ("all_to_one", "one_to_one")
    for suffix, region in (("_weights", WEIGHTS_ALONE), ("", ANYTHING))
}
SIGNS = {"sign_flips_weights": WEIGHTS_ALONE, "sign_flips": ANYTHING}  # without data
UNSEEN = "bit_flip_unseen"  # by checksums
GOALS = {"chance": "the network guesses", "half": "half of what it knew is gone"}

TIMES = 125  # as many flips as the 8-bit network, at least, in the first version; 100 at most in the second
GAIN = 2  # points of clean accuracy, the least that the paper reports; the most are 8
PUBLISHED = (6, 62)  # flips until an 8-bit ResNet-20 guesses, by who ran the attack
FEW = 50  # flips that count as few: about the most that an 8-bit network needs
BROKEN = 50  # percent of the images aimed at that the target gets, or of the clean accuracy that is left
AS_LARGE = 1.1  # a ratio of bytes up to this, or down to its inverse, makes a control
IMAGENET = {BINARY: 4.3, GROWN: 37.1}  # percent, ResNet-18's accuracy after MANY flips
MANY = 5_000
NEAR = 5  # points

RESAMPLES, INTERVAL = 2000, (0.025, 0.975)
ABOVE, MORE, FEWER = (0, inf), (1, inf), (-inf, 1)


def claims(evidence: Evidence) -> list[Claim]:
    """All claims about every model that the study has; what was not run for one is undecided."""
    parts = (accuracy, control, flips, published, counterclaims, remedies, inputs)
    subjects = evidence.variants[["dataset", "model"]].drop_duplicates().itertuples(index=False)
    found = [
        claim
        for dataset, model in subjects
        for part in parts
        for claim in part(evidence.of(dataset, model), f"{model} on {dataset}")
    ]
    return found + list(imagenet(evidence.of("imagenet", "resnet18")))


def accuracy(evidence: Evidence, model: str) -> Iterator[Claim]:
    """Their claim: growing makes the binary network more accurate."""
    yield judged(
        f"{model}: growth raises clean accuracy, {named(GROWN)} minus {named(BINARY)} (points)",
        "2 to 8",
        partial(clean_gain, evidence, GROWN, BINARY),
        between=(GAIN, inf),
        note=f"holds above {GAIN} points",
    )
    yield judged(
        f"{model}: a complete binary network costs clean accuracy, {named(BINARY)} minus {named(INT8)} (points)",
        "costs",
        partial(clean_gain, evidence, BINARY, INT8),
        between=(-inf, 0),
        note="holds below 0",
    )


def control(evidence: Evidence, model: str) -> Iterator[Claim]:
    """Not in the paper: whether it matters which layers got the channels."""
    yield judged(
        f"{model}: the control is as large, weight bytes of {named(WIDE)} to {named(GROWN)} (ratio)",
        "",
        partial(_bytes, evidence, WIDE, GROWN),
        between=(1 / AS_LARGE, AS_LARGE),
        note=f"holds within a factor of {AS_LARGE:g}; else comparisons with the control are of sizes, too",
    )
    yield judged(
        f"{model}: growth beats width in clean accuracy, {named(GROWN)} minus {named(WIDE)} (points)",
        "",
        partial(clean_gain, evidence, GROWN, WIDE),
        between=ABOVE,
        note="holds above 0",
    )


def flips(evidence: Evidence, model: str) -> Iterator[Claim]:
    """Their claim: how many flips it takes until the network guesses."""
    compared = [
        (f"a grown binary network takes more than {TIMES} times as many flips", GROWN, INT8, TIMES, (TIMES, inf)),
        ("growth raises the number of flips", GROWN, BINARY, "raises", MORE),
        ("growth raises the number of flips beyond width", GROWN, WIDE, "", MORE),
        ("a complete binary network takes more flips", BINARY, INT8, "more", MORE),
        ("binary activations raise the number of flips", BINARY, BINARY_WEIGHTS, "raise", MORE),
    ]
    for attack, region in ATTACKS.items():
        for goal, reached in GOALS.items():
            for told, network, other, paper, expected in compared:
                yield judged(
                    f"{model}: {told}, {attack} ({region}), until {reached}, {named(network)} to {named(other)} (ratio "
                    "of medians)",
                    paper,
                    partial(_flips_ratio, evidence, network, other, attack, goal),
                    between=expected,
                    note=f"holds above {expected[0]:g}",
                )


def published(evidence: Evidence, model: str) -> Iterator[Claim]:
    """Whether our attacker is as strong as theirs."""
    low, high = PUBLISHED
    yield judged(
        f"{model}: flips until the 8-bit network guesses, bit_flip_weights (median)",
        f"{low} to {high}",
        partial(_flips, evidence, INT8, "bit_flip_weights", "chance"),
        between=(low - 1, high + 1),
        note=f"holds from {low} to {high}, which are of ResNet-20",
    )


def counterclaims(evidence: Evidence, model: str) -> Iterator[Claim]:
    """What others say against it: few flips break the grown network."""
    for attack, region in TARGETED.items():
        yield judged(
            f"{model}: {FEW} flips of {attack} ({region}) break {named(GROWN)}: images aimed at that its target gets "
            "(percent)",
            "break",
            partial(_targeted, evidence, GROWN, attack),
            between=(BROKEN, inf),
            note=f"holds above {BROKEN} %",
        )
        yield judged(
            f"{model}: {named(GROWN)} is more vulnerable to {FEW} flips of {attack} ({region}): images aimed at that "
            f"the target gets more than without flips, minus {named(INT8)} (points)",
            "more",
            partial(_targeted_gain, evidence, GROWN, INT8, attack),
            between=ABOVE,
            note="holds above 0",
        )
        yield judged(
            f"{model}: {named(GROWN)} takes fewer flips of {attack} ({region}) until the target gets half of the "
            f"images aimed at, to {named(INT8)} (ratio of medians)",
            "fewer",
            partial(_flips_ratio, evidence, GROWN, INT8, attack, "target"),
            between=FEWER,
            note="holds below 1",
        )
    for attack, region in SIGNS.items():
        for network in (GROWN, BINARY, INT8):
            yield judged(
                f"{model}: {FEW} sign flips without data ({region}) break {named(network)}: accuracy left (percent of "
                "its clean one)",
                "break",
                partial(_left, evidence, network, attack),
                between=(-inf, BROKEN),
                note=f"holds below {BROKEN} %",
            )


def remedies(evidence: Evidence, model: str) -> Iterator[Claim]:
    """Other remedies, each against the 8-bit network, under the same attackers."""
    for attack, region in ATTACKS.items():
        for network, paper in REMEDIES.items():
            yield judged(
                f"{model}: {named(network)} takes more flips than {named(INT8)}, {attack} ({region}) "
                "(ratio of medians)",
                paper,
                partial(_flips_ratio, evidence, network, INT8, attack, "chance"),
                between=MORE,
                note="holds above 1",
            )
    for attack, region in {**ATTACKS, UNSEEN: f"{WEIGHTS_ALONE}, by an attacker who knows of them"}.items():
        yield judged(
            f"{model}: checksums recover {named(INT8)} from {FEW} flips, {attack} ({region}): accuracy with damaged "
            "groups at zero minus without (points)",
            "recover",
            partial(_recovered, evidence, INT8, attack),
            between=ABOVE,
            note="holds above 0",
        )


def inputs(evidence: Evidence, model: str) -> Iterator[Claim]:
    """Not in the paper: what attacks on inputs leave of the same networks."""
    for network in (GROWN, BINARY):
        yield judged(
            f"{model}: attacks on inputs leave more of {named(network)}, worst case minus {named(INT8)} (points)",
            "",
            partial(worst_case_gain, evidence, network, INT8),
            between=ABOVE,
            note="holds above 0",
        )


def imagenet(evidence: Evidence) -> Iterator[Claim]:
    """What they report of ResNet-18 on ImageNet."""
    for network, reported in IMAGENET.items():
        yield near(
            f"resnet18 on imagenet: accuracy of {named(network)} after {MANY:,} flips, bit_flip_weights (percent)",
            reported,
            partial(_accuracy_after, evidence, network, "bit_flip_weights", MANY),
            tolerance=NEAR,
            note=f"holds within {NEAR} points",
        )


def _bytes(evidence: Evidence, network: Network, other: Network) -> Estimate:
    ratio = evidence.weight_bytes(network) / evidence.weight_bytes(other)
    return Estimate(ratio, ratio, ratio, samples=2, runs=1, unit="networks")


def _flips(evidence: Evidence, network: Network, attack: str, goal: str) -> Estimate:
    return _of_flips(lambda first: first, evidence.flips_needed(network, attack, goal))


def _flips_ratio(evidence: Evidence, network: Network, other: Network, attack: str, goal: str) -> Estimate:
    needed = [evidence.flips_needed(one, attack, goal) for one in (network, other)]
    return _of_flips(lambda first, second: first / second, *needed)


def _of_flips(combine: Callable[..., np.ndarray], first: pd.DataFrame, *others: pd.DataFrame) -> Estimate:
    """Of median numbers of flips, rising with the first of them and falling with the others."""
    measured = (first, *others)
    drawn = [_resampled(rows, number) for number, rows in enumerate(measured)]

    def combined(cut: list[bool], resampled: bool) -> np.ndarray:
        medians = []
        for rows, chosen, is_cut in zip(measured, drawn, cut, strict=True):
            values = (rows[["needed", "budget"]].min(axis=1) if is_cut else rows["needed"]).to_numpy(dtype=float)
            medians.append(_median(values[chosen] if resampled else values[None]))
        with np.errstate(divide="ignore", invalid="ignore"):
            return combine(*medians)

    is_first = [rows is first for rows in measured]
    ends = []
    for cut, share, anything in zip((is_first, [not one for one in is_first]), INTERVAL, (0.0, inf), strict=True):
        found = combined(cut, resampled=True)
        ends.append(np.quantile(np.where(np.isnan(found), anything, found), share, method="inverted_cdf"))
    (value,) = combined([True] * len(measured), resampled=False)
    never = " and ".join(f"{np.isinf(rows['needed']).sum()} of {len(rows)}" for rows in measured)
    unit = f"draws (never reached, so that only the flips made are known: {never})"
    return Estimate(float(value), *map(float, ends), len(first), first["seed"].nunique(), unit)


def _targeted(evidence: Evidence, network: Network, attack: str) -> Estimate:
    return _of_shares(lambda hit: 100 * hit, (evidence.draws(network, attack, FEW), "hit", "aimed"))


def _targeted_gain(evidence: Evidence, network: Network, other: Network, attack: str) -> Estimate:
    rows = [evidence.draws(one, attack, FEW) for one in (network, other)]
    hit = [(one, column, "aimed") for one in rows for column in ("hit", "hit_before")]
    return _of_shares(lambda first, base, second, other_base: 100 * ((first - base) - (second - other_base)), *hit)


def _left(evidence: Evidence, network: Network, attack: str) -> Estimate:
    rows = evidence.draws(network, attack, FEW)
    return _of_shares(lambda left, clean: 100 * left / clean, (rows, "correct", "n"), (rows, "correct_before", "n"))


def _accuracy_after(evidence: Evidence, network: Network, attack: str, count: int) -> Estimate:
    return _of_shares(lambda left: 100 * left, (evidence.draws(network, attack, count), "correct", "n"))


def _recovered(evidence: Evidence, network: Network, attack: str) -> Estimate:
    rows = evidence.draws(network, attack, FEW)
    if rows["recovered"].isna().any():
        raise Undecidable("the study has no checksums")
    return _of_shares(lambda after, before: 100 * (after - before), (rows, "recovered", "n"), (rows, "correct", "n"))


def _of_shares(combine: Callable[..., np.ndarray], *counted: tuple[pd.DataFrame, str, str]) -> Estimate:
    """Of mean shares, each given as rows and the columns of its count and of what that is out of.

    Shares of the same rows have the same draws in each resample. All draws are judged on the same test images, so that
    these are more or less difficult for all shares of the same rows together.
    """
    generator = np.random.default_rng(0)
    drawn = {}
    means, found = [], []
    for rows, count, total in counted:
        if id(rows) not in drawn:
            drawn[id(rows)] = _resampled(rows, len(drawn)), generator.random((RESAMPLES, 1))
        chosen, difficulty = drawn[id(rows)]
        counts, totals = (rows[column].to_numpy(dtype=int) for column in (count, total))
        resampled = stats.binom.ppf(difficulty, totals[chosen], (counts / totals)[chosen])
        found.append((resampled / totals[chosen]).mean(axis=1))
        means.append((counts / totals).mean())
    low, high = (np.quantile(combine(*found), share) for share in INTERVAL)
    rows = counted[0][0]
    return Estimate(float(combine(*means)), float(low), float(high), len(rows), rows["seed"].nunique(), "draws")


def _resampled(rows: pd.DataFrame, number: int) -> np.ndarray:
    """Places [R, draws] of rows in each resample: seeds are drawn anew, and then as many draws of each of them."""
    generator = np.random.default_rng(number)
    of_seeds = [np.flatnonzero(rows["seed"] == seed) for seed in rows["seed"].unique()]
    seeds = generator.integers(0, len(of_seeds), (RESAMPLES, len(of_seeds)))
    ends = np.cumsum([len(places) for places in of_seeds])[:-1]
    draws = np.split(generator.random((RESAMPLES, len(rows))), ends, axis=1)
    return np.concatenate([_picked(of_seeds, *pair) for pair in zip(seeds.T, draws, strict=True)], axis=1)


def _picked(of_seeds: list[np.ndarray], seeds: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Of one seed a resample [R] the places at shares `draws` [R, D] in [0, 1) of its own."""
    found = np.empty(draws.shape, dtype=int)
    for seed, places in enumerate(of_seeds):
        is_mine = seeds == seed
        found[is_mine] = places[(draws[is_mine] * len(places)).astype(int)]
    return found


def _median(values: np.ndarray) -> np.ndarray:
    """Of each row a value that occurs, so that infinite ones do no harm."""
    return np.quantile(values, 0.5, axis=1, method="inverted_cdf")
