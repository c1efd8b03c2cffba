"""Visual Wake Words (Chowdhery et al. 2019, https://arxiv.org/abs/1906.05721): is there a person in the image?

The archive is that of MLPerf Tiny (Banbury et al. 2021, https://arxiv.org/abs/2106.07597): 109,619 images of COCO 2014,
resized to 96 x 96. It has no test set (MLPerf Tiny trains on nine tenths and validates on the rest), so its images are
dealt out by the SHA-256 of their file names: in that order, of each class, the first `COUNTS["test"] / 2` are test and
the next `COUNTS["train"] / 2` are train.

The rest is left out: a job holds its dataset twice while loading it, and these 24,000 images (664 MB) are about what
2 GB have room for. A larger train count adds images and leaves test as it is.
"""

import hashlib
import tarfile
from pathlib import Path, PurePosixPath

import numpy as np

from stages.datasets.arrays import SourceError, Split
from stages.datasets.images import decode_image
from stages.datasets.sources import source_file

INPUT_SHAPE = (3, 96, 96)
CLASSES = ("non_person", "person")
COUNTS = {"train": 20_000, "test": 4_000}
# COCO's published mean (0.471, 0.448, 0.408), and a rounded deviation: they scale inputs, and need not be exact.
MEAN = (120 / 255, 114 / 255, 104 / 255)
STD = 0.27

ARCHIVE = "vw_coco2014_96.tar.gz"
ARCHIVE_URL = f"https://www.silabs.com/public/files/github/machine_learning/benchmarks/datasets/{ARCHIVE}"
ARCHIVE_SHA256 = "f8746b9e44f8a7a4293f73be9ba6e8da9239fe69798d42364aae62b915cfab58"


def load(mirror: Path | None = None) -> dict[str, Split]:
    """Reads a class-balanced part of the archive.

    Args:
        mirror: a folder that holds `vww/vw_coco2014_96.tar.gz`; without one, it is downloaded once into the user's
            cache folder.

    Returns:
        `train` (20,000) and `test` (4,000), in canonical order.

    Raises:
        SourceError: the archive is missing, cannot be downloaded, has another checksum or too few images.
    """
    return read_archive(source_file(ARCHIVE_URL, ARCHIVE_SHA256, mirror and mirror / "vww"))


def read_archive(path: Path) -> dict[str, Split]:
    """Reads the images `<any folder>/<class>/<file name>.jpg` that COUNTS asks for.

    Raises:
        SourceError: too few images of a class, or an image of another size.
    """
    splits = {
        split: Split(np.empty((count, *INPUT_SHAPE), np.uint8), np.repeat(np.arange(len(CLASSES)), per_class(split)))
        for split, count in COUNTS.items()
    }
    with tarfile.open(path, "r:gz") as archive:
        members = {PurePosixPath(member.name): member for member in archive.getmembers() if member.isfile()}
        places = _places(list(members), path)
        # In the archive's order, since going back in it means to decompress it from its start.
        for file in filter(places.__contains__, members):
            split, row = places[file]
            data = archive.extractfile(members[file]).read()
            splits[split].inputs[row] = decode_image(data, INPUT_SHAPE, f"{path}: {file}").transpose(2, 0, 1)
    return splits


def per_class(split: str) -> int:
    """How many images of each class are in a split."""
    return COUNTS[split] // len(CLASSES)


def _places(files: list[PurePosixPath], source: Path) -> dict[PurePosixPath, tuple[str, int]]:
    """The split of each chosen file and its row there, which is its rank by (label, file name)."""
    places = {}
    for label, name in enumerate(CLASSES):
        found = sorted((file for file in files if _is_image(file, name)), key=_digest)
        needed = sum(per_class(split) for split in COUNTS)
        if len(found) < needed:
            raise SourceError(f"{source}: {len(found)} images in the folder '{name}', expected at least {needed}")
        start = 0
        for split in ("test", "train"):
            chosen = sorted(found[start : start + per_class(split)], key=lambda file: file.name)
            places |= {file: (split, label * per_class(split) + rank) for rank, file in enumerate(chosen)}
            start += per_class(split)
    return places


def _is_image(file: PurePosixPath, class_name: str) -> bool:
    return file.parent.name == class_name and file.suffix == ".jpg" and not file.name.startswith(".")


def _digest(file: PurePosixPath) -> bytes:
    return hashlib.sha256(file.name.encode()).digest()
