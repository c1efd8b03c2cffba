"""What attacks on memory did, as Parquet: the same bytes for the same content."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from stages.faults.goals import GOALS

VARIANT = {
    "dataset": pa.string(),
    "model": pa.string(),
    "scheme": pa.string(),
    "defense": pa.string(),
    "seed": pa.int64(),
    "attack": pa.string(),
    "draw": pa.int64(),
}
# One row a draw and number of flips, the first of none; counts of test samples where nothing else is said.
# `flips` is what the row stands for and `made` the bits that were flipped: fewer where the attack had ended before.
# The same in all rows of a draw: after how many flips it reached each goal of `stages/faults/goals.py`, null if never.
# `unpredicted`: whose logits are no numbers, which count as wrong. `aimed`, `hit`: at how many a targeted attack aims,
# and how many of them its target class gets. With checksums: `seen` of the flipped bits lie in groups whose checksum
# fails, `recovered` samples are correct once these are zero, and `checksum_bytes` is what that costs in memory.
FAULTS = pa.schema(
    {
        **VARIANT,
        "searches": pa.bool_(),
        "memory_bits": pa.int64(),
        "flips": pa.int64(),
        "made": pa.int64(),
        "n": pa.int64(),
        "num_classes": pa.int64(),
        "correct": pa.int64(),
        "unpredicted": pa.int64(),
        "source": pa.int64(),
        "target": pa.int64(),
        "aimed": pa.int64(),
        "hit": pa.int64(),
        "seen": pa.int64(),
        "recovered": pa.int64(),
        "checksum_bytes": pa.int64(),
        **dict.fromkeys(GOALS, pa.int64()),
    }
)
# One row a flipped bit, in the order of the flips; `place` counts, in the network's order, the tensors that the attack
# reaches, and `loss` is the attacker's objective after its step.
FLIPPED = pa.schema(
    {
        **VARIANT,
        "flip": pa.int64(),
        "place": pa.int64(),
        "layer": pa.string(),
        "tensor": pa.string(),
        "kind": pa.string(),
        "width": pa.int64(),
        "index": pa.int64(),
        "bit": pa.int64(),
        "before": pa.float32(),
        "after": pa.float32(),
        "loss": pa.float32(),
    }
)


def save_faults(path: Path, faults: pd.DataFrame) -> None:
    """Writes what is left of a network, with the columns of `FAULTS`; a NaN becomes null. KeyError: one is missing."""
    _save(path, faults, FAULTS)


def save_flipped(path: Path, flipped: pd.DataFrame) -> None:
    """Writes which bits were flipped, with the columns of `FLIPPED`. KeyError: one is missing."""
    _save(path, flipped, FLIPPED)


def _save(path: Path, rows: pd.DataFrame, schema: pa.Schema) -> None:
    table = pa.Table.from_pandas(rows[schema.names], schema=schema, preserve_index=False)
    pq.write_table(table.replace_schema_metadata(None), path, compression="zstd")
