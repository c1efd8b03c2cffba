"""Images in folders, `<split>/<class>/*`: what anybody's own data looks like.

A dataset's module says which folder, size and classes it expects and calls `read_mirror`; `describe.py` writes such a
module. No image is ever resized or converted, so that what is measured is what was put there.
"""

import sys
from pathlib import Path

import numpy as np

from stages.datasets.arrays import SourceError, Split, digests
from stages.datasets.images import decode_image

SPLITS = ("train", "test")
SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")


def read_mirror(
    mirror: Path | None,
    name: str,
    input_shape: tuple[int, int, int],
    classes: tuple[str, ...],
    counts: dict[str, int] | None = None,
    expected: dict[str, dict[str, str]] | None = None,
) -> dict[str, Split]:
    """Reads the folder `name` of a mirror and proves that it holds the expected images.

    Args:
        mirror: the folder that holds it.
        name: the dataset's.
        input_shape, classes: as of `read_folder`.
        counts: how many images each split must have, if that is known.
        expected: the digests of each split, as `arrays.digests` gives them. Without them any images will do, and what
            they are is said on standard error.

    Returns:
        `train` and `test`, in canonical order.

    Raises:
        SourceError: there is no mirror, the images are others or more or fewer than expected, or as `read_folder`.
    """
    if mirror is None:
        raise SourceError(
            f"{name}: cannot be downloaded, expected a folder in data.mirror that holds {name}/train and {name}/test"
        )
    folder = mirror / name
    splits = read_folder(folder, input_shape, classes)
    for split, content in splits.items():
        if counts and len(content) != counts[split]:
            raise SourceError(f"{folder / split}: {len(content)} images, expected {counts[split]}")
    found = {split: digests(content) for split, content in splits.items()}
    if expected is None:
        print(f"{folder}: nothing proves that these are the images meant; their DIGESTS are {found}", file=sys.stderr)
        return splits
    for split in SPLITS:
        if found[split] != expected[split]:
            raise SourceError(
                f"{folder / split}: the images, sorted by label and file name, have the digests {found[split]}, "
                f"expected {expected[split]}"
            )
    return splits


def read_folder(folder: Path, input_shape: tuple[int, int, int], classes: tuple[str, ...]) -> dict[str, Split]:
    """Reads `train/<class>/*` and `test/<class>/*`; whatever else lies in the folder itself is left alone.

    Args:
        folder: whose `train` and `test` have one folder a class, with its JPEG, PNG or WebP images and nothing else but
            hidden files.
        input_shape: the `(C, H, W)` that every image must have.
        classes: the names of the class folders; a label is an index into them.

    Returns:
        `train` and `test`, in canonical order.

    Raises:
        SourceError: a folder that is missing, empty or of no class; a file that is no such image.
    """
    return {split: _read_split(folder / split, input_shape, classes) for split in SPLITS}


def image_files(folder: Path) -> list[Path]:
    """The images of a class, sorted by file name.

    Raises:
        SourceError: the folder is missing or empty, or holds something else.
    """
    files = visible(folder, "a folder with the images of a class")
    for path in files:
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            raise SourceError(f"{path}: is no image file, expected one of {', '.join(SUFFIXES)}")
    if not files:
        raise SourceError(f"{folder}: holds no images, expected those of a class")
    return files


def visible(folder: Path, expected: str) -> list[Path]:
    """What is in a folder, hidden files left out, sorted by name; SourceError where there is no such folder."""
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder, expected {expected}")
    return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: path.name)


def _read_split(folder: Path, input_shape: tuple[int, int, int], classes: tuple[str, ...]) -> Split:
    for path in visible(folder, "a folder with one folder a class"):
        if path.name not in classes:
            raise SourceError(f"{path}: is none of the classes, expected folders named {', '.join(classes)}")
    files = [(label, path) for label, name in enumerate(classes) for path in image_files(folder / name)]
    inputs = np.empty((len(files), *input_shape), np.uint8)
    for row, (_, path) in enumerate(files):
        inputs[row] = decode_image(path.read_bytes(), input_shape, str(path)).transpose(2, 0, 1)
    return Split(inputs, np.array([label for label, _ in files], np.int64))
