"""Qendro et al., "Stochastic-Shield: a probabilistic approach towards training-free adversarial defense in quantized
CNNs", 2021, https://arxiv.org/abs/2105.06512

Public is the abstract, without a number: a filter of inputs and Monte Carlo dropout make a quantized network efficient
and robust jointly, without retraining, each part at one's choice. That is judged here under replay of what was crafted
on the network alone, and under the worst of all attackers, those among them who know the defense; of dropout after each
activation and before the last layer alone, which costs nearly nothing; with what each attacker adds, and what is left
of it around a network that was trained to be robust. Accuracies are in percent, differences of them in points, at the
headline epsilon. All thresholds are ours and stand in the notes.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from math import inf

import numpy as np
import pandas as pd

from stages.claims.claim import NO, UNDECIDED, YES, Claim, judged, undecided
from stages.claims.evidence import Evidence, Network
from stages.metrics.bootstrap import Estimate, difference_of_means, mean, paired_bootstrap
from stages.metrics.results import OPERATIONS

# By dataset and model the defense that trains a network, around which the shield is put, too.
SUBJECTS = {
    ("cifar10", "resnet8"): "pgd_at",
    ("speech_commands_test_split", "dscnn"): "jacobian",
    ("speech_commands", "dscnn"): "jacobian",
}
SCHEMES = ("int8", "w4a4")
UNDEFENDED = "none"
SHIELD, FILTER, DROPOUT = "shield", "shield__filter", "shield__dropout"
LATE = "shield__late"  # the same filter, and dropout before the last layer alone
ONE_PASS = "shield__once"  # the shield, asked once
PARTS = {"the filter alone": FILTER, "dropout alone": DROPOUT, "the shield": SHIELD}
# Of one draw, of averages over 20 passes and over 50, and of one who also evades the rejection.
ATTACK, AVERAGED, AVERAGED_LONGER, EVADING = "pgd", "pgd_eot", "pgd_eot_50", "pgd_evading"

WORTH = 5  # points that a defense has to give
COST = 2  # points of clean accuracy that it may cost
TOLERANCE = 5  # points that an attacker may leave more than a stronger one and still count as strong enough
EFFICIENT = 2  # times the multiply-accumulates of the network alone
USEFUL = 50  # percent of the errors that a rejection has to notice

ABOVE = (0, inf)

# The accuracy of two networks on the same samples, and from both networks to it.
Pair = tuple[pd.Series, pd.Series]
Under = Callable[[Evidence, Network, Network], Pair]


def claims(evidence: Evidence) -> list[Claim]:
    """All claims on the datasets and models of the study; those that it ran nothing for are undecided."""
    evaluated = [subject for subject in SUBJECTS if evidence.of(*subject).networks]
    return [
        claim
        for subject in evaluated or SUBJECTS
        for scheme in SCHEMES
        for part in (jointly, parts, attackers, around_trained, rejection)
        for claim in part(evidence.of(*subject), subject, scheme)
    ]


def jointly(evidence: Evidence, subject: tuple[str, str], scheme: str) -> Iterator[Claim]:
    """Their claim, without and with the attackers who know the defense."""
    where = f"{subject[0]}, {scheme}"
    for shield in (SHIELD, LATE):
        efficient = _costs(evidence, where, scheme, shield)
        for how, under in (("by replay", _replayed), ("under the worst of all attackers", _worst_cases)):
            robust = judged(
                f"{where}: {shield} is efficient and robust jointly, {how}: what it gives there, less what it costs on "
                "clean inputs (points)",
                "jointly",
                partial(_added_up, evidence, under, (scheme, shield), (scheme, UNDEFENDED)),
                between=(WORTH, inf),
                note=f"holds above {WORTH} points",
            )
            yield _both(robust, efficient)
        yield efficient


def parts(evidence: Evidence, subject: tuple[str, str], scheme: str) -> Iterator[Claim]:
    """What each part gives and costs."""
    where = f"{subject[0]}, {scheme}"
    for name, defense in PARTS.items():
        networks = (scheme, defense), (scheme, UNDEFENDED)
        against = f"{defense} minus {UNDEFENDED} (points)"
        for how, under in (("by replay", _replayed), ("in the worst case", _worst_cases)):
            yield judged(
                f"{where}: {name} makes robust {how}, {against}",
                "makes robust",
                partial(_gain, evidence, under, *networks),
                between=(WORTH, inf),
                note=f"holds above {WORTH} points",
            )
        yield judged(
            f"{where}: {name} leaves clean accuracy, {against}",
            "",
            partial(_gain, evidence, _clean, *networks),
            between=(-COST, inf),
            note=f"holds above -{COST} points",
        )


def attackers(evidence: Evidence, subject: tuple[str, str], scheme: str) -> Iterator[Claim]:
    """From the weakest attacker to the strongest: whether each tells what the shield withstands."""
    where, shield = f"{subject[0]}, {scheme}", (scheme, SHIELD)
    yield judged(
        f"{where}: replay tells what {SHIELD} withstands: accuracy by replay minus the worst case (points)",
        "implied",
        partial(_replay_minus_worst_case, evidence, shield, (scheme, UNDEFENDED)),
        between=(-inf, TOLERANCE),
        note=f"holds below {TOLERANCE} points",
    )
    pairs = (
        ("gradients of one pass are", ATTACK, (scheme, ONE_PASS), AVERAGED),
        ("gradients of one draw, the passes of a prediction, are", ATTACK, None, AVERAGED),
        ("averages over 20 passes are", AVERAGED, None, AVERAGED_LONGER),
    )
    for what, weaker, crafted_on, stronger in pairs:
        replayed = f" replayed from {crafted_on[1]}" if crafted_on else ""
        yield judged(
            f"{where}: {what} enough against {SHIELD}: accuracy that {weaker}{replayed} leaves minus {stronger} "
            "(points)",
            "",
            partial(_between_attacks, evidence, shield, (weaker, crafted_on), (stronger, None)),
            between=(-inf, TOLERANCE),
            note=f"holds below {TOLERANCE} points",
        )


def around_trained(evidence: Evidence, subject: tuple[str, str], scheme: str) -> Iterator[Claim]:
    """What training gives instead, and what the shield adds to it."""
    where, defense = f"{subject[0]}, {scheme}", SUBJECTS[subject]
    trained, both = (scheme, defense), (scheme, f"{SHIELD}__{defense}")
    yield judged(
        f"{where}: training is worth more than {SHIELD}: worst case of {defense} minus {SHIELD} (points)",
        "",
        partial(_gain, evidence, _worst_cases, trained, (scheme, SHIELD)),
        between=ABOVE,
        note="holds above 0",
    )
    yield judged(
        f"{where}: {SHIELD} adds to {defense}: worst case of {both[1]} minus {defense} (points)",
        "",
        partial(_gain, evidence, _worst_cases, both, trained),
        between=ABOVE,
        note="holds above 0",
    )
    yield judged(
        f"{where}: {SHIELD} around {defense} leaves clean accuracy, {both[1]} minus {defense} (points)",
        "",
        partial(_gain, evidence, _clean, both, trained),
        between=(-COST, inf),
        note=f"holds above -{COST} points",
    )


def rejection(evidence: Evidence, subject: tuple[str, str], scheme: str) -> Iterator[Claim]:
    """Whether what the network is uncertain about is what was changed; the filter alone has the entropy of one pass."""
    where, undefended = f"{subject[0]}, {scheme}", (scheme, UNDEFENDED)
    attacks = {
        SHIELD: {"replay": (ATTACK, undefended), AVERAGED: (AVERAGED, None), EVADING: (EVADING, None)},
        FILTER: {"replay": (ATTACK, undefended), EVADING: (EVADING, None)},
    }
    for defense, named in attacks.items():
        for name, attack in named.items():
            yield judged(
                f"{where}: uncertainty notices errors under {name}: share that {defense} rejects (%)",
                "",
                partial(_rejected, evidence, (scheme, defense), *attack),
                between=(USEFUL, inf),
                note=f"holds above {USEFUL} %; of clean validation samples 5 % are rejected",
            )


def _both(robust: Claim, efficient: Claim) -> Claim:
    """The first claim where the second one holds, too; undecided where there is no number of one of them."""
    missing = [claim for claim in (robust, efficient) if claim.ours is None]
    if missing:
        return undecided(robust.claim, robust.paper, missing[0].note)
    answers = (robust.holds, efficient.holds)
    holds = next((answer for answer in (NO, UNDECIDED) if answer in answers), YES)
    note = f"{robust.note} and up to {EFFICIENT} times the multiply-accumulates, here {efficient.ours:.3g}"
    return replace(robust, holds=holds, note=note)


def _costs(evidence: Evidence, where: str, scheme: str, shield: str) -> Claim:
    """A count has no interval."""
    claim = f"{where}: {shield} is efficient: multiply-accumulates of a prediction, to {UNDEFENDED} (ratio)"
    table = evidence.variants[evidence.variants["scheme"] == scheme].drop_duplicates("defense").set_index("defense")
    missing = [defense for defense in (shield, UNDEFENDED) if defense not in table.index]
    if missing:
        return undecided(claim, "efficient", f"{scheme} · {missing[0]} was not run")
    ratio = float(table.loc[shield, "macs"] / table.loc[UNDEFENDED, "macs"])
    operations = f"filter_{OPERATIONS}"
    counted = operations in table and pd.notna(table.loc[shield, operations])
    beside = f"; {table.loc[shield, operations]:,.0f} other operations" if counted else ""
    note = f"holds up to {EFFICIENT}; passes run from the first dropout on{beside}"
    return Claim(claim, "efficient", ratio, None, None, YES if ratio <= EFFICIENT else NO, note)


def _gain(evidence: Evidence, under: Under, network: Network, other: Network) -> Estimate:
    return paired_bootstrap(difference_of_means, *under(evidence, network, other))


def _added_up(evidence: Evidence, under: Under, network: Network, other: Network) -> Estimate:
    """The gain under attack and that of clean accuracy, which is a loss as a rule, on the attacked samples."""
    networks = evidence, network, other
    return paired_bootstrap(_sum_of_differences, *under(*networks), *_clean(*networks))


def _sum_of_differences(first: np.ndarray, second: np.ndarray, third: np.ndarray, fourth: np.ndarray) -> np.ndarray:
    return difference_of_means(first, second) + difference_of_means(third, fourth)


def _replay_minus_worst_case(evidence: Evidence, network: Network, undefended: Network) -> Estimate:
    replayed, _ = _replayed(evidence, network, undefended)
    return paired_bootstrap(difference_of_means, replayed, evidence.worst_case(network, evidence.headline_norm))


def _between_attacks(
    evidence: Evidence, network: Network, one: tuple[str, Network | None], other: tuple[str, Network | None]
) -> Estimate:
    """Of attacks on a network, each with what it was crafted on."""
    return paired_bootstrap(difference_of_means, *(_under(evidence, network, *attack) for attack in (one, other)))


def _rejected(evidence: Evidence, network: Network, attack: str, crafted_on: Network | None) -> Estimate:
    epsilon = evidence.headline(evidence.headline_norm)
    return paired_bootstrap(mean, evidence.rejected(network, attack, epsilon, crafted_on))


def _clean(evidence: Evidence, network: Network, other: Network) -> Pair:
    return evidence.accuracy(network), evidence.accuracy(other)


def _replayed(evidence: Evidence, network: Network, undefended: Network) -> Pair:
    """On what PGD crafted on the undefended network."""
    return _under(evidence, network, ATTACK, undefended), _under(evidence, undefended, ATTACK)


def _worst_cases(evidence: Evidence, network: Network, other: Network) -> Pair:
    norm = evidence.headline_norm
    return evidence.worst_case(network, norm), evidence.worst_case(other, norm)


def _under(evidence: Evidence, network: Network, attack: str, crafted_on: Network | None = None) -> pd.Series:
    return evidence.accuracy(network, attack, evidence.headline(evidence.headline_norm), crafted_on)
