"""The cells of the result table: one network under one attack of one budget."""

from typing import NamedTuple

import pandas as pd

from stages.norms import allows_any

VARIANT = ["dataset", "model", "scheme", "defense", "seed"]
DISTANCES = ["l0", "l1", "l2", "linf"]
EFFORT = ["forwards", "backwards", "eot_samples"]
OUTCOME = ["correct", "detected", *DISTANCES, *EFFORT, "stochastic", "gradient_norm"]


class Cell(NamedTuple):
    """What identifies a row of the result table."""

    dataset: str
    model: str
    scheme: str
    defense: str
    seed: int
    threat: str
    surrogate: str
    attack: str
    norm: str
    grid: str
    epsilon: float
    flips: int

    @property
    def variant(self) -> tuple:
        """The network: dataset, model, scheme, defense and seed."""
        return self[: len(VARIANT)]

    @property
    def variant_name(self) -> str:
        """The network's name, such as `cifar10-resnet8-w4a4-jacobian-s0`."""
        return f"{self.dataset}-{self.model}-{self.scheme}-{self.defense}-s{self.seed}"

    @property
    def clean(self) -> "Cell":
        """The cell of the same network without an attack."""
        return Cell(*self.variant, "clean", "", "clean", "", "", 0.0, 0)

    @property
    def worst_case(self) -> "Cell":
        """The cell of the worst case over all attacks of the same budget."""
        return self._replace(threat="worst_case", surrogate="", attack="all")

    @property
    def is_attacked(self) -> bool:
        """Whether inputs were changed by one attack or by noise, unlike in clean and worst-case rows."""
        return self.threat not in ("clean", "worst_case")

    @property
    def is_unbounded(self) -> bool:
        """Whether any input was allowed: no budget of an attacker, and left out of the worst case and of figures."""
        return self.norm != "" and allows_any(self.epsilon, self.norm)

    @property
    def is_sanity_check(self) -> bool:
        """Whether any input was allowed to an attack on the network itself, which then has to succeed."""
        return self.is_attacked and self.is_unbounded and self.threat != "transfer"


# Per cell the rows of its samples: index `sample`, columns `OUTCOME` and `withstood`.
Outcomes = dict[Cell, pd.DataFrame]


def outcomes(scores: pd.DataFrame) -> Outcomes:
    """Splits scores, one row a sample, into the cells that they belong to, samples ascending.

    Raises `ValueError` where a column is missing, where one that identifies a cell has a null, where a sample was
    scored twice in one cell, and where an attacked sample has no clean score.
    """
    missing = sorted({*Cell._fields, "sample", *OUTCOME} - set(scores.columns))
    if missing:
        raise ValueError(f"scores: column '{missing[0]}' is missing, expected the columns of a scores file")
    nulls = scores[list(Cell._fields)].isna().any()
    if nulls.any():
        raise ValueError(f"scores: column '{nulls.idxmax()}' has a null, expected a value, or empty text, in every row")
    groups = (
        scores.astype({"correct": bool, "detected": float})
        .sort_values("sample")
        .set_index("sample")
        .groupby(list(Cell._fields), sort=False)[OUTCOME]
    )
    cells = {Cell(*key): rows for key, rows in groups}
    for cell, rows in cells.items():
        _refuse_incomplete(cell, rows, cells)
    return {cell: _judged(rows, cells[cell.clean]) for cell, rows in cells.items()}


def _judged(rows: pd.DataFrame, clean: pd.DataFrame) -> pd.DataFrame:
    """With `withstood`, and `correct` only where the clean sample is, too.

    A clean mistake is not robust, also where a perturbation happens to undo it.
    """
    robust = rows.assign(correct=rows["correct"] & clean["correct"].loc[rows.index])
    return robust.assign(withstood=_withstood(robust, clean))


def _withstood(rows: pd.DataFrame, clean: pd.DataFrame) -> pd.Series:
    """1 where a sample comes to no harm, for there is a detector that may reject it; null where there is none.

    A sample has to be accepted and classified correctly when it is clean, and rejected or classified correctly when it
    is attacked: as elsewhere a clean mistake is not robust, nor is robust what is always rejected.
    """
    clean = clean.loc[rows.index]
    served = clean["correct"] & (clean["detected"] != 1)
    unharmed = served & (rows["correct"] | (rows["detected"] == 1))
    return unharmed.astype(float).where(rows["detected"].notna())


def _refuse_incomplete(cell: Cell, rows: pd.DataFrame, cells: Outcomes) -> None:
    where = f"scores of {cell.variant_name} under {cell.attack} at epsilon {cell.epsilon:.6g}"
    if rows.index.has_duplicates:
        raise ValueError(f"{where}: sample {rows.index[rows.index.duplicated()][0]} is there twice, expected once")
    if cell.clean not in cells:
        raise ValueError(f"{where}: the clean scores of {cell.variant_name} are missing")
    unscored = rows.index.difference(cells[cell.clean].index)
    if len(unscored):
        raise ValueError(f"{where}: sample {unscored[0]} has no clean score")
