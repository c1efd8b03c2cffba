import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from stages import prepare
from stages.artifacts.datasets import load_dataset, save_dataset
from stages.datasets.arrays import Dataset, SourceError, Split, digests

LABELS = {"train": np.repeat(np.arange(2), 10), "test": np.repeat(np.arange(2), 3)}
SOURCE = {
    name: Split(np.random.default_rng(len(labels)).integers(0, 256, (len(labels), 1, 2, 3), np.uint8), labels)
    for name, labels in LABELS.items()
}
PLUGIN = SimpleNamespace(INPUT_SHAPE=(1, 2, 3), CLASSES=("cat", "dog"), MEAN=(73 / 255,), STD=0.25)


def run(folder, monkeypatch, load=lambda mirror: SOURCE, validation=4, calibration=5, mirror=""):
    """Prepares a made-up dataset, each product under a name of its own, which the ledger may choose."""
    PLUGIN.load = load
    monkeypatch.setitem(sys.modules, "stages.datasets.made_up", PLUGIN)
    folder.mkdir(exist_ok=True)
    params = SimpleNamespace(values={"data": {"mirror": mirror, "validation": validation, "calibration": calibration}})
    products = {
        "data/prepared/made_up.safetensors": folder / "arrays.safetensors",
        "data/prepared/made_up.json": folder / "facts.json",
    }
    prepare.run(SimpleNamespace(dataset="made_up"), params, SimpleNamespace(path=products.__getitem__))


@pytest.fixture
def prepared(tmp_path):
    """A written dataset, `(path, dataset)`."""
    dataset = Dataset(
        "made_up",
        (1, 2, 3),
        ("cat", "dog"),
        (73 / 255,),
        0.25,
        *[SOURCE["train"]] * 2,
        SOURCE["test"],
        np.array([3, 12]),
    )
    path = tmp_path / "made_up.safetensors"
    save_dataset(path, dataset)
    return path, dataset


def test_products(tmp_path, monkeypatch):
    run(tmp_path, monkeypatch)
    arrays = load_file(tmp_path / "arrays.safetensors")
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert {name: (str(array.dtype), array.shape) for name, array in arrays.items()} == {
        "train.inputs": ("uint8", (16, 1, 2, 3)),
        "train.labels": ("int64", (16,)),
        "val.inputs": ("uint8", (4, 1, 2, 3)),
        "val.labels": ("int64", (4,)),
        "test.inputs": ("uint8", (6, 1, 2, 3)),
        "test.labels": ("int64", (6,)),
        "calibration": ("int64", (5,)),
    }
    assert (arrays["test.inputs"] == SOURCE["test"].inputs).all()
    assert facts["counts"] == {"train": 16, "val": 4, "test": 6, "calibration": 5}
    assert facts["classes"] == ["cat", "dog"]
    assert facts["mean"] == [73 / 255]
    assert facts["digests"]["test"] == digests(SOURCE["test"])
    assert list(facts) == ["dataset", "input_shape", "classes", "mean", "std", "counts", "digests"]


def test_train_and_val_are_disjoint_and_all_of_the_source(tmp_path, monkeypatch):
    run(tmp_path, monkeypatch)
    arrays = load_file(tmp_path / "arrays.safetensors")
    images = [image.tobytes() for name in ("train", "val") for image in arrays[f"{name}.inputs"]]
    assert len(set(images)) == 20
    assert sorted(images) == sorted(image.tobytes() for image in SOURCE["train"].inputs)


def test_the_same_bytes_each_time(tmp_path, monkeypatch):
    for folder in ("first", "second"):
        run(tmp_path / folder, monkeypatch)
    for first in (tmp_path / "first").iterdir():
        assert first.read_bytes() == (tmp_path / "second" / first.name).read_bytes()


@pytest.mark.parametrize(
    ("setting", "environment", "expected"),
    [
        ("", "", None),
        ("", "theirs", "theirs"),
        ("ours", "", "ours"),
        ("ours", "theirs", "ours"),
        ("ours", "gone", "ours"),
    ],
)
def test_the_setting_wins_over_the_environment(tmp_path, monkeypatch, setting, environment, expected):
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINYROBUST_DATA_MIRROR", environment)
    asked = []
    run(tmp_path / "out", monkeypatch, lambda mirror: asked.append(mirror) or SOURCE, mirror=setting)
    assert asked == [expected and Path(expected)]


def test_a_mirror_that_is_not_there_is_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=f"^data.mirror is {tmp_path}/gone, expected an existing folder$"):
        run(tmp_path / "out", monkeypatch, mirror=f"{tmp_path}/gone")
    monkeypatch.setenv("TINYROBUST_DATA_MIRROR", "also/gone")
    with pytest.raises(FileNotFoundError, match=r"^TINYROBUST_DATA_MIRROR is also/gone, expected an existing folder$"):
        run(tmp_path / "out", monkeypatch)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation": 20}, "data.validation is 20, expected a number of the 20 training images"),
        ({"validation": 1}, "data.validation is 1, expected .* each of the 2 classes"),
        ({"calibration": 17}, "data.calibration is 17, expected 1 to 16"),
        ({"calibration": 0}, "data.calibration is 0, expected 1 to 16"),
    ],
)
def test_impossible_settings_leave_nothing(tmp_path, monkeypatch, settings, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, monkeypatch, **settings)
    assert not list(tmp_path.iterdir())


def test_a_refused_source_leaves_nothing(tmp_path, monkeypatch):
    def load(mirror):
        raise SourceError("train.parquet: no such file")

    with pytest.raises(SourceError):
        run(tmp_path, monkeypatch, load)
    assert not list(tmp_path.iterdir())


def test_round_trip(prepared):
    path, dataset = prepared
    loaded = load_dataset(path)
    for field in ("name", "input_shape", "classes", "mean", "std"):
        assert getattr(loaded, field) == getattr(dataset, field)
    for name, split in dataset.splits.items():
        assert (loaded.splits[name].inputs == split.inputs).all()
        assert (loaded.splits[name].labels == split.labels).all()
    assert loaded.calibration.tolist() == [3, 12]


def test_strided_arrays_are_written_in_their_order(tmp_path, prepared):
    path, dataset = prepared
    strided = Split(np.asfortranarray(SOURCE["test"].inputs), np.repeat(SOURCE["test"].labels, 2)[::2])
    save_dataset(tmp_path / "strided.safetensors", Dataset(**vars(dataset) | {"test": strided}))
    assert (tmp_path / "strided.safetensors").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_missing_artifact(prepared, suffix):
    path, _ = prepared
    path.with_suffix(suffix).unlink()
    with pytest.raises(
        FileNotFoundError, match=f"^{path.with_suffix(suffix)}: no such file, expected a prepared dataset"
    ):
        load_dataset(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_truncated_artifact(prepared, suffix):
    path, _ = prepared
    damaged = path.with_suffix(suffix)
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.raises(ValueError, match=f"^{path}: not the prepared dataset that made_up.json describes: "):
        load_dataset(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val.labels": np.zeros(20, np.int32)}, "labels are int32"),
        ({"test.inputs": np.zeros((6, 1, 3, 2), np.uint8)}, "test inputs are uint8"),
        ({"test.labels": np.full(6, 2)}, "test labels contain 2, expected 0 to 1"),
        ({"calibration": np.array([20])}, "calibration indices contain 20"),
    ],
)
def test_arrays_that_do_not_fit(prepared, changes, message):
    path, _ = prepared
    save_file(load_file(path) | changes, path)
    with pytest.raises(ValueError, match=f"^{path}: .*{message}"):
        load_dataset(path)


def test_missing_array(prepared):
    path, _ = prepared
    arrays = load_file(path)
    del arrays["val.inputs"]
    save_file(arrays, path)
    with pytest.raises(ValueError, match=f"^{path}: 'val.inputs' is neither there nor in made_up.json"):
        load_dataset(path)


def test_torch_is_not_imported():
    command = "import sys, stages.prepare, stages.datasets.cifar10; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0
