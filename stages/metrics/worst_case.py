"""The worst case over attacks."""

from collections import defaultdict

import numpy as np
import pandas as pd

from stages.metrics.cells import DISTANCES, Cell, Outcomes

COSTS = ["forwards", "backwards"]


def members(outcomes: Outcomes) -> dict[Cell, list[Cell]]:
    """Per worst-case cell the attacked cells that it is taken over.

    These are all threats but `clean`, every surrogate, of one network, norm, grid and epsilon. An attack that was not
    run at an epsilon takes no part there: borrowing it from a smaller epsilon would be sound, since the smaller ball
    lies inside the larger, but would hide in the table what was run, and would make `non_monotone` blind. A worst case
    is an upper bound of robust accuracy, and one over fewer attacks is a looser bound. A minimal-norm attack takes part
    at every epsilon of its norm. Attacks that were allowed any input stay out.
    """
    groups = defaultdict(list)
    for cell in outcomes:
        if cell.is_attacked and not cell.is_unbounded:
            groups[cell.worst_case].append(cell)
    return dict(groups)


def worst_case(outcomes: Outcomes) -> Outcomes:
    """The worst-case cells of all budgets in `outcomes`.

    A sample is correct where it is correct under every member, on the samples common to all of them. A distance is the
    least of those attacks that succeeded, each norm on its own. Costs are the sum over members: what it takes
    to run them all. Raises `ValueError` where members have no sample in common.

    Per sample, not the minimum of averages: Carlini et al., "On evaluating adversarial robustness", arXiv:1902.06705.
    """
    return {cell: _combined(cell, [outcomes[member] for member in group]) for cell, group in members(outcomes).items()}


def _combined(cell: Cell, attacked: list[pd.DataFrame]) -> pd.DataFrame:
    samples = attacked[0].index
    for rows in attacked[1:]:
        samples = samples.intersection(rows.index)
    if samples.empty:
        raise ValueError(f"{cell.variant_name} at epsilon {cell.epsilon:.6g}: its attacks have no sample in common")
    attacked = [rows.loc[samples] for rows in attacked]
    correct = np.array([rows["correct"] for rows in attacked], dtype=bool)
    columns = {"correct": correct.all(axis=0), "detected": np.nan}
    columns["withstood"] = np.min([rows["withstood"] for rows in attacked], axis=0)
    for distance in DISTANCES:
        values = np.array([rows[distance] for rows in attacked], dtype=float)
        least = np.where(correct, np.inf, values).min(axis=0)
        columns[distance] = np.where(np.isinf(least), np.nan, least)
    for cost in COSTS:
        columns[cost] = np.sum([rows[cost] for rows in attacked], axis=0)
    columns["eot_samples"] = np.max([rows["eot_samples"] for rows in attacked], axis=0)
    columns["stochastic"] = attacked[0]["stochastic"]
    return pd.DataFrame(columns, index=samples)
