"""Costa and Pinto, "David and Goliath: an empirical evaluation of attacks and defenses for QNNs at the deep edge".

https://arxiv.org/abs/2404.05688 (2024)

Their curve of replayed PGD, what makes the steps in it, their findings, and what their method leaves out: of ResNet-8
on CIFAR-10 in float, with 16-bit activations, and at 8 bits. All accuracies are in percent, as theirs; a difference of
them is in points. The thresholds are ours, since the paper gives directions: they stand in the notes.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from math import inf

from stages.claims.claim import Claim, Undecidable, judged, near, undecided
from stages.claims.evidence import Evidence, Network, named
from stages.metrics.bootstrap import (
    Estimate,
    difference_of_means,
    median,
    paired_bootstrap,
    ratio_of_means,
    ratio_of_medians,
)

DATASET, MODEL = "cifar10", "resnet8"
FLOAT: Network = ("fp32", "none")
INT8: Network = ("int8", "none")
CONTROL: Network = ("int8_calibrated_on_test", "none")
SCHEMES = ("fp32", "int16x8", "int8")
QUANTIZED = ("int16x8", "int8")
FILTERS = ("feature_squeezing", "pixel_defend")
TRAINED = ("pgd_at", "distillation", "ensemble_at", "sinkhorn_at")
ATTACK, STRONG = "pgd", "_strong"

# Accuracy (%) of each of SCHEMES by epsilon, on what PGD crafted on the float network.
CURVE = {
    0.0002: (85.3, 85.4, 87.5),
    0.001: (65.5, 66.5, 87.5),
    0.002: (39.5, 41.7, 16.7),
    0.004: (9.5, 10.1, 12.2),
    0.005: (3.2, 3.5, 12.0),
    0.006: (1.2, 1.3, 0.4),
    0.008: (0.3, 0.3, 0.4),
}
BELOW_HALF_A_LEVEL = (
    0.0002,
    0.001,
)  # the 8-bit grid rounds changes below 1/510 to none, and the next below 3/510 to one
REPLAYED = (0.25, 0.75, 1.25, 1.75)  # levels of 1/255, at which the diagnostics replay
SMALL = 0.004  # the smallest epsilon at which the paper evaluates filters

TOLERANCE = 5  # points by which two accuracies may differ and still count as the same
FLAT = 1  # the same for the points of one curve, on the same images
SIMILAR = 1.25  # a ratio up to this, or down to its inverse, counts as no change
CALIBRATED = 1.05  # the same for what calibration may change
EXPLODED = 2  # the same, above or below which a gradient has exploded or vanished
ZERO_GRADIENTS = 5  # percent of images that more are without a gradient
MISALIGNED = 0.7071  # the cosine of 45 degrees
LEFT = 0.5  # share of a filter's clean accuracy that it has to keep under attack to work
KEPT = 0.9  # share of a distance that quantization has to leave

ABOVE, BELOW = (0, inf), (-inf, 0)
INCREASED = (1, inf)
OWN_READING = "our reading of their curve, not a claim of theirs"


def claims(evidence: Evidence) -> list[Claim]:
    """All claims, in the paper's order; those that the study ran nothing for are undecided."""
    subject = evidence.of(DATASET, MODEL)
    parts = (
        *(curve, input_rounding, rounding_in_the_network, boundary, gradients),
        *(noise, misalignment, filters, trained_defenses),
        *(replayed_filters, convergence, calibration, dequantization),
    )
    return [claim for part in parts for claim in part(subject)]


def curve(evidence: Evidence) -> Iterator[Claim]:
    """Their curve, point by point: PGD on the float network, replayed on the others."""
    for epsilon, accuracies in CURVE.items():
        for scheme, paper in zip(SCHEMES, accuracies, strict=True):
            where = ((scheme, "none"), ATTACK, epsilon, None if scheme == FLOAT[0] else FLOAT)
            flags = evidence.flags(*where)
            yield near(
                f"PGD crafted on the float network, {scheme}, epsilon {epsilon:g}: accuracy (%)",
                paper,
                partial(evidence.level, *where),
                tolerance=TOLERANCE,
                note=f"holds where the paper's number is within {TOLERANCE} points of our 95 % interval"
                + (f"; flagged: {', '.join(flags)}" if flags else ""),
            )


def input_rounding(evidence: Evidence) -> Iterator[Claim]:
    """Plateaus and steps of the replayed curve lie where the input is rounded to multiples of 1/255."""
    for epsilon in BELOW_HALF_A_LEVEL:
        change = f"accuracy at epsilon {epsilon:g} minus clean (points)"
        of_int8, of_int16x8 = (partial(_change, evidence, (scheme, "none"), 0.0, epsilon) for scheme in QUANTIZED[::-1])
        yield _flat(f"plateau below 1/510, int8: {change}", 0.0, of_int8)
        yield _falls(f"no plateau below 1/510, int16x8: {change}", "falls", of_int16x8)
    shapes = (
        ("step at 1/510", _falls, 0.001, 0.002),
        ("plateau below 3/510", _flat, 0.004, 0.005),
        ("step at 3/510", _falls, 0.005, 0.006),
    )
    for shape, is_so, before, after in shapes:
        yield is_so(
            f"{shape}, int8: accuracy at epsilon {after:g} minus at {before:g} (points)",
            round(CURVE[after][SCHEMES.index("int8")] - CURVE[before][SCHEMES.index("int8")], 1),
            partial(_change, evidence, INT8, before, after),
        )


def rounding_in_the_network(evidence: Evidence) -> Iterator[Claim]:
    """Which part of quantization makes the curve's shape: each alone, on what PGD crafted on the float network."""
    for part in ("input", "weights", "activations"):
        for before, after in pairwise((0, *REPLAYED)):
            # Rounded inputs change at halves of a level, inputs that are not see changes of any size.
            falls = part != "input" or round(before) != round(after)
            yield (_falls if falls else _flat)(
                f"int8 with its {part} alone quantized, PGD crafted on the float network "
                f"{'lowers' if falls else 'leaves'} accuracy from {before:g}/255 to {after:g}/255 (points)",
                "",
                partial(_replayed_change, evidence, part, before / 255, after / 255),
            )
    for part in ("input", "weights", "activations"):
        moves = part == "input"  # at 8 bits images lie on its grid, and only noise has to be rounded
        yield judged(
            f"noise of 1/255 {'changes' if moves else 'leaves'} what quantizing int8's {part} alone does to the logits "
            "(ratio of median shifts to those without noise)",
            "",
            partial(_shift_ratio, evidence, "int8", 1, part),
            between=(SIMILAR, inf) if moves else (1 / SIMILAR, SIMILAR),
            note=f"holds {'above' if moves else 'within a factor of'} {SIMILAR:g}; {OWN_READING}",
        )


def boundary(evidence: Evidence) -> Iterator[Claim]:
    """Finding: quantization increases the distance to the decision boundary."""
    paper, claim = "increases", "distance to the decision boundary, {} to fp32, {} (ratio of medians)"
    for scheme in QUANTIZED:
        for norm in ("l2", "linf"):
            yield judged(
                claim.format(scheme, f"{norm} of the diagnostics"),
                paper,
                partial(_diagnosed_distances, evidence, (scheme, "none"), norm),
                between=INCREASED,
                note="holds above 1; distances before the network rounds its input",
            )
        for attack in evidence.minimal_norm_attacks:
            yield judged(
                claim.format(scheme, f"{attack} ({evidence.attacks[attack]})"),
                paper,
                partial(_distances, evidence, attack, (scheme, "none"), FLOAT),
                between=INCREASED,
                note="holds above 1; distances as the network sees them, after it rounds its input",
            )
        if not evidence.minimal_norm_attacks:
            yield undecided(claim.format(scheme, "minimal-norm attacks"), paper, "no minimal-norm attack was run")


def gradients(evidence: Evidence) -> Iterator[Claim]:
    """Finding: gradients explode or vanish."""
    for scheme in QUANTIZED:

        def compared(statistic: Callable, network=(scheme, "none"), zero: bool = False) -> Estimate:
            norms = [evidence.gradient_norm(network), evidence.gradient_norm(FLOAT)]
            return paired_bootstrap(statistic, *(100.0 * (norm == 0) if zero else norm for norm in norms))

        yield judged(
            f"gradients explode or vanish, {scheme} to fp32 (ratio of median norms)",
            "either",
            partial(compared, ratio_of_medians),
            outside=(1 / EXPLODED, EXPLODED),
            note=f"holds above {EXPLODED} or below 1/{EXPLODED}",
        )
        yield judged(
            f"gradients vanish, {scheme} minus fp32 (points of images with an all-zero gradient)",
            "more",
            partial(compared, difference_of_means, zero=True),
            between=(ZERO_GRADIENTS, inf),
            note=f"holds above {ZERO_GRADIENTS} points",
        )


def noise(evidence: Evidence) -> Iterator[Claim]:
    """Finding: quantization attenuates or amplifies noise, depending on its size."""
    # At 8 bits alone: their accuracies of int16x8 are those of float to within 3 points.
    for epsilon, effect, expected in ((0.001, "attenuates", ABOVE), (0.002, "amplifies", BELOW)):
        accuracies = dict(zip(SCHEMES, CURVE[epsilon], strict=True))
        yield judged(
            f"quantization {effect} what PGD crafted on the float network at epsilon {epsilon:g}: accuracy, int8 minus "
            "fp32 (points)",
            round(accuracies["int8"] - accuracies["fp32"], 1),
            partial(_replay_gain, evidence, epsilon),
            between=expected,
            note=f"holds {'above' if expected == ABOVE else 'below'} 0",
        )
    for levels, effect, expected in ((1, "attenuates", (-inf, 1)), (16, "amplifies", INCREASED)):
        for scheme in QUANTIZED:
            yield judged(
                f"quantization {effect} uniform noise of {levels}/255: shift of {scheme}'s logits from the float ones, "
                "to that without noise (ratio of medians)",
                effect,
                partial(_shift_ratio, evidence, scheme, levels, "all"),
                between=expected,
                note=f"holds {'above' if expected == INCREASED else 'below'} 1",
            )


def misalignment(evidence: Evidence) -> Iterator[Claim]:
    """Finding: gradients of the float and of the quantized network misalign."""
    for scheme in QUANTIZED:

        def cosine(network=(scheme, "none")) -> Estimate:
            return paired_bootstrap(median, evidence.diagnosed("gradient_cosine", network))

        yield judged(
            f"gradients misalign, {scheme} with fp32 (median cosine)",
            "misalign",
            cosine,
            between=(-inf, MISALIGNED),
            note=f"holds below {MISALIGNED:g}, an angle above 45 degrees",
        )


def filters(evidence: Evidence) -> Iterator[Claim]:
    """Finding: filters work at small perturbations only. By replay of what was crafted without them, and adaptively."""
    for name in FILTERS:
        for scheme in QUANTIZED:
            for how, crafted_on in (("by replay", (scheme, "none")), ("adaptively", None)):
                attacked = f"on {scheme} at {{}}, attacked {how} (share of its clean accuracy under {ATTACK})"
                yield judged(
                    f"{name} works {attacked.format(f'epsilon {SMALL:g}')}",
                    "works",
                    partial(_share_left, evidence, (scheme, name), SMALL, crafted_on),
                    between=(LEFT, inf),
                    note=f"holds above {LEFT:g}",
                )
                budgets = [budget for budget in evidence.epsilons((scheme, name), ATTACK, crafted_on) if budget > SMALL]
                largest = max(budgets, default=None)
                yield judged(
                    f"{name} falls short {attacked.format('the largest epsilon')}",
                    "falls short",
                    partial(_share_left, evidence, (scheme, name), largest, crafted_on),
                    between=(-inf, LEFT),
                    note=f"holds below {LEFT:g}" + (f"; epsilon {largest:g}" if largest else ""),
                )


def trained_defenses(evidence: Evidence) -> Iterator[Claim]:
    """Finding: defenses that are trained increase the distance to the boundary, and that holds after quantization."""
    for defense in TRAINED:
        for norm in ("l2", "linf"):
            distances = f"({norm}, ratio of medians of the least that any attack found)"
            yield judged(
                f"{defense} keeps its distance after quantization, int8 to fp32 {distances}",
                "keeps",
                partial(_nearest, evidence, norm, ("int8", defense), ("fp32", defense)),
                between=(KEPT, inf),
                note=f"holds above {KEPT:g}; distances as the network sees them, after it rounds its input",
            )
            yield judged(
                f"{defense} increases the distance of int8, to none {distances}",
                "increases",
                partial(_nearest, evidence, norm, ("int8", defense), INT8),
                between=INCREASED,
                note="holds above 1",
            )


def replayed_filters(evidence: Evidence) -> Iterator[Claim]:
    """Correction: filters are attacked adaptively, not by replay alone."""
    for name in FILTERS:
        for scheme in SCHEMES:
            yield judged(
                f"replay tells what {name} on {scheme} withstands: accuracy by replay minus adaptively, {ATTACK} at "
                "the headline epsilon (points)",
                "implied",
                partial(_replay_minus_adaptive, evidence, scheme, name),
                between=(-TOLERANCE, TOLERANCE),
                note=f"holds within {TOLERANCE} points",
            )


def convergence(evidence: Evidence) -> Iterator[Claim]:
    """Correction: attacks run until they have converged (names ending in `_strong`), beside the paper's."""
    paper, note = "implied", f"holds within {TOLERANCE} points"
    claim = "the paper's {} has converged on {} · {}: its accuracy minus that of {} at the headline epsilon (points)"
    plain = [attack for attack in evidence.attacks if attack + STRONG in evidence.attacks]
    for attack in plain:
        for network in evidence.networks:
            if all(evidence.epsilons(network, name) for name in (attack, attack + STRONG)):
                measure = partial(_convergence, evidence, network, attack)
                told = claim.format(attack, *network, attack + STRONG)
                yield judged(told, paper, measure, between=(-TOLERANCE, TOLERANCE), note=note)
    if not plain:
        yield undecided("the paper's attacks have converged", paper, f"no attack was run that ends in {STRONG}")


def calibration(evidence: Evidence) -> Iterator[Claim]:
    """Correction: activations are calibrated on training images, not on those that are evaluated."""
    for attack in ("clean", ATTACK):
        under = "clean" if attack == "clean" else f"under {attack} at the headline epsilon"
        yield judged(
            f"calibrating int8 on test images tells its accuracy {under}: that minus calibrated on training images "
            "(points)",
            "implied",
            partial(_calibration_gain, evidence, attack),
            between=(-FLAT, FLAT),
            note=f"holds within {FLAT} point",
        )
    for attack in evidence.minimal_norm_attacks:
        yield judged(
            f"calibrating int8 on test images tells its distance to the decision boundary, {attack} "
            f"({evidence.attacks[attack]}), to that calibrated on training images (ratio of medians)",
            "implied",
            partial(_distances, evidence, attack, CONTROL, INT8),
            between=(1 / CALIBRATED, CALIBRATED),
            note=f"holds within a factor of {CALIBRATED:g}",
        )


def dequantization(evidence: Evidence) -> Iterator[Claim]:
    """Correction: gradients are those of dequantized logits, not of their codes."""
    for scheme in QUANTIZED:

        def compared(statistic: Callable, network=(scheme, "none"), zero: bool = False) -> Estimate:
            norms = [evidence.diagnosed(name, network) for name in ("gradient_norm_of_codes", "gradient_norm")]
            return paired_bootstrap(statistic, *(100.0 * (norm == 0) if zero else norm for norm in norms))

        yield judged(
            f"logits left as 8-bit codes tell the gradients of {scheme}, to dequantized ones (ratio of median norms)",
            "implied",
            partial(compared, ratio_of_medians),
            between=(1 / SIMILAR, SIMILAR),
            note=f"holds within a factor of {SIMILAR:g}",
        )
        yield judged(
            f"logits left as 8-bit codes tell how many gradients of {scheme} vanish, minus dequantized ones (points of "
            "images with an all-zero gradient)",
            "implied",
            partial(compared, difference_of_means, zero=True),
            between=(-ZERO_GRADIENTS, ZERO_GRADIENTS),
            note=f"holds within {ZERO_GRADIENTS} points",
        )


def _flat(claim: str, paper: float | str, measure: Callable[[], Estimate]) -> Claim:
    return judged(claim, paper, measure, between=(-FLAT, FLAT), note=f"holds within {FLAT} point")


def _falls(claim: str, paper: float | str, measure: Callable[[], Estimate]) -> Claim:
    return judged(claim, paper, measure, between=BELOW, note="holds below 0")


def _change(evidence: Evidence, network: Network, before: float, after: float) -> Estimate:
    """Of accuracy between two epsilons of the replayed curve, 0 being clean."""
    first = evidence.accuracy(network, ATTACK, before, FLOAT) if before else evidence.accuracy(network)
    return paired_bootstrap(difference_of_means, evidence.accuracy(network, ATTACK, after, FLOAT), first)


def _replay_gain(evidence: Evidence, epsilon: float) -> Estimate:
    accuracies = evidence.accuracy(INT8, ATTACK, epsilon, FLOAT), evidence.accuracy(FLOAT, ATTACK, epsilon)
    return paired_bootstrap(difference_of_means, *accuracies)


def _replayed_change(evidence: Evidence, part: str, before: float, after: float) -> Estimate:
    """Of accuracy between two budgets of the PGD of the diagnostics, 0 being clean, with one part of int8 quantized."""
    series = [
        evidence.diagnosed(*(("replayed_correct", INT8, part, epsilon) if epsilon else ("clean_correct", INT8, part)))
        for epsilon in (after, before)
    ]
    return paired_bootstrap(difference_of_means, *(100 * correct for correct in series))


def _shift_ratio(evidence: Evidence, scheme: str, levels: int, part: str) -> Estimate:
    """Of the change of logits that quantization makes on noise, to that without noise."""
    shifts = [evidence.diagnosed("logit_shift", (scheme, "none"), part, level / 255) for level in (levels, 0)]
    return paired_bootstrap(ratio_of_medians, *shifts)


def _diagnosed_distances(evidence: Evidence, network: Network, norm: str) -> Estimate:
    quantized, of_float = (evidence.diagnosed(f"distance_{norm}", network, part) for part in ("all", "none"))
    # 0 is that of a clean mistake.
    return paired_bootstrap(ratio_of_medians, quantized[quantized > 0], of_float[of_float > 0])


def _distances(evidence: Evidence, attack: str, network: Network, other: Network) -> Estimate:
    distances = {one: evidence.distance(one, attack) for one in (network, other)}
    for one, found in distances.items():
        if found.median() == inf:  # what an attack fails on need not be far from the boundary
            raise Undecidable(f"{attack} found errors of less than half of the samples on {named(one)}")
    return paired_bootstrap(ratio_of_medians, *distances.values())


def _nearest(evidence: Evidence, norm: str, network: Network, other: Network) -> Estimate:
    return paired_bootstrap(ratio_of_medians, *evidence.nearest(norm, network, other))


def _share_left(evidence: Evidence, network: Network, epsilon: float | None, crafted_on: Network | None) -> Estimate:
    if epsilon is None:
        raise Undecidable(f"{ATTACK} was not run on {named(network)} above epsilon {SMALL:g}")
    attacked = evidence.accuracy(network, ATTACK, epsilon, crafted_on)
    return paired_bootstrap(ratio_of_means, attacked, evidence.accuracy(network))


def _replay_minus_adaptive(evidence: Evidence, scheme: str, name: str) -> Estimate:
    epsilon, network = evidence.headline("linf"), (scheme, name)
    replayed = evidence.accuracy(network, ATTACK, epsilon, (scheme, "none"))
    return paired_bootstrap(difference_of_means, replayed, evidence.accuracy(network, ATTACK, epsilon))


def _calibration_gain(evidence: Evidence, attack: str) -> Estimate:
    epsilon = 0.0 if attack == "clean" else evidence.headline("linf")
    return paired_bootstrap(
        difference_of_means, *(evidence.accuracy(network, attack, epsilon) for network in (CONTROL, INT8))
    )


def _convergence(evidence: Evidence, network: Network, attack: str) -> Estimate:
    epsilon = evidence.headline(evidence.attacks[attack])
    plain, strong = (evidence.accuracy(network, name, epsilon) for name in (attack, attack + STRONG))
    return paired_bootstrap(difference_of_means, plain, strong)
