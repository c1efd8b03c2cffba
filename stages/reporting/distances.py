"""How far from each sample the nearest adversarial input lies, as far as any attack found one."""

from math import inf

import numpy as np
import pandas as pd

from stages.metrics.cells import VARIANT
from stages.metrics.results import split_flags
from stages.reporting.figures import is_unbounded

NETWORK = ["dataset", "model", "scheme", "defense"]  # over all seeds
QUARTILES = {"low": 0.25, "median": 0.5, "high": 0.75}
COLUMNS = [*NETWORK, "norm", *QUARTILES, "found", "n", "attacks", "flags"]


def distances(scores: pd.DataFrame, results: pd.DataFrame) -> pd.DataFrame:
    """One row a (dataset, model, scheme, defense, norm) that minimal-norm attacks were run on: columns `COLUMNS`.

    `scores` has one row a sample, `results` is the result table made from it. Per sample of a seed that a minimal-norm
    attack was run on, the distance is the least at which any of the norm's attacks found an error: those with budgets
    at the size that was measured, replays not. Each is an upper bound.

    - `low`, `median`, `high`: the least distance (input units, in l0 values) within which a quarter, half, three
      quarters of the samples have an adversarial input, infinite where none was found for that many.
    - `found`, in [0,1]: the share of samples with any. `n`: the samples, those that are right when clean.
    - `attacks`: the attacks, joined by `, `.
    - `flags`, joined by `;`: those of the attack that found the nearest for most samples, at whichever epsilon.
    """
    clean = scores[scores["threat"] == "clean"].set_index([*VARIANT, "sample"])["correct"]
    # Where any input was allowed attacks with budgets were let loose to test them, and minimal-norm ones are as found.
    as_found = scores["minimal_norm"] == is_unbounded(scores)
    as_found &= ~scores["threat"].isin(["clean", "transfer"])
    rows = []
    for norm, crafted in scores[as_found].groupby("norm"):
        sought = crafted["minimal_norm"]
        if not sought.any():
            continue
        errors = crafted[norm].astype(float).where(~crafted["correct"], inf)
        found = errors.groupby([crafted[column] for column in [*VARIANT, "sample", "attack"]]).min().unstack("attack")
        samples = pd.MultiIndex.from_frame(crafted.loc[sought, [*VARIANT, "sample"]].drop_duplicates())
        found = found.loc[samples[clean.reindex(samples).to_numpy(dtype=bool)]]
        for network, samples in found.groupby(NETWORK, sort=False):
            rows.append(_row(network, norm, samples, results))
    # Without any row the columns would hold objects.
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys([*QUARTILES, "found"], float))


def _row(network: tuple, norm: str, samples: pd.DataFrame, results: pd.DataFrame) -> dict:
    """`samples` has one column an attack: how far away the nearest error lies that it found."""
    nearest = samples.min(axis=1).to_numpy()
    # Distances that occur, so that infinite ones do no harm: no averages between two samples.
    quartiles = {name: np.quantile(nearest, share, method="inverted_cdf") for name, share in QUARTILES.items()}
    ahead = samples.eq(nearest, axis=0) & np.isfinite(samples)
    mine = (results[NETWORK] == list(network)).all(axis=1) & (results["norm"] == norm)
    strongest = results[mine & (results["attack"] == ahead.sum().idxmax()) & (results["threat"] != "transfer")]
    return {
        **dict(zip(NETWORK, network, strict=True)),
        "norm": norm,
        **quartiles,
        "found": np.isfinite(nearest).mean(),
        "n": len(nearest),
        "attacks": ", ".join(samples.columns),
        "flags": ";".join(sorted({flag for flags in strongest["flags"] for flag in split_flags(flags)})),
    }
