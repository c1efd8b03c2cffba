"""Attacks on memory: accuracy against the number of flips, flips until a goal is reached, which bits are hit.

Everything is a distribution over draws (batches of images, or random bits), and one draw alone is as
uncertain as its test images leave it.
"""

from math import inf
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from stages.faults.goals import GOALS, TO_TARGET, guessing
from stages.metrics.intervals import t_interval, wilson

NETWORK = ["dataset", "model", "scheme", "defense"]
VARIANT = [*NETWORK, "seed"]
ATTACK = [*VARIANT, "attack"]
QUANTILES = {"least": 0.0, "q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "most": 1.0}
SIGNIFICANCE = 0.01
BIT_FLIPS = [
    *ATTACK,
    *("flips", "error_rate", "draws", "n", "clean_accuracy", "accuracy", *(f"accuracy_{name}" for name in QUANTILES)),
    *("unpredicted", "targeted_success", "targeted_success_least", "targeted_success_most", "targeted_before"),
    *("detected", "accuracy_recovered", "checksum_bytes", "weight_bytes"),
]
FLIPS_NEEDED = [
    *ATTACK,
    *("goal", "draws", "reached", "gave_up", *QUANTILES, "budget", "clean_accuracy", "weight_bytes"),
]
FLIPPED_BITS = [*ATTACK, "place", "layer", "tensor", "kind", "width", "bit", "flips", "share"]


def fault_rows(faults: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the result table: one a network, attack and number of flips that all of its draws have.

    `faults` is the concatenation of all faults files, `table` has the clean rows of the networks. `n` counts draws,
    `accuracy` is their mean, the interval their t-interval, or, of one draw, Wilson's over its test images.
    `detected` is the share of flipped bits whose group fails its checksum, `accuracy_with_detector` the accuracy once
    these groups are zero.

    Flags: what makes the clean row untrustworthy, and `noise_beats_attack` where as many random flips of as many words
    leave significantly less than a search does (one-sided Mann-Whitney test over draws, p < .01, where less than
    guessing counts as guessing). A search with a target is not after accuracy and not compared.
    """
    clean = _clean(table, "flags")
    random = {}
    for (*attack, flips), rows in _cells(faults[~faults["searches"]]):
        random.setdefault((*attack[:5], flips, _reach(rows)), []).append(_above_guessing(rows))
    found = []
    for (*attack, flips), rows in _cells(faults):
        accuracy = _accuracy(rows)
        low, high = t_interval(accuracy) if len(rows) > 1 else _of_one_draw(rows)
        flags = set(clean[tuple(attack[:5])].split(";")) & {"below_quality_target"}
        rivals = random.get((*attack[:5], flips, _reach(rows)), []) if _is_after_accuracy(rows) else []
        if any(_significantly_less(rival, _above_guessing(rows)) for rival in rivals):
            flags.add("noise_beats_attack")
        found.append(
            dict(zip(ATTACK, attack, strict=True))
            | {"threat": "bit_flip", "surrogate": "", "norm": "", "grid": "", "epsilon": 0.0, "flips": flips}
            | {"n": len(rows), "accuracy": accuracy.mean(), "ci_low": low, "ci_high": high}
            | {"detected": (rows["seen"] / rows["made"]).mean()}
            | {"accuracy_with_detector": (rows["recovered"] / rows["n"]).mean(), "flags": ";".join(sorted(flags))}
        )
    return pd.DataFrame(found)


def bit_flips_table(faults: pd.DataFrame, table: pd.DataFrame, variants: pd.DataFrame) -> pd.DataFrame:
    """Columns `BIT_FLIPS`: the distribution over draws behind each row of `fault_rows`, no row without its clean
    accuracy and its network's bytes.

    - `error_rate`: flips as a share of all bits that the attack might hit. `n`: test samples of each draw.
    - `accuracy_<quantile>`: values that occur, of 5 draws hence the least and the most in place of the outer ones.
    - `unpredicted`: the share of samples whose logits are no numbers; they count as wrong.
    - `targeted_success`: the share of samples at which a targeted attack aims that its target class gets, and
      `targeted_before` that it has without any flip.
    """
    clean = _clean(table, "accuracy")
    before = faults[faults["flips"] == 0].assign(before=lambda rows: rows["hit"] / rows["aimed"])
    before = before.groupby(ATTACK)["before"].mean()
    sizes = variants.set_index(VARIANT)["weight_bytes"]
    found = []
    for (*attack, flips), rows in _cells(faults):
        accuracy, variant = _accuracy(rows), tuple(attack[:5])
        hit = rows["hit"] / rows["aimed"]
        found.append(
            dict(zip(ATTACK, attack, strict=True))
            | {"flips": flips, "error_rate": flips / rows["memory_bits"].iloc[0], "draws": len(rows)}
            | {"n": rows["n"].iloc[0], "clean_accuracy": clean[variant], "accuracy": accuracy.mean()}
            | {f"accuracy_{name}": _quantile(accuracy, share) for name, share in QUANTILES.items()}
            | {"unpredicted": (rows["unpredicted"] / rows["n"]).mean(), "targeted_success": hit.mean()}
            | {"targeted_success_least": hit.min(), "targeted_success_most": hit.max()}
            | {"targeted_before": before[tuple(attack)]}
            | {"detected": (rows["seen"] / rows["made"]).mean()}
            | {"accuracy_recovered": (rows["recovered"] / rows["n"]).mean()}
            | {"checksum_bytes": rows["checksum_bytes"].iloc[0], "weight_bytes": sizes[variant]}
        )
    return pd.DataFrame(found, columns=BIT_FLIPS).sort_values([*ATTACK, "flips"], ignore_index=True)


def flips_needed_table(faults: pd.DataFrame, table: pd.DataFrame, variants: pd.DataFrame) -> pd.DataFrame:
    """Columns `FLIPS_NEEDED`: over the draws of each attack, and over all seeds (seed `all`) where there are several,
    how many flips it took to each goal (`stages/faults/goals.py`).

    - `goal`: `chance`, the network is as good as guessing, or `half`, half of what it knew is gone; of an attack with a
      target `target`, that class gets half of the samples aimed at.
    - `reached`: the share of draws in which it came to that; `gave_up`: the share in which it did not though flips were
      left, as the search found none that helped. Quantiles of the number of flips, which occur, are infinite where the
      goal was not reached in so many draws within `budget`, the most flips that were made in one. Searches are judged
      after each step that may have reached a goal; random flips are judged at the listed numbers and rates alone, so
      that theirs are upper bounds on this grid.
    - `weight_bytes`, `clean_accuracy`: of the network, or their means over seeds.
    """
    clean, sizes, found = _clean(table, "accuracy"), variants.set_index(VARIANT)["weight_bytes"], []
    draws = flips_needed(faults)
    facts = [tuple(row) for row in draws[VARIANT].itertuples(index=False)]
    draws = draws.assign(clean=[clean[variant] for variant in facts], size=[sizes[variant] for variant in facts])
    keys = [*ATTACK, "goal"]
    of_all = draws.assign(seed="all").groupby(keys).filter(lambda rows: rows["draw"].duplicated().any())
    for key, rows in [*draws.groupby(keys), *of_all.groupby(keys)]:
        flips = rows["needed"]
        found.append(
            dict(zip(keys, key, strict=True))
            | {"draws": len(rows), "reached": np.isfinite(flips).mean(), "gave_up": rows["gave_up"].mean()}
            | {name: _quantile(flips, share) for name, share in QUANTILES.items()}
            | {
                "budget": rows["budget"].max(),
                "clean_accuracy": rows["clean"].mean(),
                "weight_bytes": rows["size"].mean(),
            }
        )
    return pd.DataFrame(found, columns=FLIPS_NEEDED).astype({"seed": str})


def flips_needed(faults: pd.DataFrame) -> pd.DataFrame:
    """One row a draw and goal that its attack has: `ATTACK`, `draw`, `goal`, `needed` flips until it was reached,
    infinite where it never was, `budget`, the flips that were made, and `gave_up`: fewer than there were, and for
    nothing."""
    draws = faults.groupby([*ATTACK, "draw"], as_index=False).agg(
        budget=("made", "max"),
        most=("flips", "max"),
        target=("target", "first"),
        **{goal: (goal, "max") for goal in GOALS},
    )
    found = []
    for goal in GOALS:
        rows = draws[draws["target"].notna() == (goal == TO_TARGET)]
        needed = rows[goal].astype(float).fillna(inf)
        gave_up = np.isinf(needed) & (rows["budget"] < rows["most"])
        found.append(rows.assign(goal=goal.removeprefix("to_"), needed=needed, gave_up=gave_up))
    return pd.concat(found, ignore_index=True)[[*ATTACK, "draw", "goal", "needed", "budget", "gave_up"]]


def flipped_bits_table(flipped: pd.DataFrame) -> pd.DataFrame:
    """Columns `FLIPPED_BITS`: how many of the bits that an attack flipped are this bit of this tensor's words.

    Over all draws, and as a share of all its flips. `flipped` is the concatenation of all files of flipped bits, and
    `place` is theirs: rows are in the network's order.
    """
    places = ["place", "layer", "tensor", "kind", "width", "bit"]
    counted = flipped.groupby([*ATTACK, *places]).size().rename("flips").reset_index()
    share = counted["flips"] / counted.groupby(ATTACK)["flips"].transform("sum")
    return counted.assign(share=share)[FLIPPED_BITS]


def _cells(faults: pd.DataFrame):
    """The rows of each network, attack and number of flips above 0 that every draw of the attack has."""
    faults = faults[faults["flips"] > 0]
    draws = faults.groupby(ATTACK)["draw"].nunique()
    for key, rows in faults.groupby([*ATTACK, "flips"]):
        if len(rows) == draws[key[:-1]]:
            yield key, rows


def _reach(rows: pd.DataFrame) -> int:
    """The bits that an attack might hit, which tell the regions of a network apart."""
    return rows["memory_bits"].iloc[0]


def _is_after_accuracy(rows: pd.DataFrame) -> bool:
    """Whether a cell is of a search without a target."""
    return bool(rows["searches"].all() and rows["target"].isna().all())


def _above_guessing(rows: pd.DataFrame) -> pd.Series:
    """Accuracies, none below guessing: a search ends there."""
    return _accuracy(rows).clip(lower=guessing(rows["num_classes"].iloc[0]))


def _accuracy(rows: pd.DataFrame) -> pd.Series:
    return rows["correct"] / rows["n"]


def _of_one_draw(rows: pd.DataFrame) -> tuple[float, float]:
    low, high = wilson(rows["correct"].item(), rows["n"].item())
    return float(low), float(high)


def _clean(table: pd.DataFrame, column: str) -> dict[tuple, Any]:
    """A column of the clean row of each network of one seed."""
    rows = table[(table["threat"] == "clean") & (table["seed"].astype(str) != "all")]
    return dict(zip(rows[VARIANT].astype({"seed": int}).itertuples(index=False, name=None), rows[column], strict=True))


def _quantile(values: pd.Series, share: float) -> float:
    """A value that occurs, so that infinite ones do no harm."""
    return float(np.quantile(values.to_numpy(dtype=float), share, method="inverted_cdf"))


def _significantly_less(some: pd.Series, others: pd.Series) -> bool:
    return stats.mannwhitneyu(some, others, alternative="less").pvalue < SIGNIFICANCE
