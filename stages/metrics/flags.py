"""Reasons why a row of the result table must not be trusted.

Each flag is a function of the same name, from outcomes to the cells that carry it; two also need probes, for which
attacks were run again. Comparisons are paired: same network and samples, and the same norm and epsilon but where it is
about other norms, by McNemar's exact test below .01, not corrected for their number, as a wrong flag costs a second
look and a missed one a wrong claim. At epsilon 0 there is no attack to judge, so no flag about attacks is raised there.

Most follow the signs of masked gradients in Athalye, Carlini and Wagner, "Obfuscated gradients give a false sense of
security", arXiv:1802.00420, section 3.1.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import combinations, permutations

import numpy as np
import pandas as pd

from stages.metrics.cells import DISTANCES, VARIANT, Cell, Outcomes
from stages.metrics.paired import significantly_lower
from stages.metrics.worst_case import members
from stages.norms import EPSILON_TOLERANCE, strength

ZERO_GRADIENT_SHARE = 0.05
COLLAPSED_ACCURACY = 0.01
FAILED_SHARE = 0.5
FOUND_SHARE = 0.95

ATTACK = [*VARIANT, "attack", "norm"]

# Threats whose attacker has the attacked network's gradients, and those whose attacker optimises on that network.
WITH_GRADIENTS = ("white_box", "adaptive")
OPTIMISED_ON_TARGET = (*WITH_GRADIENTS, "black_box")
# Flags that say of an attack that it is weak and nothing of the network that it attacks.
OF_ONE_ATTACK = {"planted_missed", "mostly_failed", "random_needs_eot"}
BASELINE_SCHEMES = ("fp32", "int8")

# One sentence each for readers of the report.
MEANINGS = {
    "zero_gradient": "More than 5 % of the correctly classified samples have an all-zero input gradient, so that "
    "gradient attacks start blind.",
    "no_collapse": "An iterative gradient attack that may change every pixel at will leaves more than 1 % "
    "correct, so the attack is broken.",
    "mostly_failed": "An attack by queries that may go to any distance leaves more than half of the correct samples "
    "correct: its budget is too small, or a random network led it to errors that do not last.",
    "noise_beats_attack": "Random noise of the same size does significantly more harm than the attack.",
    "transfer_beats_white_box": "The same attack, crafted on another network, does significantly more harm than "
    "crafted on the network itself: its gradients mislead.",
    "black_box_beats_white_box": "An attack that sees only the network's outputs does significantly more harm than "
    "every iterative one that follows its gradients: the gradients mislead.",
    "single_step_beats_iterative": "A single-step attack does significantly more harm than an iterative one: the "
    "gradients mislead.",
    "random_needs_eot": "The network is random, and the attack followed gradients of single draws instead of averages "
    "over several.",
    "not_converged": "The attack does significantly more harm with twice the iterations, so that it was stopped too "
    "early.",
    "planted_missed": "The attack missed more than 5 % of adversarial examples that are known to exist, planted around "
    "single samples of the same network.",
    "only_transferred": "No attack was run on the network itself at this budget: what is left is noise and examples "
    "crafted on other networks.",
    "only_queried": "No attack that follows the gradients of the network was run on it at this budget: queries search "
    "so slowly that gradients may find far more.",
    "other_norm_beats_worst_case": "Perturbations that were sought in other norms, and are no larger than this budget "
    "in its own, do significantly more harm than all attacks in its own: these search badly.",
    "non_monotone": "Accuracy is significantly higher than at a smaller epsilon, although every perturbation allowed "
    "there is allowed here.",
    "below_quality_target": "The undefended baseline misses the clean accuracy that the model is known to reach.",
}


def flags(
    outcomes: Outcomes, quality_targets: dict[str, dict[str, float]], probes: pd.DataFrame | None = None
) -> dict[Cell, set[str]]:
    """The flags of each cell that has any.

    `outcomes` holds the worst-case cells too. `quality_targets` maps a dataset and then a model to the
    clean accuracy, in [0,1], that its undefended fp32 and int8 networks must reach. `probes` has one row a sample of
    what attacks did when they were run again; without it, none is judged by that.
    """
    raised = {
        "zero_gradient": zero_gradient(outcomes),
        "no_collapse": no_collapse(outcomes),
        "mostly_failed": mostly_failed(outcomes),
        "noise_beats_attack": noise_beats_attack(outcomes),
        "transfer_beats_white_box": transfer_beats_white_box(outcomes),
        "black_box_beats_white_box": black_box_beats_white_box(outcomes),
        "single_step_beats_iterative": single_step_beats_iterative(outcomes),
        "random_needs_eot": random_needs_eot(outcomes),
        "only_transferred": only_transferred(outcomes),
        "only_queried": only_queried(outcomes),
        "other_norm_beats_worst_case": other_norm_beats_worst_case(outcomes),
        "non_monotone": non_monotone(outcomes),
        "below_quality_target": below_quality_target(outcomes, quality_targets),
    }
    if probes is not None:
        raised["not_converged"] = not_converged(outcomes, probes)
        raised["planted_missed"] = planted_missed(outcomes, probes)
    flagged = defaultdict(set)
    for flag, cells in raised.items():
        for cell in cells:
            flagged[cell].add(flag)
    for cell, inherited in inherited_by_worst_case(outcomes, flagged).items():
        flagged[cell] |= inherited
    return {cell: found for cell, found in flagged.items() if found}


def zero_gradient(outcomes: Outcomes) -> set[Cell]:
    """More than 5 % of the evaluated samples that are classified correctly have an input gradient of exactly zero.

    Carried by every white-box row of the network and by its worst case. Raises `ValueError` where a network under
    white-box attack has no gradient norms. Typical of low bit widths: Gupta and Ajanthan, "Improved gradient-based
    adversarial attacks for quantized networks", arXiv:2003.13511.
    """
    attacked = {cell.clean for cell in outcomes if cell.threat in WITH_GRADIENTS}
    blind = {clean.variant for clean in attacked if _has_zero_gradients(outcomes, clean)}
    return {
        cell
        for cell in outcomes
        if cell.variant in blind and cell.threat in (*WITH_GRADIENTS, "worst_case") and cell.epsilon
    }


def no_collapse(outcomes: Outcomes) -> set[Cell]:
    """An untargeted iterative gradient attack leaves more than 1 % of the evaluated samples correct at epsilon 1.

    In other norms than linf epsilon is infinite then, which is also where a minimal-norm attack finds nothing at any
    distance. The attack may turn any input into any other there. Carried by all white-box rows of that attack on that
    network.
    """
    standing = {
        _attack(cell)
        for cell, rows in outcomes.items()
        if cell.is_sanity_check and cell.threat in WITH_GRADIENTS and rows["correct"].mean() > COLLAPSED_ACCURACY
    }
    return {cell for cell in outcomes if cell.threat in WITH_GRADIENTS and _attack(cell) in standing and cell.epsilon}


def mostly_failed(outcomes: Outcomes) -> set[Cell]:
    """A black-box attack leaves more than half of the correctly classified samples correct where any input is allowed.

    Carried by all rows of that attack on that network. Gentler than `no_collapse`, since few queries find few errors
    without being misled; but what leaves most samples has measured no distance to a boundary.
    """
    failed = {
        _attack(cell)
        for cell, rows in outcomes.items()
        if cell.is_sanity_check
        and cell.threat == "black_box"
        and rows["correct"].sum() > FAILED_SHARE * outcomes[cell.clean].loc[rows.index, "correct"].sum()
    }
    return _own_rows(outcomes, failed)


def noise_beats_attack(outcomes: Outcomes) -> set[Cell]:
    """Random noise of the same budget leaves significantly fewer samples correct than an attack on the network itself.

    Transfer attacks are not judged: a perturbation made for another network owes nothing to this one.
    """
    return _beaten(outcomes, lambda winner, loser: winner.threat == "noise" and loser.threat in OPTIMISED_ON_TARGET)


def transfer_beats_white_box(outcomes: Outcomes) -> set[Cell]:
    """An attack crafted on a surrogate leaves significantly fewer samples correct than the same attack white-box.

    Carried by the white-box row: whoever reads the network itself can do all that the surrogate's attacker can.
    """
    return _beaten(
        outcomes,
        lambda winner, loser: (
            winner.threat == "transfer" and loser.threat in WITH_GRADIENTS and winner.attack == loser.attack
        ),
    )


def black_box_beats_white_box(outcomes: Outcomes) -> set[Cell]:
    """A black-box attack leaves significantly fewer samples correct than every iterative white-box attack.

    Carried by those white-box rows: whoever computes gradients can also do all that queries can, and a working
    gradient needs far fewer passes. Not by the black-box row, which did better than could be expected. Where it beats
    some iterative attacks but not all, these were weak and no gradient misled; a single step may well be beaten.
    """
    iterative = _iterative(outcomes)
    beaten = set()
    for budget in _budgets(outcomes):
        black_box = [cell for cell in budget if cell.threat == "black_box"]
        white_box = [cell for cell in budget if cell.threat in WITH_GRADIENTS and _attack(cell) in iterative]
        for winner in black_box:
            correct = outcomes[winner]["correct"]
            if all(significantly_lower(correct, outcomes[loser]["correct"]) for loser in white_box):
                beaten.update(white_box)
    return beaten


def single_step_beats_iterative(outcomes: Outcomes) -> set[Cell]:
    """A single-step white-box attack leaves significantly fewer samples correct than an iterative one.

    Carried by the iterative attack's row. Iterative attacks are those that were also run at epsilon 1; every other
    white-box attack counts as single-step.
    """
    iterative = _iterative(outcomes)
    return _beaten(
        outcomes,
        lambda winner, loser: (
            winner.threat in WITH_GRADIENTS
            and loser.threat in WITH_GRADIENTS
            and _attack(winner) not in iterative
            and _attack(loser) in iterative
        ),
    )


def random_needs_eot(outcomes: Outcomes) -> set[Cell]:
    """A random network was attacked by gradients of single draws, where an average over draws would not mislead.

    Athalye et al., section 5.3 (expectation over transformation).
    """
    return {
        cell
        for cell, rows in outcomes.items()
        if cell.threat in WITH_GRADIENTS and cell.epsilon and rows["stochastic"].any() and rows["eot_samples"].max() < 2
    }


def not_converged(outcomes: Outcomes, probes: pd.DataFrame) -> set[Cell]:
    """With twice the iterations or queries, an attack leaves significantly fewer samples correct than it left.

    Compared at one epsilon, on the samples of the probe; carried by all rows of that attack on that network. A worst
    case carries it, at all epsilons of the norm, where the doubled attack leaves significantly fewer correct than all
    attacks together did: then it is too high, whichever of them is weak.
    """
    stopped_early, too_high = set(), set()
    for (*attack, epsilon), rows in _probed(probes, "doubled", [*ATTACK, "epsilon"]):
        doubled = rows.set_index("sample")["correct"].astype(bool)
        for cell in outcomes:
            if (cell.variant, cell.norm, cell.epsilon) != (tuple(attack[:5]), attack[-1], epsilon):
                continue
            doubled &= outcomes[cell.clean]["correct"].loc[doubled.index]
            if significantly_lower(doubled, outcomes[cell]["correct"]):
                if cell.threat == "worst_case":
                    too_high.add((cell.variant, cell.norm))
                elif _attack(cell) == tuple(attack) and cell.threat in OPTIMISED_ON_TARGET:
                    stopped_early.add(_attack(cell))
    worst_cases = {
        cell
        for cell in outcomes
        if cell.threat == "worst_case" and cell.epsilon and (cell.variant, cell.norm) in too_high
    }
    return _own_rows(outcomes, stopped_early) | worst_cases


def planted_missed(outcomes: Outcomes, probes: pd.DataFrame) -> set[Cell]:
    """An attack finds fewer than 95 % of the adversarial examples that were planted around single samples.

    Samples around which none could be planted do not count. Carried by all rows of that attack on that network.

    Zimmermann et al., "Increasing confidence in adversarial robustness evaluations", arXiv:2206.13991.
    """
    missing = {
        attack
        for attack, rows in _probed(probes, "planted", ATTACK)
        if not rows["correct"].isna().all() and 1 - rows["correct"].dropna().astype(float).mean() < FOUND_SHARE
    }
    return _own_rows(outcomes, missing)


def non_monotone(outcomes: Outcomes) -> set[Cell]:
    """Accuracy is significantly higher than under the same attack at some smaller epsilon.

    Carried by the row at the larger epsilon. Judged for every attack, for noise, and for the worst case on its own.
    """
    series = defaultdict(list)
    for cell in outcomes:
        series[cell._replace(epsilon=0.0)].append(cell)
    return {
        larger
        for cells in series.values()
        for smaller, larger in combinations(sorted(cells, key=lambda cell: strength(cell.epsilon, cell.norm)), 2)
        if significantly_lower(outcomes[smaller]["correct"], outcomes[larger]["correct"])
    }


def below_quality_target(outcomes: Outcomes, quality_targets: dict[str, dict[str, float]]) -> set[Cell]:
    """An undefended fp32 or int8 network's clean accuracy, over all clean samples, is under its model's target.

    Carried by every row of that network, also the clean one: what is measured on a badly trained baseline says little
    about the model. Models without a target are not judged.
    """
    below = {
        cell.variant
        for cell, rows in outcomes.items()
        if cell.threat == "clean"
        and cell.scheme in BASELINE_SCHEMES
        and cell.defense == "none"
        and rows["correct"].mean() < quality_targets.get(cell.dataset, {}).get(cell.model, 0)
    }
    return {cell for cell in outcomes if cell.variant in below}


def only_transferred(outcomes: Outcomes) -> set[Cell]:
    """Worst cases above epsilon 0 over noise and replayed examples alone."""
    return {
        worst
        for worst, group in members(outcomes).items()
        if worst.epsilon and not any(cell.threat in OPTIMISED_ON_TARGET for cell in group)
    }


def only_queried(outcomes: Outcomes) -> set[Cell]:
    """Worst cases above epsilon 0 over black-box attacks, and none that follows the network's own gradients."""
    threats = {worst: {cell.threat for cell in group} for worst, group in members(outcomes).items()}
    return {
        worst
        for worst, found in threats.items()
        if worst.epsilon and "black_box" in found and found.isdisjoint(WITH_GRADIENTS)
    }


def other_norm_beats_worst_case(outcomes: Outcomes) -> set[Cell]:
    """Perturbations from attacks in other norms that lie within a budget leave significantly fewer samples correct.

    Compared with all attacks in the budget's own norm, on the samples that were attacked in both. What lies within is
    told by the size that each perturbation was measured to have, whatever epsilon it was crafted for; so nothing can be
    said in decibels, in which none is measured. Carried by the worst case, which is too high then.
    """
    worst_cases = defaultdict(list)
    for worst in members(outcomes):
        if worst.epsilon and worst.norm in DISTANCES:
            worst_cases[worst._replace(epsilon=0.0)].append(worst)
    beaten = set()
    for series, cells in worst_cases.items():
        nearest = _nearest_of_other_norms(outcomes, series)
        for worst in cells:
            own = outcomes[worst]["correct"]
            found = outcomes[worst.clean]["correct"][nearest.index] & (nearest > worst.epsilon + EPSILON_TOLERANCE)
            if not own.index.intersection(found.index).empty and significantly_lower(found, own):
                beaten.add(worst)
    return beaten


def inherited_by_worst_case(outcomes: Outcomes, flagged: dict[Cell, set[str]]) -> dict[Cell, set[str]]:
    """The flags that each worst-case cell takes over from the attacks that it rests on.

    A worst case is as strong as its strongest member, so the weakness of a weak one does no harm: FGSM losing against
    noise says nothing where PGD does its job, and a transfer attack is no more than a bonus. It rests on the iterative
    white-box attacks, or, where there are none, on every white-box attack, or, where these are missing too, on the
    black-box ones; of these on the strongest, and on those that leave not significantly more. Flags of white-box
    attacks are signs of masked gradients, and then the worst case is too high even where others happened to fill part
    of the gap: noise, transfer and a single step do not search the ball, and queries search it so slowly that gradients
    which work would have found more. That one attack is weak is another matter, since others may make up
    for it: the flags in `OF_ONE_ATTACK` are inherited only where all of the strongest carry them, and `not_converged`
    not at all, as it is judged for the worst case itself.
    """
    iterative = _iterative(outcomes)
    inherited = {}
    for worst, group in members(outcomes).items():
        white_box = [cell for cell in group if cell.threat in WITH_GRADIENTS]
        black_box = [cell for cell in group if cell.threat == "black_box"]
        relied_on = [cell for cell in white_box if _attack(cell) in iterative] or white_box or black_box
        found = [flagged.get(cell, set()) for cell in _strongest(outcomes, relied_on)]
        shared_by_all = set.intersection(*found) if found else set()
        inherited[worst] = set().union(*found) - (OF_ONE_ATTACK - shared_by_all) - {"not_converged"}
    return inherited


def _strongest(outcomes: Outcomes, cells: list[Cell]) -> list[Cell]:
    """Those that leave no significantly larger share correct than the one that leaves the least."""
    if not cells:
        return []
    least = outcomes[min(cells, key=lambda cell: outcomes[cell]["correct"].mean())]["correct"]
    return [cell for cell in cells if not significantly_lower(least, outcomes[cell]["correct"])]


def _nearest_of_other_norms(outcomes: Outcomes, worst: Cell) -> pd.Series:
    """By sample, the size in a worst case's norm of the smallest perturbation that harms it and is of another norm.

    Infinite where none does harm; without the samples that no attack in another norm was run on.
    """
    others = [
        rows[worst.norm].astype(float).where(~rows["correct"], np.inf)
        for cell, rows in outcomes.items()
        if cell.is_attacked and (cell.variant, cell.grid) == (worst.variant, worst.grid) and cell.norm != worst.norm
    ]
    return pd.concat(others).groupby(level=0).min() if others else pd.Series(dtype=float)


def _has_zero_gradients(outcomes: Outcomes, clean: Cell) -> bool:
    norms = outcomes[clean].dropna(subset="gradient_norm")
    if norms.empty:
        raise ValueError(
            f"scores of {clean.variant_name}-clean: gradient_norm is empty, expected it on attacked samples"
        )
    return (norms.loc[norms["correct"], "gradient_norm"] == 0).mean() > ZERO_GRADIENT_SHARE


def _probed(probes: pd.DataFrame, probe: str, keys: list[str]) -> Iterable[tuple[tuple, pd.DataFrame]]:
    return probes[probes["probe"] == probe].groupby(keys)


def _own_rows(outcomes: Outcomes, attacks: set[tuple]) -> set[Cell]:
    """The cells of attacks on the network itself, but for those at epsilon 0."""
    return {
        cell for cell in outcomes if _attack(cell) in attacks and cell.threat in OPTIMISED_ON_TARGET and cell.epsilon
    }


def _attack(cell: Cell) -> tuple:
    return (*cell.variant, cell.attack, cell.norm)


def _iterative(outcomes: Outcomes) -> set[tuple]:
    return {_attack(cell) for cell in outcomes if cell.is_sanity_check}


def _beaten(outcomes: Outcomes, rivals: Callable[[Cell, Cell], bool]) -> set[Cell]:
    """Losers of significant comparisons between rivals `(winner, loser)` of the same network, norm and epsilon."""
    return {
        loser
        for budget in _budgets(outcomes)
        for winner, loser in permutations(budget, 2)
        if rivals(winner, loser) and significantly_lower(outcomes[winner]["correct"], outcomes[loser]["correct"])
    }


def _budgets(outcomes: Outcomes) -> Iterable[list[Cell]]:
    """Attacked cells of the same network, norm, grid and epsilon above 0."""
    budgets = defaultdict(list)
    for cell in outcomes:
        if cell.is_attacked and cell.epsilon and not cell.is_unbounded:
            budgets[cell.worst_case].append(cell)
    return budgets.values()
