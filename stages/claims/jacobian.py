"""Ayaz et al., "Improving robustness against adversarial attacks with deeply quantized neural networks".

https://arxiv.org/abs/2304.12829 (2023), and the follow-up with stochastic ternary weights, Zakariyya et al.,
"Quantitative analysis of deeply quantized tiny neural networks robust to adversarial attacks",
https://arxiv.org/abs/2503.08973 (2025)

Their claim: a deeply quantized network that is trained with a Jacobian penalty on each layer is more accurate under
attack than the networks of MLPerf Tiny. It is taken apart here into what the penalty gives, what few bits give, and
what only looks robust because gradients mislead. Accuracies are in percent, differences of them in points, at the
headline epsilon of each attack's norm. The thresholds are ours and stand in the notes.
"""

from collections.abc import Iterator
from functools import partial
from math import inf

import pandas as pd

from stages.claims.claim import Claim, Undecidable, judged, near
from stages.claims.evidence import Evidence, Network, clean_gain, named, worst_case_gain
from stages.metrics.bootstrap import Estimate, difference_of_means, paired_bootstrap

BENCHMARK: Network = ("int8", "none")  # MLPerf Tiny's network, trained as long as the others
FLOAT: Network = ("fp32", "none")
PENALTY, INPUT_PENALTY = "block_jacobian", "jacobian"
LOW_BIT = ("w4a4", "w2a2", "ternary", "w1a1", "mixed")
SCHEMES = ("fp32", "int8", *LOW_BIT)

# By dataset and model: how many points more accurate than the benchmark the paper's network is under attack.
GAINS = {
    ("cifar10", "resnet8"): 8.3,
    ("speech_commands", "dscnn"): 79.5,
    ("speech_commands_test_split", "dscnn"): 79.5,  # the same claim, on the test archive alone
    ("svhn", "resnet8"): 6.5,  # under black-box attacks alone
}
BLACK_BOX_ALONE = ("svhn",)
TOLERANCE = 5  # points by which two gains may differ and still count as the same
MASKED = 5  # points by which the worst case may be below what PGD leaves, more than for the float network
ABOVE, BELOW = (0, inf), (-inf, 0)
PGD = "pgd"


def claims(evidence: Evidence) -> list[Claim]:
    """All claims, dataset by dataset; those that the study ran nothing for are undecided."""
    return [
        claim
        for subject in GAINS
        for part in (headline, penalty, bits, masking)
        for claim in part(evidence.of(*subject), subject)
    ]


def headline(evidence: Evidence, subject: tuple[str, str]) -> Iterator[Claim]:
    """Their claim: few bits and a penalty on each layer, against the benchmark, mean over attacks."""
    dataset, gain = subject[0], GAINS[subject]
    threats = ("black_box",) if dataset in BLACK_BOX_ALONE else ("white_box", "black_box")
    under = " and ".join(threat.replace("_", "-") for threat in threats)
    for scheme in LOW_BIT:
        yield near(
            f"{dataset}: accuracy under {under} attacks, mean over attacks, {named((scheme, PENALTY))} minus "
            f"{named(BENCHMARK)} (points)",
            gain,
            partial(_mean_gain, evidence, (scheme, PENALTY), BENCHMARK, threats),
            tolerance=TOLERANCE,
            note=f"holds where the paper's number is within {TOLERANCE} points of our 95 % interval",
        )
    plain = (BENCHMARK[0], PENALTY)
    yield judged(
        f"{dataset}: the penalty gains without few bits, mean over the same attacks, {named(plain)} minus "
        f"{named(BENCHMARK)} (points)",
        "",
        partial(_mean_gain, evidence, plain, BENCHMARK, threats),
        between=ABOVE,
        note="the control: a gain that few bits have no part in; holds above 0",
    )


def penalty(evidence: Evidence, subject: tuple[str, str]) -> Iterator[Claim]:
    """What the penalty gives apart from bits and recipe, and whether each layer needs its own."""
    dataset = subject[0]
    for scheme in SCHEMES:
        for other in ("none", INPUT_PENALTY):
            yield judged(
                f"{dataset}: a penalty on each layer raises the worst case of {scheme}, {PENALTY} minus {other} "
                "(points)",
                "raises",
                partial(worst_case_gain, evidence, (scheme, PENALTY), (scheme, other)),
                between=ABOVE,
                note="holds above 0",
            )


def bits(evidence: Evidence, subject: tuple[str, str]) -> Iterator[Claim]:
    """What few bits give without any penalty, and what they cost."""
    dataset = subject[0]
    for scheme in LOW_BIT:
        yield judged(
            f"{dataset}: few bits raise the worst case, {scheme} minus {BENCHMARK[0]}, undefended (points)",
            "raise",
            partial(worst_case_gain, evidence, (scheme, "none"), BENCHMARK),
            between=ABOVE,
            note="holds above 0",
        )
        yield judged(
            f"{dataset}: few bits cost clean accuracy, {scheme} minus {BENCHMARK[0]}, undefended (points)",
            "",
            partial(clean_gain, evidence, (scheme, "none"), BENCHMARK),
            between=BELOW,
            note="holds below 0",
        )


def masking(evidence: Evidence, subject: tuple[str, str]) -> Iterator[Claim]:
    """Whether what PGD leaves of few bits is robust, or out of the reach of gradients that mislead it."""
    dataset = subject[0]
    for scheme in LOW_BIT:
        for defense in ("none", PENALTY):
            yield judged(
                f"{dataset}: gradients of {scheme} · {defense} mask what other attackers find: accuracy that {PGD} "
                "leaves minus the worst case, beyond that of the float network (points)",
                "",
                partial(_masked, evidence, (scheme, defense)),
                between=(MASKED, inf),
                note=f"holds above {MASKED} points",
            )


def _mean_gain(evidence: Evidence, network: Network, other: Network, threats: tuple[str, ...]) -> Estimate:
    """Of the accuracy under each attack that both saw, its mean over attacks sample by sample."""
    common = [name for name in evidence.attacks_of(network, threats) if name in evidence.attacks_of(other, threats)]
    if not common:
        raise Undecidable(f"no attack of {' or '.join(threats)} was run on both {named(network)} and {named(other)}")
    means = [
        pd.concat([_under(evidence, one, attack) for attack in common], axis=1, join="inner").mean(axis=1)
        for one in (network, other)
    ]
    return paired_bootstrap(difference_of_means, *means)


def _masked(evidence: Evidence, network: Network) -> Estimate:
    def hidden(one: Network) -> pd.Series:
        return (_under(evidence, one, PGD) - evidence.worst_case(one, evidence.headline_norm)).dropna()

    return paired_bootstrap(difference_of_means, hidden(network), hidden(FLOAT))


def _under(evidence: Evidence, network: Network, attack: str) -> pd.Series:
    if attack not in evidence.attacks:
        raise Undecidable(f"{attack} was not run")
    return evidence.accuracy(network, attack, evidence.headline(evidence.attacks[attack]))
