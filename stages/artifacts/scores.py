"""Scores as Parquet, one row a sample: the same bytes for the same content."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

# Epsilons and gradient norms keep float64: epsilons are joined on by equality, and a norm of 0 has to mean an all-zero
# gradient, which a small one rounded to float32 would also give.
SCORES = pa.schema(
    {
        "dataset": pa.string(),
        "model": pa.string(),
        "scheme": pa.string(),
        "defense": pa.string(),
        "seed": pa.int64(),
        "threat": pa.string(),
        "surrogate": pa.string(),
        "attack": pa.string(),
        "norm": pa.string(),
        "minimal_norm": pa.bool_(),
        "grid": pa.string(),
        "epsilon": pa.float64(),
        "flips": pa.int64(),
        "sample": pa.int64(),
        "label": pa.int64(),
        "prediction": pa.int64(),
        "correct": pa.bool_(),
        "detected": pa.bool_(),
        "l0": pa.int64(),
        "l1": pa.float32(),
        "l2": pa.float32(),
        "linf": pa.float32(),
        "forwards": pa.float64(),
        "backwards": pa.float64(),
        "eot_samples": pa.int64(),
        "stochastic": pa.bool_(),
        "gradient_norm": pa.float64(),
    }
)

# What the passes of a random network, or of a vote, say of each prediction; other networks' scores have none of them.
UNCERTAINTY = [pa.field(name, pa.float32()) for name in ("confidence", "entropy", "mutual_information")]


def save_scores(path: Path, scores: pd.DataFrame) -> None:
    """Writes scores, one row a sample with the columns of `SCORES` and, where there are any, `UNCERTAINTY`, as Parquet.

    A NaN becomes null.

    Raises:
        KeyError: a column of `SCORES` is missing.
    """
    schema = pa.schema([*SCORES, *(field for field in UNCERTAINTY if field.name in scores)])
    table = pa.Table.from_pandas(scores[schema.names], schema=schema, preserve_index=False)
    pq.write_table(table.replace_schema_metadata(None), path, compression="zstd")
