"""Diagnostics as Parquet, one row a number of a sample: the same bytes for the same content."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

DIAGNOSTICS = pa.schema(
    {
        "dataset": pa.string(),
        "model": pa.string(),
        "scheme": pa.string(),
        "defense": pa.string(),
        "seed": pa.int64(),
        "diagnostic": pa.string(),
        "part": pa.string(),
        "magnitude": pa.float64(),
        "sample": pa.int64(),
        "value": pa.float64(),
    }
)


def save_diagnostics(path: Path, diagnostics: pd.DataFrame) -> None:
    """Writes diagnostics, one row a number of a sample with the columns of `DIAGNOSTICS`; a NaN becomes null.

    Raises:
        KeyError: a column of `DIAGNOSTICS` is missing.
    """
    table = pa.Table.from_pandas(diagnostics[DIAGNOSTICS.names], schema=DIAGNOSTICS, preserve_index=False)
    pq.write_table(table.replace_schema_metadata(None), path, compression="zstd")
