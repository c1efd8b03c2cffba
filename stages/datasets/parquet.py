"""Reads images or sound stored as bytes in Parquet, in the column layout of Hugging Face's datasets."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.datasets.arrays import SourceError, Split, canonical_split
from stages.datasets.images import decode_image

FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
LABEL = pa.int64()
TEXT = pa.string()


def read_split(
    path: Path, image_column: str, input_shape: tuple[int, int, int], classes: tuple[str, ...], expected: dict[str, str]
) -> Split:
    """Reads one split and proves that it is the expected one.

    Args:
        path: a Parquet file with the columns `image_column`, a struct of `bytes` (JPEG, PNG or WebP) and `path` (the
            original file name), and `label`, int64.
        image_column: the name of the image column.
        input_shape: `(C, H, W)` of every image; 1 channel is grey, 3 are red, green, blue.
        classes: a label is an index into them.
        expected: the split's digests, as `arrays.digests` gives them.

    Returns:
        The split in canonical order.

    Raises:
        SourceError: the file is missing, truncated, altered or mislabelled.
    """
    table = read_table(path, image_column)
    labels = table["label"].to_pylist()
    images = np.empty((len(labels), *input_shape[1:], input_shape[0]), np.uint8)
    for row, (data, label) in enumerate(zip(table[f"{image_column}.bytes"], labels, strict=True)):
        if not 0 <= label < len(classes):
            raise SourceError(f"{path}: row {row} has label {label}, expected 0 to {len(classes) - 1}")
        images[row] = decode_image(data.as_py(), input_shape, f"{path}: row {row}")
    return canonical_split(images, labels, table[f"{image_column}.path"].to_pylist(), expected, str(path))


def read_table(path: Path, file_column: str, *text_columns: str) -> pa.Table:
    """The columns `<file_column>.bytes`, `<file_column>.path`, `label`, and those of text.

    Raises:
        SourceError: the file is missing or truncated, or a column is missing, of another type or with nulls.
    """
    if not path.is_file():
        raise SourceError(f"{path}: no such file, expected Parquet with the columns '{file_column}' and 'label'")
    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise SourceError(f"{path}: truncated or not Parquet ({reason}), expected a complete Parquet file") from error
    for column, kind in ((file_column, FILE), ("label", LABEL), *((column, TEXT) for column in text_columns)):
        if column not in table.column_names:
            raise SourceError(f"{path}: no column '{column}', expected one of {kind} beside {table.column_names}")
        if table.schema.field(column).type != kind:
            raise SourceError(f"{path}: column '{column}' is {table.schema.field(column).type}, expected {kind}")
    table = table.select([file_column, "label", *text_columns]).flatten()
    for column in table.column_names:
        if table[column].null_count:
            raise SourceError(f"{path}: column '{column}' has {table[column].null_count} nulls, expected none")
    return table
