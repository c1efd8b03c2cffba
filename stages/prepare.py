"""Makes a dataset's canonical arrays: splits, and the calibration samples drawn from train."""

import importlib
import os
from pathlib import Path

from stages.artifacts.datasets import save_dataset
from stages.datasets.arrays import Dataset, balanced_part, calibration_samples, split_validation

MIRROR_VARIABLE = "TINYROBUST_DATA_MIRROR"


def run(task, params, outputs) -> None:
    """Prepares the task's dataset.

    Raises:
        FileNotFoundError: the mirror is no folder.
        SourceError: its source is missing, truncated, altered or mislabelled.
        ValueError: `data.validation` or `data.calibration` is impossible for it.
    """
    plugin = importlib.import_module(f"stages.datasets.{task.dataset}")
    settings = params.values["data"]
    source = plugin.load(mirror_folder(settings["mirror"]))
    if "val" in source:
        train, val = source["train"], balanced_part(source["val"], settings["validation"])
    else:
        train, val = split_validation(source["train"], settings["validation"])
    dataset = Dataset(
        name=task.dataset,
        input_shape=plugin.INPUT_SHAPE,
        classes=plugin.CLASSES,
        mean=plugin.MEAN,
        std=plugin.STD,
        train=train,
        val=val,
        test=source["test"],
        calibration=calibration_samples(train.labels, settings["calibration"]),
    )
    stem = f"data/prepared/{task.dataset}"
    save_dataset(outputs.path(f"{stem}.safetensors"), dataset, outputs.path(f"{stem}.json"))


def mirror_folder(setting: str) -> Path | None:
    """The folder to read sources from: what `data.mirror` says, or the environment where that is empty, or none.

    Raises:
        FileNotFoundError: a folder that is not there.
    """
    key, folder = ("data.mirror", setting) if setting else (MIRROR_VARIABLE, os.environ.get(MIRROR_VARIABLE))
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{key} is {folder}, expected an existing folder")
    return Path(folder)
