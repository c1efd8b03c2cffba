import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from stages.datasets import svhn
from stages.datasets.arrays import SourceError

MIRROR = Path(os.environ.get("TINYROBUST_DATA_MIRROR", ""))
RNG = np.random.default_rng(0)
IMAGES = {name: RNG.integers(0, 256, (count, 3, 32, 32), np.uint8) for name, count in {"train": 24, "test": 11}.items()}
LABELS = {name: np.arange(len(images))[::-1] % 10 for name, images in IMAGES.items()}


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror with small files in the official format, where the digit 0 has the label 10."""
    folder = tmp_path / "svhn"
    folder.mkdir()
    for name in IMAGES:
        labels = np.where(LABELS[name] == 0, 10, LABELS[name])[:, None].astype(np.uint8)
        content = {"X": IMAGES[name].transpose(2, 3, 1, 0), "y": labels}
        savemat(folder / f"{name}_32x32.mat", content, do_compression=True)
        found = hashlib.sha256((folder / f"{name}_32x32.mat").read_bytes()).hexdigest()
        monkeypatch.setitem(svhn.SHA256, name, found)
    return tmp_path


def assert_canonical(splits):
    assert list(splits) == ["train", "test"]
    for name, split in splits.items():
        order = sorted(range(len(LABELS[name])), key=lambda position: (LABELS[name][position], position))
        assert split.labels.tolist() == LABELS[name][order].tolist()
        assert (split.inputs == IMAGES[name][order]).all()
        assert split.inputs.flags.c_contiguous


def test_files_of_a_mirror(mirror):
    assert_canonical(svhn.load(mirror))


def test_download(mirror, publisher, monkeypatch):
    for file in (mirror / "svhn").iterdir():
        file.rename(publisher.folder / file.name)
    monkeypatch.setattr(svhn, "URL", publisher.url)
    assert_canonical(svhn.load())


@pytest.mark.parametrize("name", ["train", "test"])
def test_wrong_checksum(mirror, name):
    file = mirror / "svhn" / f"{name}_32x32.mat"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(SourceError, match=f"^{file}: the file has SHA-256 .*, expected {svhn.SHA256[name]}$"):
        svhn.load(mirror)


def test_missing_file(mirror):
    (mirror / "svhn" / "test_32x32.mat").unlink()
    with pytest.raises(SourceError, match=f"^{mirror}/svhn/test_32x32.mat: no such file, expected that of {svhn.URL}"):
        svhn.load(mirror)


@pytest.mark.skipif(
    not (MIRROR / "svhn").is_dir(), reason="TINYROBUST_DATA_MIRROR names no folder with the official SVHN"
)
def test_the_real_svhn():
    splits = svhn.load(MIRROR)
    for name, split in splits.items():
        assert split.inputs.shape == (svhn.COUNTS[name], *svhn.INPUT_SHAPE)
        assert set(split.labels) == set(range(10))
    inputs = splits["train"].inputs
    assert tuple(np.round(inputs.mean(axis=(0, 2, 3))) / 255) == svhn.MEAN
