import gzip
import importlib.util
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from stages.datasets import fashion_mnist
from stages.datasets.arrays import SourceError, digests
from stages.datasets.images import decode_image

EMBEDDED = Path(__file__).parents[2] / "data" / "embedded"
ORIGINAL = Path("/usr/share/datasets/fashion-mnist")  # where Debian's dataset-fashion-mnist puts it

load = cache(fashion_mnist.load)


def script(monkeypatch, output):
    spec = importlib.util.spec_from_file_location("make_fashion_mnist", EMBEDDED / "make_fashion_mnist.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "OUTPUT", output)
    return module


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4) for size in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def test_embedded_images_are_balanced():
    splits = load()
    for name, count in fashion_mnist.COUNTS.items():
        assert splits[name].inputs.shape == (count, *fashion_mnist.INPUT_SHAPE)
        assert np.bincount(splits[name].labels).tolist() == [count // 10] * 10


def test_no_test_image_is_in_train():
    train, test = ({image.tobytes() for image in load()[name].inputs} for name in ("train", "test"))
    assert len(train) > 9_990
    assert not train & test


def test_mean_and_std_are_those_of_train():
    inputs = load()["train"].inputs / 255
    assert (round(inputs.mean() * 255) / 255,) == fashion_mnist.MEAN
    assert round(inputs.std(), 3) == fashion_mnist.STD


def test_a_mirror_changes_nothing(tmp_path):
    for name, split in fashion_mnist.load(tmp_path).items():
        assert digests(split) == fashion_mnist.DIGESTS[name]


def test_embedded_files_are_small_and_any_prefix_is_balanced():
    files = [fashion_mnist.FOLDER / f"{name}.parquet" for name in ("train", "test")]
    assert sum(file.stat().st_size for file in files) < 8_000_000
    for file in files:
        labels = pq.read_table(file, columns=["label"])["label"].to_numpy()
        assert (labels == np.arange(len(labels)) % 10).all()


def test_a_split_in_the_place_of_another_is_refused(tmp_path, monkeypatch):
    for name in ("train", "test"):
        shutil.copy(fashion_mnist.FOLDER / "test.parquet", tmp_path / f"{name}.parquet")
    monkeypatch.setattr(fashion_mnist, "FOLDER", tmp_path)
    with pytest.raises(SourceError, match=r"train.parquet: the labels of its 2000 images"):
        fashion_mnist.load()


def test_script_takes_the_first_images_of_each_class_in_turn(tmp_path, monkeypatch):
    module = script(monkeypatch, tmp_path / "made")
    labels = np.array([*range(10), *range(9, -1, -1), *range(10)], np.uint8)
    images = np.random.default_rng(0).integers(0, 256, (30, 28, 28), np.uint8)
    write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", images)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", labels)
    monkeypatch.setitem(module.PER_CLASS, "test", 2)
    module.embed(tmp_path, "test")
    made = pq.read_table(tmp_path / "made" / "test.parquet").to_pylist()
    assert [row["label"] for row in made] == [*range(10), *range(10)]
    assert [row["image"]["path"] for row in made] == [
        f"test-{index:05d}.png" for index in [*range(10), *range(19, 9, -1)]
    ]
    decoded = decode_image(made[10]["image"]["bytes"], (1, 28, 28), "row 10")
    assert (decoded[..., 0] == images[19]).all()


def test_script_refuses_what_is_not_idx(tmp_path, monkeypatch):
    write_idx(tmp_path / "labels.gz", np.zeros(3, np.uint8))
    with pytest.raises(SystemExit, match=r"labels.gz: starts with 00000801, expected IDX of uint8 with 3 dimensions"):
        script(monkeypatch, tmp_path).read_idx(tmp_path / "labels.gz", 3)


@pytest.mark.skipif(not ORIGINAL.is_dir(), reason=f"the original dataset is not in {ORIGINAL}")
def test_script_makes_the_embedded_images(tmp_path, monkeypatch):
    script(monkeypatch, tmp_path).embed(ORIGINAL, "test")
    shutil.copy(fashion_mnist.FOLDER / "train.parquet", tmp_path)
    monkeypatch.setattr(fashion_mnist, "FOLDER", tmp_path)
    assert len(fashion_mnist.load()["test"]) == 2_000
