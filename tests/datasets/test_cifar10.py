"""The official archive is imitated down to its Python 2 pickles, for which nothing current has a writer."""

import hashlib
import io
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from stages.datasets import cifar10
from stages.datasets.arrays import SourceError, Split, digests
from stages.datasets.cifar10 import ARCHIVE, BatchUnpickler

MIRROR = os.environ.get("TINYROBUST_DATA_MIRROR", "")
IMAGES = {
    "train": np.random.default_rng(1).integers(0, 256, (20, 3, 32, 32), np.uint8),
    "test": np.random.default_rng(2).integers(0, 256, (10, 3, 32, 32), np.uint8),
}
LABELS = {name: np.arange(len(images))[::-1] % 10 for name, images in IMAGES.items()}
NAMES = {name: [f"thing_s_{number:06d}.png" for number in range(len(images))] for name, images in IMAGES.items()}


def canonical(name):
    order = np.lexsort((NAMES[name], LABELS[name]))
    return Split(IMAGES[name][order], LABELS[name][order])


def python2_string(value):
    return b"T" + struct.pack("<i", len(value)) + value


def python2_integer(value):
    return b"J" + struct.pack("<i", value)


def python2_array(array):
    """What Python 2's cPickle.dumps(array, 2) makes of a uint8 matrix, memo opcodes left out."""
    kind = b"cnumpy\ndtype\n" + python2_string(b"u1") + b"K\x00K\x01\x87R"
    kind += b"(K\x03" + python2_string(b"|") + b"NNN" + python2_integer(-1) * 2 + b"K\x00tb"
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + python2_string(b"b") + b"\x87R"
    shape = python2_integer(array.shape[0]) + python2_integer(array.shape[1]) + b"\x86"
    return empty + b"(K\x01" + shape + kind + b"\x89" + python2_string(array.tobytes()) + b"tb"


def python2_batch(images, labels, names):
    entries = {
        b"batch_label": python2_string(b"a batch"),
        b"labels": b"](" + b"".join(python2_integer(label) for label in labels) + b"e",
        b"data": python2_array(images.reshape(len(images), -1)),
        b"filenames": b"](" + b"".join(python2_string(name.encode()) for name in names) + b"e",
    }
    return b"\x80\x02}(" + b"".join(python2_string(key) + value for key, value in entries.items()) + b"u."


def write_archive(path):
    with tarfile.open(path, "w:gz") as archive:
        for split, batches in cifar10.BATCHES.items():
            for number, name in enumerate(batches):
                rows = np.array_split(np.arange(len(IMAGES[split])), len(batches))[number]
                names = [NAMES[split][row] for row in rows]
                content = python2_batch(IMAGES[split][rows], LABELS[split][rows], names)
                member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A mirror's archive, and the checksums of what is in it."""
    (tmp_path / "cifar10").mkdir()
    path = write_archive(tmp_path / "cifar10" / ARCHIVE)
    monkeypatch.setattr(cifar10, "ARCHIVE_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(cifar10, "DIGESTS", {name: digests(canonical(name)) for name in IMAGES})
    return path


def assert_canonical(splits):
    assert list(splits) == ["train", "test"]
    for name, split in splits.items():
        assert (split.inputs == canonical(name).inputs).all()
        assert (split.labels == canonical(name).labels).all()


def test_batches_are_read_as_python_2_wrote_them():
    batch = BatchUnpickler(io.BytesIO(python2_batch(IMAGES["test"], LABELS["test"], NAMES["test"])), encoding="bytes")
    content = batch.load()
    assert content[b"data"].dtype == np.uint8
    assert (content[b"data"] == IMAGES["test"].reshape(10, 3072)).all()
    assert content[b"labels"] == LABELS["test"].tolist()
    assert content[b"filenames"][3] == b"thing_s_000003.png"


@pytest.mark.parametrize(
    "payload", [b"cposix\nsystem\n(U\x04trueRt.", b"c__builtin__\neval\n(U\x011tR.", b"cnumpy\nload\n."]
)
def test_batches_run_no_code(payload):
    with pytest.raises(pickle.UnpicklingError, match=r"the batch names .*, expected nothing but an array's parts"):
        BatchUnpickler(io.BytesIO(payload), encoding="bytes").load()


def test_archive_of_a_mirror(archive):
    assert_canonical(cifar10.load(archive.parents[1]))


def test_wrong_checksum(archive):
    archive.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(SourceError, match=f"^{archive}: the file has SHA-256 .*, expected {cifar10.ARCHIVE_SHA256}$"):
        cifar10.load(archive.parents[1])


def test_archive_with_other_images(archive, monkeypatch):
    monkeypatch.setattr(cifar10, "DIGESTS", cifar10.DIGESTS | {"test": cifar10.DIGESTS["train"]})
    with pytest.raises(SourceError, match=rf"^{archive} \(test\): the labels of its 10 images"):
        cifar10.load(archive.parents[1])


def test_mirror_without_cifar10(tmp_path):
    with pytest.raises(SourceError, match=f"^{tmp_path}/cifar10/train.parquet: no such file, expected"):
        cifar10.load(tmp_path)


def test_download(archive, publisher, monkeypatch):
    archive.rename(publisher.folder / ARCHIVE)
    monkeypatch.setattr(cifar10, "ARCHIVE_URL", f"{publisher.url}/{ARCHIVE}")
    assert_canonical(cifar10.load())


@pytest.mark.skipif(not MIRROR, reason="TINYROBUST_DATA_MIRROR names no folder with the real CIFAR-10")
def test_the_real_cifar10():
    splits = cifar10.load(Path(MIRROR))
    for name, split in splits.items():
        assert split.inputs.shape == (cifar10.COUNTS[name], *cifar10.INPUT_SHAPE)
        assert digests(split) == cifar10.DIGESTS[name]
    inputs = splits["train"].inputs
    mean = inputs.mean(axis=(0, 2, 3))
    assert tuple(np.round(mean) / 255) == cifar10.MEAN
    assert round(float(np.sqrt(inputs.var(axis=(0, 2, 3)).mean())) / 255, 3) == cifar10.STD
