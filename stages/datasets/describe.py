"""Writes the dataset module of an image folder: `python -m stages.datasets.describe FOLDER`, to standard output."""

import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from stages.datasets.arrays import SourceError, digests
from stages.datasets.image_folder import image_files, read_folder, visible
from stages.datasets.images import IMAGE_FORMATS, MODES

MODULE = '''"""The images of the folder `{name}`."""

from pathlib import Path

from stages.datasets.arrays import Split
from stages.datasets.image_folder import read_mirror

INPUT_SHAPE = {input_shape}
CLASSES = {classes}
COUNTS = {counts}
MEAN = {mean}
STD = {std}
DIGESTS = {digests}


def load(mirror: Path | None = None) -> dict[str, Split]:
    """Reads `{name}/train/<class>/*` and `{name}/test/<class>/*` of the mirror."""
    return read_mirror(mirror, "{name}", INPUT_SHAPE, CLASSES, COUNTS, DIGESTS)
'''


def describe(folder: Path) -> str:
    """The source of the module `<folder's name>.py` that reads exactly these images.

    Args:
        folder: with `train/<class>/*` and `test/<class>/*`; its classes are the folders of `train`, by name, and its
            input shape is that of the first image.

    Raises:
        SourceError: the folder's name is no module's, or as `read_folder`.
    """
    name = folder.resolve().name
    if not name.isidentifier() or name != name.lower():
        raise SourceError(f"{folder}: is named '{name}', expected lower-case letters, digits and underscores")
    classes = tuple(path.name for path in visible(folder / "train", "a folder with one folder a class"))
    if not classes:
        raise SourceError(f"{folder / 'train'}: is empty, expected one folder a class")
    input_shape = shape_of(image_files(folder / "train" / classes[0])[0])
    splits = read_folder(folder, input_shape, classes)
    mean, std = mean_and_std(splits["train"].inputs)
    return MODULE.format(
        name=name,
        input_shape=input_shape,
        classes=_tuple(map(_written, classes)),
        counts=_written({split: len(content) for split, content in splits.items()}),
        mean=_tuple(f"{level} / 255" for level in mean),
        std=std,
        digests=_written({split: digests(content) for split, content in splits.items()}, indent=4),
    )


def shape_of(path: Path) -> tuple[int, int, int]:
    """The `(C, H, W)` of an image file; SourceError where it is neither grey nor RGB."""
    try:
        with Image.open(io.BytesIO(path.read_bytes()), formats=IMAGE_FORMATS) as image:
            mode, (width, height) = image.mode, image.size
    except (OSError, SyntaxError, ValueError) as error:
        raise SourceError(f"{path}: the image cannot be read, expected JPEG, PNG or WebP") from error
    for channels, known in MODES.items():
        if mode == known:
            return channels, height, width
    raise SourceError(f"{path}: the image is {mode}, expected one of {', '.join(MODES.values())}")


def mean_and_std(inputs: np.ndarray) -> tuple[tuple[int, ...], float]:
    """What a dataset's MEAN and STD are made of.

    Args:
        inputs: uint8 `[N, C, H, W]`.

    Returns:
        The mean of each channel, rounded to whole levels; and, of inputs in [0, 1], the root of the channels' mean
        variance, to three digits.
    """
    counts = np.zeros((inputs.shape[1], 256))
    for image in inputs:  # all at once would need eight times their memory
        counts += [np.bincount(channel.ravel(), minlength=256) for channel in image]
    levels, shares = np.arange(256), counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ levels
    variance = shares @ levels**2 - mean**2
    return tuple(int(level) for level in np.round(mean)), round(float(np.sqrt(variance.mean())) / 255, 3)


def _written(value, **layout) -> str:
    """A literal with double quotes: what JSON writes is Python, too."""
    return json.dumps(value, ensure_ascii=False, **layout)


def _tuple(elements: Iterable[str]) -> str:
    written = list(elements)
    return f"({', '.join(written)}{',' if len(written) == 1 else ''})"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m stages.datasets.describe FOLDER")
    try:
        print(describe(Path(sys.argv[1])), end="")
    except (SourceError, OSError) as problem:
        sys.exit(f"error: {problem}")
