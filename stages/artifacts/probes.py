"""Probes as Parquet, what an attack did when it was run again to test it: the same bytes for the same content."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

# One row a sample. `probe` is "doubled", the attack with twice its budget, or "planted", the attack on a classifier
# with an adversarial example planted in the ball. `correct`: whether the attack failed, null where none could be
# planted.
PROBES = pa.schema(
    {
        "dataset": pa.string(),
        "model": pa.string(),
        "scheme": pa.string(),
        "defense": pa.string(),
        "seed": pa.int64(),
        "attack": pa.string(),
        "norm": pa.string(),
        "epsilon": pa.float64(),
        "probe": pa.string(),
        "sample": pa.int64(),
        "correct": pa.bool_(),
    }
)


def save_probes(path: Path, probes: pd.DataFrame) -> None:
    """Writes probes, one row a sample with the columns of `PROBES`, as Parquet; a missing value becomes null.

    Raises:
        KeyError: a column of `PROBES` is missing.
    """
    table = pa.Table.from_pandas(probes[PROBES.names], schema=PROBES, preserve_index=False)
    pq.write_table(table.replace_schema_metadata(None), path, compression="zstd")
