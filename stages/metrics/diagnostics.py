"""The table of diagnostics: one row a network and quantized part, from one row a number of a sample."""

import numpy as np
import pandas as pd

from stages.metrics.cells import VARIANT

PARTS = ("none", "input", "weights", "activations", "all")  # of quantization, alone
QUARTILES = {"q1": 0.25, "median": 0.5, "q3": 0.75}
DISTRIBUTED = ("gradient_norm", "gradient_cosine", "distance_l2", "distance_linf")  # told by their quartiles
NOISE_LEVELS = (0, 1, 2, 4, 8, 16)  # in 1/255
COLUMNS = [
    *VARIANT,
    *("part", "n", "clean_accuracy", "epsilon", "robust_accuracy"),
    *("zero_gradients", "rising_steps", "gradient_step", "random_step"),
    *(f"{diagnostic}_{quartile}" for diagnostic in DISTRIBUTED for quartile in QUARTILES),
    *(f"logit_shift_{levels}" for levels in NOISE_LEVELS),
    *(f"prediction_change_{levels}" for levels in NOISE_LEVELS),
]


def diagnostics_table(diagnostics: pd.DataFrame) -> pd.DataFrame:
    """One row a (dataset, model, scheme, defense, seed, part): columns `COLUMNS`.

    `diagnostics` is the concatenation of all diagnostics files. A network that was quantized has a row for each part
    that alone was, `none` being the float network and `all` the network itself; a float network has the row `none`.

    - `n`: the samples. `clean_accuracy`, and `robust_accuracy` under PGD in linf at `epsilon` (input units; both are
      missing where the study has no such budget), are over all of them, in [0,1].
    - `zero_gradients`, in [0,1]: the share of samples whose input gradient is zero in all values.
    - `rising_steps`, in [0,1]: the share of samples whose cross-entropy rises by a step of 1/255 along its gradient's
      sign. `gradient_step`, `random_step` (nats): the median change by that step, and the median size of the change by
      a step with random signs.
    - `gradient_norm`, `gradient_cosine` (with the float network's), `distance_l2`, `distance_linf` (input units): lower
      quartile, median and upper quartile, values that occur. Cosines are missing where a gradient is zero. Distances
      are over the samples that the network gets right, and infinite where no error was found.
    - `logit_shift_<levels>`: median change of the logits from the float network's, relative to theirs, under uniform
      noise of that many levels of 1/255. `prediction_change_<levels>`: the share of samples whose class it changes.
    """
    keys = [*VARIANT, "part"]
    rows = [dict(zip(keys, key, strict=True)) | _statistics(group) for key, group in diagnostics.groupby(keys)]
    table = pd.DataFrame(rows, columns=COLUMNS)
    ranked = table.assign(rank=table["part"].map(PARTS.index)).sort_values([*VARIANT, "rank"], ignore_index=True)
    return ranked.drop(columns="rank")


def quantile(values: pd.Series, share: float) -> float:
    """The least value that at least this share of the values does not exceed; NaN where there is none.

    A value that occurs, so that infinite ones do no harm: no average between two.
    """
    present = values.dropna().to_numpy()
    return float(np.quantile(present, share, method="inverted_cdf")) if len(present) else np.nan


def _statistics(group: pd.DataFrame) -> dict[str, float]:
    by_diagnostic = dict(list(group.groupby("diagnostic")))
    clean = by_diagnostic["clean_correct"]["value"]
    found: dict[str, float] = {"n": len(clean), "clean_accuracy": clean.mean()}
    if "robust_correct" in by_diagnostic:
        robust = by_diagnostic["robust_correct"]
        found |= {"epsilon": robust["magnitude"].iloc[0], "robust_accuracy": robust["value"].mean()}
    found["zero_gradients"] = (by_diagnostic["gradient_norm"]["value"] == 0).mean()
    step = by_diagnostic["gradient_step"]["value"]
    found |= {"rising_steps": (step > 0).mean(), "gradient_step": step.median()}
    found["random_step"] = by_diagnostic["random_step"]["value"].abs().median()
    for diagnostic in [name for name in DISTRIBUTED if name in by_diagnostic]:
        values = by_diagnostic[diagnostic]["value"]
        if diagnostic.startswith("distance"):
            values = values[values > 0]  # 0 is that of a clean mistake
        found |= {f"{diagnostic}_{quartile}": quantile(values, share) for quartile, share in QUARTILES.items()}
    for diagnostic, statistic in (("logit_shift", "median"), ("prediction_change", "mean")):
        if diagnostic in by_diagnostic:
            rows = by_diagnostic[diagnostic]
            by_levels = rows["value"].groupby((rows["magnitude"] * 255).round().astype(int)).agg(statistic)
            found |= by_levels.add_prefix(f"{diagnostic}_").to_dict()
    return found
