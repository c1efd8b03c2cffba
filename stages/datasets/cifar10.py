"""CIFAR-10 (Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html), from a mirror or from its authors."""

import pickle
import tarfile
from pathlib import Path

import numpy as np

from stages.datasets.arrays import Split, canonical_split
from stages.datasets.parquet import read_split
from stages.datasets.sources import source_file

INPUT_SHAPE = (3, 32, 32)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
COUNTS = {"train": 50_000, "test": 10_000}
MEAN = (125 / 255, 123 / 255, 114 / 255)
STD = 0.251
DIGESTS = {
    "train": {
        "pixels": "61bea91e73ac2b02dfb856e685981dce64abe13d4e780aa98a1ac1e7c056d03b",
        "labels": "a29f2a5ffc141bb1c9e1af453e9a5ef8c316b2f675f8cea1d849d220d33a14fb",
    },
    "test": {
        "pixels": "52a9dc125982c0440d5eed87474b2f521e96c45a98df08e4329aa42c692b9d9d",
        "labels": "a054c239a40ee7f2a5745e7e4bc11a51e9cb40c98134b602c1068e6a207487c6",
    },
}

ARCHIVE = "cifar-10-python.tar.gz"
ARCHIVE_URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
# The authors publish the MD5 c58f30108f718f92721af3b95e74349a of the same file.
ARCHIVE_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
BATCHES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}


def load(mirror: Path | None = None) -> dict[str, Split]:
    """Reads all of CIFAR-10.

    Args:
        mirror: a folder that holds `cifar10/train.parquet` and `cifar10/test.parquet`, or the official archive as
            `cifar10/cifar-10-python.tar.gz`; without one, the archive is downloaded once into the user's cache folder.

    Returns:
        `train` (50,000) and `test` (10,000), in canonical order.

    Raises:
        SourceError: the source is missing, truncated, altered or mislabelled.
    """
    folder = mirror and mirror / "cifar10"
    if folder is None or (folder / ARCHIVE).is_file():
        return read_archive(source_file(ARCHIVE_URL, ARCHIVE_SHA256, folder))
    return {
        split: read_split(folder / f"{split}.parquet", "img", INPUT_SHAPE, CLASSES, DIGESTS[split]) for split in DIGESTS
    }


def read_archive(path: Path) -> dict[str, Split]:
    """Reads the official archive.

    Raises:
        SourceError: its arrays are not those of CIFAR-10.
    """
    with tarfile.open(path, "r:gz") as archive:
        return {
            split: canonical_split(*_read_batches(archive, BATCHES[split]), DIGESTS[split], f"{path} ({split})")
            for split in DIGESTS
        }


def _read_batches(archive: tarfile.TarFile, names: tuple[str, ...]) -> tuple[np.ndarray, list[int], list[str]]:
    batches = [
        BatchUnpickler(archive.extractfile(f"cifar-10-batches-py/{name}"), encoding="bytes").load() for name in names
    ]
    images = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, *INPUT_SHAPE).transpose(0, 2, 3, 1)
    labels = [label for batch in batches for label in batch[b"labels"]]
    file_names = [name.decode("ascii") for batch in batches for name in batch[b"filenames"]]
    return images, labels, file_names


class BatchUnpickler(pickle.Unpickler):
    """Reads a batch: a dictionary of bytes, lists and one uint8 array; a pickle that names anything else is refused.

    A plain `pickle.load` would run whatever code the file asks for.

    Raises:
        pickle.UnpicklingError: the pickle names something that no batch needs.
    """

    def find_class(self, module: str, name: str):
        if (module, name) not in ARRAY_PARTS:
            raise pickle.UnpicklingError(f"the batch names {module}.{name}, expected nothing but an array's parts")
        return ARRAY_PARTS[module, name]


def _empty_array(kind: type, shape: tuple[int, ...], typecode: bytes) -> np.ndarray:
    return np.empty(0, np.uint8)


def _dtype(code: bytes, align: int, copy: int) -> np.dtype:
    return np.dtype(code.decode("ascii"), copy=True)


# What a Python 2 pickle of an array names. The functions stand in for two of numpy's, of which one has moved since, and
# the other deprecates integers as its last arguments.
ARRAY_PARTS = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
}
