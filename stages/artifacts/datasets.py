"""Prepared datasets as safetensors and JSON: the same bytes for the same content."""

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from stages.datasets.arrays import Dataset, Split, digests


def save_dataset(path: Path, dataset: Dataset, description: Path | None = None) -> None:
    """Writes a prepared dataset.

    Args:
        path: the safetensors file: `<split>.inputs` uint8 `[N, C, H, W]`, or int16 of sound, and `<split>.labels` int64
            `[N]` for train, val and test, and `calibration` int64 `[M]`, indices into train.
        dataset: what is written.
        description: the JSON file; by default beside `path` with the same stem.
    """
    arrays = {"calibration": dataset.calibration}
    for name, split in dataset.splits.items():
        arrays |= {f"{name}.inputs": split.inputs, f"{name}.labels": split.labels}
    # safetensors writes an array's buffer as it lies in memory, whatever its strides.
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    facts = {
        "dataset": dataset.name,
        "input_shape": dataset.input_shape,
        "classes": dataset.classes,
        "mean": dataset.mean,
        "std": dataset.std,
        "counts": {name: len(split) for name, split in dataset.splits.items()}
        | {"calibration": len(dataset.calibration)},
        "digests": {name: digests(split) for name, split in dataset.splits.items()},
    }
    (description or path.with_suffix(".json")).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def load_dataset(path: Path) -> Dataset:
    """Reads a prepared dataset from its safetensors file and the JSON file beside it.

    Raises:
        FileNotFoundError: one of the two is not there.
        ValueError: one of them is damaged, or they do not fit each other.
    """
    description = path.with_suffix(".json")
    for file in (path, description):
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file, expected a prepared dataset")
    try:
        arrays = load_file(path)
        facts = json.loads(description.read_text(encoding="utf-8"))
        splits = {name: Split(arrays[f"{name}.inputs"], arrays[f"{name}.labels"]) for name in ("train", "val", "test")}
        return Dataset(
            name=facts["dataset"],
            input_shape=tuple(facts["input_shape"]),
            classes=tuple(facts["classes"]),
            mean=tuple(facts["mean"]),
            std=facts["std"],
            **splits,
            calibration=arrays["calibration"],
        )
    except KeyError as error:
        raise ValueError(
            f"{path}: {error} is neither there nor in {description.name}, expected a prepared dataset"
        ) from None
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: not the prepared dataset that {description.name} describes: {error}") from error
