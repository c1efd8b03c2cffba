"""The result table and what is drawn from it: one row a cell, from one row a sample."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from stages.metrics.cells import DISTANCES, EFFORT, VARIANT, Cell, Outcomes, outcomes
from stages.metrics.faults import fault_rows
from stages.metrics.flags import flags
from stages.metrics.intervals import t_interval, wilson
from stages.metrics.worst_case import members, worst_case
from stages.norms import EPSILON_TOLERANCE

DETECTION = ["detected", "accuracy_with_detector"]
MEANS = ["accuracy", *DETECTION, *(f"mean_{norm}" for norm in DISTANCES), *EFFORT]
COLUMNS = [
    *Cell._fields,
    *("n", "accuracy", "ci_low", "ci_high", *DETECTION, *(f"mean_{norm}" for norm in DISTANCES), *EFFORT, "flags"),
]
OPERATIONS = "operations"  # of a filter, in the description of a network, where they are counted
FOOTPRINT = ["parameters", "macs", "weight_bytes", "peak_activation_bytes"]
THREATS = ["clean", "white_box", "adaptive", "black_box", "transfer", "bit_flip", "noise", "worst_case"]


def results(
    scores: pd.DataFrame,
    quality_targets: dict[str, dict[str, float]],
    probes: pd.DataFrame | None = None,
    faults: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The result table: columns `COLUMNS`, one row a (network, threat, surrogate, attack, norm, grid, epsilon, flips).

    `scores` is the concatenation of all scores files, `quality_targets` maps a dataset and then a model to the clean
    accuracy, in [0,1], that its undefended fp32 and int8 networks must reach, `probes` is the concatenation of all
    probes files and `faults` of all faults files, where the study has any. Beside a row for each attack there is one
    for the worst case over attacks (threat `worst_case`, attack `all`) per norm and epsilon, and, where there are
    several seeds, one over seeds (seed `all`), a worst case over those seeds whose attacks are the first seed's. Rows
    where any input was allowed (epsilon 1 in linf, else infinite) are in the table, and in no figure.

    Attacks on memory have the threat `bit_flip` and `flips` above 0: accuracies are means over draws and intervals
    t-intervals over these (`stages.metrics.faults`).

    - `seed` is text: a number or `all`.
    - `n` counts what the interval is over: samples (95 % Wilson interval), or seeds in rows `all` (95 % t-interval).
    - `accuracy`, `ci_low`, `ci_high` are in [0,1], over all evaluated samples: a clean mistake counts as not robust.
    - `detected` is the share of inputs that a detector rejects (in clean rows: wrongly), `accuracy_with_detector` that
      of samples that come to no harm: accepted and correct when clean, and when attacked rejected or correct.
      Missing without a detector, and `detected` in the worst case, where it would be another input for each sample.
    - `mean_l0` (values), `mean_l1`, `mean_l2`, `mean_linf` (input units) are over the samples that were correct clean
      and whose attack succeeded; missing where there is none, and in clean rows.
    - `forwards`, `backwards` are means per sample. `eot_samples` counts the draws that a gradient averages: 0 without
      gradients, 1 for a deterministic network.
    - `flags` are sorted and joined by `;`; a row over seeds has the flags of all its seeds.

    The order of rows does not depend on the order of scores. Raises `ValueError` for incomplete scores.
    """
    attacked = outcomes(scores)
    cells = attacked | worst_case(attacked)
    flagged = flags(cells, quality_targets, probes)
    table = pd.DataFrame([_row(cell, cells, flagged.get(cell, set())) for cell in cells])
    table["ci_low"], table["ci_high"] = wilson(table["correct"], table["n"])
    combined = members(attacked)
    table["combined"] = [_without_seeds(combined.get(cell, ())) for cell in cells]
    if faults is not None:
        flipped = fault_rows(faults, table)
        table = pd.concat([table, flipped.assign(combined=[frozenset()] * len(flipped))], ignore_index=True)
    per_seed = _ordered(table).astype({"seed": str})
    return pd.concat([per_seed[COLUMNS], _over_seeds(per_seed)], ignore_index=True)


def variant_names(table: pd.DataFrame) -> pd.Series:
    """The networks' names (such as `cifar10-resnet8-w4a4-jacobian-s0`) of a table with the columns `VARIANT`."""
    dataset, model, scheme, defense, seed = (table[part].astype(str) for part in VARIANT)
    return dataset + "-" + model + "-" + scheme + "-" + defense + "-s" + seed


def at_epsilon(results: pd.DataFrame, epsilon: float) -> pd.DataFrame:
    """The rows of `results` at one epsilon."""
    return results[np.isclose(results["epsilon"], epsilon, rtol=0, atol=EPSILON_TOLERANCE)]


def worst_case_table(results: pd.DataFrame, norm: str) -> pd.DataFrame:
    """Worst-case robust accuracy in [0,1] in a norm: column `epsilon`, then one column a network of one seed."""
    rows = _worst_case(results, norm)
    rows = rows.assign(variant=variant_names(rows))
    table = rows.pivot(index="epsilon", columns="variant", values="accuracy")
    return table[rows["variant"].unique()].reset_index().rename_axis(columns=None)


def metrics(results: pd.DataFrame, norm: str, headline_epsilon: float) -> dict:
    """The headline numbers, rounded to six digits.

    `norm`, `headline_epsilon` (in that norm), and under `variants`, per network of one seed: `clean_accuracy`,
    `worst_case_accuracy` at the headline epsilon, `flags` (how many the worst case carries). Raises `ValueError` where
    a network has no worst case at the headline epsilon.
    """
    clean = results[(results["threat"] == "clean") & (results["seed"] != "all")]
    robust = at_epsilon(_worst_case(results, norm), headline_epsilon)
    robust = robust.set_index(variant_names(robust))
    variants = {}
    for name, accuracy in zip(variant_names(clean), clean["accuracy"], strict=True):
        if name not in robust.index:
            raise ValueError(f"{name}: no worst case at the headline epsilon {headline_epsilon:.6g} in {norm}")
        variants[name] = {
            "clean_accuracy": round(float(accuracy), 6),
            "worst_case_accuracy": round(float(robust.loc[name, "accuracy"]), 6),
            "flags": len(split_flags(robust.loc[name, "flags"])),
        }
    return {"norm": norm, "headline_epsilon": float(f"{headline_epsilon:.6g}"), "variants": variants}


def variants_table(network_infos: Sequence[dict]) -> pd.DataFrame:
    """One row a network with its footprint, from the objects of the networks' JSON files.

    Columns: the five parts of the variant, `parameters`, `macs`, `weight_bytes`, `peak_activation_bytes`. Where
    filters count them, also `filter_operations`: steps of arithmetic beside the network's in a prediction.
    """
    counted = any(OPERATIONS in info.get("filter", {}) for info in network_infos)
    rows = [
        info["variant"]
        | {key: info["footprint"][key] for key in FOOTPRINT}
        | ({"filter_operations": info.get("filter", {}).get(OPERATIONS)} if counted else {})
        for info in network_infos
    ]
    columns = [*VARIANT, *FOOTPRINT, *(["filter_operations"] if counted else [])]
    table = pd.DataFrame(rows, columns=columns).sort_values(VARIANT, ignore_index=True)
    return table.astype({"filter_operations": "Int64"}) if counted else table


def csv_text(table: pd.DataFrame) -> str:
    """A table as CSV whose bytes are the same for the same table: six significant digits, Unix line ends."""
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def split_flags(joined: str) -> list[str]:
    """The flags of one row."""
    return joined.split(";") if joined else []


def _row(cell: Cell, cells: Outcomes, flags: set[str]) -> dict:
    rows = cells[cell]
    was_correct = cells[cell.clean]["correct"].loc[rows.index]
    distances = rows.loc[was_correct & ~rows["correct"], DISTANCES].astype(float).mean()
    return cell._asdict() | {
        "n": len(rows),
        "correct": rows["correct"].sum(),
        "accuracy": rows["correct"].mean(),
        "detected": rows["detected"].mean(),
        "accuracy_with_detector": rows["withstood"].mean(),
        **{f"mean_{norm}": mean for norm, mean in distances.items()},
        **rows[EFFORT].mean(),
        "flags": ";".join(sorted(flags)),
    }


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    ranked = table["threat"].map(THREATS.index).rename("rank")
    order = [*VARIANT, "rank", *(field for field in Cell._fields if field not in (*VARIANT, "threat"))]
    return table.assign(rank=ranked).sort_values(order, ignore_index=True).drop(columns="rank")


def _over_seeds(per_seed: pd.DataFrame) -> pd.DataFrame:
    """One row for each cell that has several seeds; worst cases over other attacks are no repetitions of each other."""
    surrogates = [_seedless(surrogate) for surrogate in per_seed["surrogate"]]
    cells = per_seed.assign(seed="all", surrogate=surrogates).groupby(list(Cell._fields), sort=False)
    alike = ((key, group[group["combined"] == group["combined"].iloc[0]]) for key, group in cells)
    rows = [_seeds_row(key, group) for key, group in alike if len(group) > 1]
    return pd.DataFrame(rows, columns=COLUMNS).astype(per_seed.dtypes[COLUMNS])


def _without_seeds(attacked: Iterable[Cell]) -> frozenset[tuple[str, str]]:
    """The attacks that a worst case is over, each with the surrogate it was crafted on, of whatever seed."""
    return frozenset((cell.attack, _seedless(cell.surrogate)) for cell in attacked)


def _seedless(surrogate: str) -> str:
    return re.sub(r"-s\d+$", "-sall", surrogate)


def _seeds_row(key: tuple, seeds: pd.DataFrame) -> dict:
    low, high = t_interval(seeds["accuracy"])
    joined = {flag for flags in seeds["flags"] for flag in split_flags(flags)}
    return (
        dict(zip(Cell._fields, key, strict=True))
        | {"n": len(seeds), "ci_low": low, "ci_high": high, "flags": ";".join(sorted(joined))}
        | seeds[MEANS].mean().to_dict()
    )


def _worst_case(results: pd.DataFrame, norm: str) -> pd.DataFrame:
    is_worst_case = (results["threat"] == "worst_case") & (results["norm"] == norm) & (results["seed"] != "all")
    return results[is_worst_case]
