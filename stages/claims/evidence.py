"""What claims are judged on: the results of a study, by network and attack."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf, isclose

import numpy as np
import pandas as pd

from stages.claims.claim import Undecidable
from stages.metrics.bootstrap import Estimate, difference_of_means, paired_bootstrap
from stages.metrics.cells import Cell, Outcomes, outcomes
from stages.metrics.faults import flips_needed
from stages.metrics.results import at_epsilon, split_flags
from stages.metrics.worst_case import worst_case
from stages.norms import EPSILON_TOLERANCE

Network = tuple[str, str]  # scheme and defense
BY_SAMPLE = ["seed", "sample"]


@dataclass(frozen=True)
class Evidence:
    """The results of a study, or of one of its datasets and models (`of`).

    What is asked for one by one is a series over seeds and samples, its index; `Undecidable` says what was not run.
    """

    results: pd.DataFrame  # the result table
    scores: pd.DataFrame  # one row a sample: all scores files
    diagnostics: pd.DataFrame | None  # one row a number of a sample: all diagnostics files, if there are any
    variants: pd.DataFrame  # one row a network with its footprint
    headlines: dict[str, float]  # the headline epsilon of each norm
    faults: pd.DataFrame | None = None  # one row a draw and number of flips: all faults files, if there are any

    def of(self, dataset: str, model: str) -> "Evidence":
        """What there is of one dataset and model; the other methods are to be asked of that."""
        tables = {"results": self.results, "scores": self.scores, "variants": self.variants}
        if self.diagnostics is not None:
            tables["diagnostics"] = self.diagnostics
        if self.faults is not None:
            tables["faults"] = self.faults
        chosen = {
            name: table[(table["dataset"] == dataset) & (table["model"] == model)] for name, table in tables.items()
        }
        return replace(self, **chosen)

    @property
    def networks(self) -> list[Network]:
        """The schemes and defenses that were evaluated."""
        return sorted({(cell.scheme, cell.defense) for cell in self._cells})

    @cached_property
    def attacks(self) -> dict[str, str]:
        """The attacks that were run, with their norms."""
        return {cell.attack: cell.norm for cell in sorted(self._cells) if cell.is_attacked}

    @cached_property
    def minimal_norm_attacks(self) -> list[str]:
        """Those of them that look for the nearest adversarial input."""
        return sorted(set(self.scores.loc[self.scores["minimal_norm"], "attack"]))

    def headline(self, norm: str) -> float:
        """The headline epsilon of a norm."""
        if norm not in self.headlines:
            raise Undecidable(f"the study has no epsilons in {norm}")
        return self.headlines[norm]

    @property
    def headline_norm(self) -> str:
        """The norm that headline numbers are in."""
        return next(iter(self.headlines))

    def attacks_of(self, network: Network, threats: Collection[str]) -> list[str]:
        """The attacks with one of these threats that were run on a network."""
        mine = (cell for cell in self._cells if (cell.scheme, cell.defense) == network)
        return sorted({cell.attack for cell in mine if cell.threat in threats})

    def cell(self, network: Network, attack: str, epsilon: float, crafted_on: Network | None = None) -> pd.Series:
        """The row of the result table under real-valued perturbations: over all seeds, else of the first one.

        `crafted_on`: the network that the attack was crafted on and replayed from; none is the attacked one itself.
        """
        rows = at_epsilon(self.results, epsilon)
        rows = rows[(rows["scheme"] == network[0]) & (rows["defense"] == network[1]) & (rows["attack"] == attack)]
        replayed_alike = np.array([_crafted_on(name) == crafted_on for name in rows["surrogate"]], dtype=bool)
        rows = rows[replayed_alike & (rows["grid"] != "digital").to_numpy()]
        if rows.empty:
            raise Undecidable(_not_run(network, attack, epsilon, crafted_on) + " with real-valued perturbations")
        all_seeds = rows[rows["seed"] == "all"]
        return (rows if all_seeds.empty else all_seeds).iloc[0]

    def level(self, network: Network, attack: str, epsilon: float, crafted_on: Network | None = None) -> Estimate:
        """The accuracy of `cell` in percent, with the interval of the result table."""
        row = self.cell(network, attack, epsilon, crafted_on)
        accuracy = self.accuracy(network, attack, epsilon, crafted_on)
        by_seed = accuracy.groupby("seed").size()
        runs = len(by_seed) if row["seed"] == "all" else 1
        numbers = [100 * float(row[name]) for name in ("accuracy", "ci_low", "ci_high")]
        return Estimate(*numbers, samples=int(by_seed.min()), runs=runs)

    def flags(self, network: Network, attack: str, epsilon: float, crafted_on: Network | None = None) -> list[str]:
        """The flags of `cell`; none where it was not run."""
        try:
            return split_flags(self.cell(network, attack, epsilon, crafted_on)["flags"])
        except Undecidable:
            return []

    def accuracy(
        self, network: Network, attack: str = "clean", epsilon: float = 0.0, crafted_on: Network | None = None
    ) -> pd.Series:
        """100 where a sample is classified correctly, else 0, so that means are percents."""
        return 100.0 * self._outcomes(network, attack, epsilon, crafted_on)["correct"]

    def rejected(self, network: Network, attack: str, epsilon: float, crafted_on: Network | None = None) -> pd.Series:
        """100 where the detector rejects a sample, else 0, of those right when clean and wrong when attacked."""
        rows = self._outcomes(network, attack, epsilon, crafted_on)
        if rows["detected"].isna().all():
            raise Undecidable(f"{named(network)} rejects nothing")
        was_correct = self.accuracy(network).reindex(rows.index).to_numpy() > 0
        turned = rows[was_correct & ~rows["correct"].to_numpy(dtype=bool)]
        if turned.empty:
            raise Undecidable(f"{attack} made no error of {named(network)}")
        return 100.0 * turned["detected"].astype(float)

    def worst_case(self, network: Network, norm: str) -> pd.Series:
        """100 where a sample is classified correctly under every attack of a norm at its headline epsilon, else 0.

        Noise and sets crafted on other networks are among the attacks.
        """
        epsilon = self.headline(norm)
        by_seed = {
            cell.seed: rows["correct"]
            for cell, rows in self._worst_cases.items()
            if (cell.scheme, cell.defense, cell.norm) == (*network, norm)
            and isclose(cell.epsilon, epsilon, rel_tol=0, abs_tol=EPSILON_TOLERANCE)
        }
        if not by_seed:
            raise Undecidable(f"no attack in {norm} was run on {named(network)} at epsilon {epsilon:g}")
        return 100.0 * pd.concat(by_seed, names=BY_SAMPLE)

    def gradient_norm(self, network: Network) -> pd.Series:
        """The L2 norm of the loss's gradient with respect to the clean input."""
        return self._outcomes(network, "clean", 0.0, None)["gradient_norm"].astype(float).dropna()

    def distance(self, network: Network, attack: str) -> pd.Series:
        """How far the nearest error lies that a minimal-norm attack found, infinite where it found none.

        Of samples that are right when clean; in input units and the attack's norm, as the network has seen it.
        """
        rows = self._outcomes(network, attack, inf, None)
        found = rows[self.attacks[attack]].astype(float).where(~rows["correct"].astype(bool), inf)
        return found[self.accuracy(network).reindex(found.index).to_numpy() > 0]

    def nearest(self, norm: str, *networks: Network) -> list[pd.Series]:
        """Per network the least distance that any minimal-norm attack of a norm found that was run on all of them."""
        attacks = [name for name in self.minimal_norm_attacks if self.attacks[name] == norm]
        common = [name for name in attacks if all(self._was_run(network, name, inf) for network in networks)]
        if not common:
            names = " and ".join(map(named, networks))
            raise Undecidable(f"no minimal-norm attack in {norm} was run on {names}")
        return [
            pd.concat([self.distance(network, name) for name in common], axis=1).min(axis=1) for network in networks
        ]

    def epsilons(self, network: Network, attack: str, crafted_on: Network | None = None) -> list[float]:
        """The budgets of an attack, ascending; none where any input was allowed."""
        return sorted(
            {cell.epsilon for cell in self._cells if _is(cell, network, attack, crafted_on) and not cell.is_unbounded}
        )

    def diagnosed(
        self, diagnostic: str, network: Network, part: str = "all", magnitude: float | None = None
    ) -> pd.Series:
        """What was diagnosed of a network of which one part is quantized (`none` is the float one it is made from)."""
        rows = self._diagnosed.get((*network, part, diagnostic))
        if rows is not None and magnitude is not None:
            rows = rows[np.isclose(rows["magnitude"], magnitude, rtol=0, atol=EPSILON_TOLERANCE)]
        if rows is None or rows.empty:
            raise Undecidable(f"the diagnostic {diagnostic} of {named(network)} (part {part}) was not run")
        return rows.set_index(BY_SAMPLE)["value"].astype(float)

    def draws(self, network: Network, attack: str, flips: int) -> pd.DataFrame:
        """What so many flips of an attack on memory left: one row a seed and draw, columns of faults files, and
        `correct_before` and `hit_before`, the same without any flip."""
        rows = self._flipped(network, attack)
        before = rows[rows["flips"] == 0].set_index(["seed", "draw"])[["correct", "hit"]].add_suffix("_before")
        rows = rows[rows["flips"] == flips]
        if rows.empty:
            raise Undecidable(f"{attack} was not run on {named(network)} with {flips} flips")
        return rows.join(before, on=["seed", "draw"])

    def flips_needed(self, network: Network, attack: str, goal: str) -> pd.DataFrame:
        """Until a goal (`chance`, `half`, `target`) is reached: one row a seed and draw, `needed` (infinite: more than
        were made), `budget` (these) and `gave_up`."""
        found = flips_needed(self._flipped(network, attack))
        return found[found["goal"] == goal]

    def weight_bytes(self, network: Network) -> float:
        """The mean over seeds."""
        rows = self.variants[(self.variants["scheme"] == network[0]) & (self.variants["defense"] == network[1])]
        if rows.empty:
            raise Undecidable(f"{named(network)} was not made")
        return float(rows["weight_bytes"].mean())

    def _flipped(self, network: Network, attack: str) -> pd.DataFrame:
        rows = pd.DataFrame(columns=["scheme", "defense", "attack"]) if self.faults is None else self.faults
        mine = (rows["scheme"] == network[0]) & (rows["defense"] == network[1]) & (rows["attack"] == attack)
        if not mine.any():
            raise Undecidable(f"{attack} was not run on {named(network)}")
        self._check_search(network, attack)
        return rows[mine]

    def _check_search(self, network: Network, attack: str) -> None:
        """Raises Undecidable for an attack on memory that is no measure of a network."""
        rows = self.results[self.results["attack"] == attack]
        rows = rows[(rows["scheme"] == network[0]) & (rows["defense"] == network[1])]
        if rows["flags"].str.contains("noise_beats_attack").any():
            raise Undecidable(f"random flips leave less of {named(network)} than {attack}, which is no measure of it")

    def _was_run(self, network: Network, attack: str, epsilon: float) -> bool:
        return any(_is(cell, network, attack, None) and cell.epsilon == epsilon for cell in self._cells)

    def _outcomes(self, network: Network, attack: str, epsilon: float, crafted_on: Network | None) -> pd.DataFrame:
        by_seed = {
            cell.seed: rows
            for cell, rows in self._cells.items()
            if _is(cell, network, attack, crafted_on)
            and isclose(cell.epsilon, epsilon, rel_tol=0, abs_tol=EPSILON_TOLERANCE)
        }
        if not by_seed:
            raise Undecidable(_not_run(network, attack, epsilon, crafted_on))
        return pd.concat(by_seed, names=BY_SAMPLE)

    @cached_property
    def _cells(self) -> Outcomes:
        return outcomes(self.scores) if len(self.scores) else {}

    @cached_property
    def _worst_cases(self) -> Outcomes:
        return worst_case(self._cells)

    @cached_property
    def _diagnosed(self) -> dict[tuple[str, str, str, str], pd.DataFrame]:
        """By scheme, defense, part and diagnostic."""
        if self.diagnostics is None:
            return {}
        return dict(list(self.diagnostics.groupby(["scheme", "defense", "part", "diagnostic"])))


def named(network: Network) -> str:
    """How claims name a network: "int8 · none"."""
    return " · ".join(network)


def clean_gain(evidence: Evidence, network: Network, other: Network) -> Estimate:
    """How much more accurate a network is than another one, in points."""
    return paired_bootstrap(difference_of_means, evidence.accuracy(network), evidence.accuracy(other))


def worst_case_gain(evidence: Evidence, network: Network, other: Network) -> Estimate:
    """The same of the worst case of the headline norm, at its epsilon."""
    norm = evidence.headline_norm
    return paired_bootstrap(difference_of_means, *(evidence.worst_case(one, norm) for one in (network, other)))


def _is(cell: Cell, network: Network, attack: str, crafted_on: Network | None) -> bool:
    mine = (cell.scheme, cell.defense) == network and cell.attack == attack
    return mine and _crafted_on(cell.surrogate) == crafted_on


def _crafted_on(surrogate: str) -> Network | None:
    """The scheme and defense of a surrogate, by its name; it shares dataset, model and seed with its target."""
    return tuple(surrogate.split("-")[2:4]) if surrogate else None


def _not_run(network: Network, attack: str, epsilon: float, crafted_on: Network | None) -> str:
    replayed = f" replayed from {named(crafted_on)}" if crafted_on else ""
    at = "" if attack == "clean" else f" at epsilon {epsilon:g}"
    return f"{attack}{replayed}{at} was not run on {named(network)}"
