"""Datasets as canonical arrays: one order, one digest, and class-balanced selections that never change.

A split's canonical order is by (label, file name). Whatever container delivered the images, the same images give the
same arrays, and the two digests of `digests` prove it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stages.datasets.levels import LEVELS, SOUND_LEVELS, is_sound

# One stream per purpose, so that the samples of one are not those of another.
VALIDATION_SEED, CALIBRATION_SEED, EVALUATION_SEED = 0, 1, 2


class SourceError(ValueError):
    """A source of data that is missing, truncated, altered or mislabelled; the message names it in one sentence."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images, or clips of sound, and their classes.

    Attributes:
        inputs: uint8 `[N, C, H, W]`, pixel values 0 to 255; or int16 `[N, 1, 1, T]`, samples of sound around 0.
        labels: int64 `[N]`, indices into the dataset's classes.

    Raises:
        ValueError: a wrong dtype, number of dimensions or number of samples.
    """

    inputs: np.ndarray
    labels: np.ndarray

    def __post_init__(self):
        if self.inputs.ndim != 4 or self.inputs.dtype != (np.int16 if is_sound(self.inputs.shape[1:]) else np.uint8):
            expected = "uint8 [N, C, H, W], or int16 [N, 1, 1, T]"
            raise ValueError(f"inputs are {_described(self.inputs)}, expected {expected}")
        if self.labels.dtype != np.int64 or self.labels.shape != self.inputs.shape[:1]:
            raise ValueError(f"labels are {_described(self.labels)}, expected int64 [{len(self.inputs)}]")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "Split":
        """The samples at `indices` int64 `[M]`, in that order, as a split of its own."""
        return Split(self.inputs[indices], self.labels[indices])


@dataclass(frozen=True, eq=False)
class Dataset:
    """All that later stages know of a dataset; every split is in canonical order.

    Attributes:
        name: the dataset's name, `cifar10`.
        input_shape: `(C, H, W)`.
        classes: the classes' names; a label is an index into them.
        mean: per channel, of inputs in [0, 1]; of sound, of what the network makes of it first, its features.
        std: of all channels together, of the same.
        train, val, test: disjoint splits; `val` is drawn from the source's training images.
        calibration: int64 `[M]`, indices into `train`, class-interleaved.

    Raises:
        ValueError: a split, a label or a calibration index that does not fit the rest.
    """

    name: str
    input_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: float
    train: Split
    val: Split
    test: Split
    calibration: np.ndarray

    def __post_init__(self):
        for name, split in self.splits.items():
            if split.inputs.shape[1:] != self.input_shape:
                raise ValueError(
                    f"{name} inputs are {_described(split.inputs)}, expected {list(self.input_shape)} each"
                )
            _check_range(f"{name} labels", split.labels, len(self.classes))
        if self.calibration.dtype != np.int64 or self.calibration.ndim != 1:
            raise ValueError(f"calibration is {_described(self.calibration)}, expected int64 [M]")
        _check_range("calibration indices", self.calibration, len(self.train))
        if len(self.mean) != self.input_shape[0]:
            raise ValueError(
                f"mean has {len(self.mean)} values, expected one for each of {self.input_shape[0]} channels"
            )

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name."""
        return {"train": self.train, "val": self.val, "test": self.test}


def fractions(inputs: np.ndarray, dtype: type = np.float64) -> np.ndarray:
    """A split's inputs `[N, C, H, W]` in [0, 1]; the samples of sound are 0 in the middle, at 32768/65535."""
    if inputs.dtype == np.int16:
        return (inputs.astype(dtype) + dtype(2**15)) / dtype(SOUND_LEVELS)
    return inputs / dtype(LEVELS)


def canonical_split(
    images: np.ndarray, labels: Sequence[int], file_names: Sequence[str], expected: dict[str, str], source: str
) -> Split:
    """Sorts a split by (label, file name) and proves that it is the expected one.

    Args:
        images: uint8 `[N, H, W, C]`, or int16 of sound.
        labels: `N` integers.
        file_names: `N` names, unique within a class.
        expected: the split's digests, as `digests` gives them.
        source: what an error names, a file as a rule.

    Raises:
        SourceError: a digest differs.
    """
    labels = np.asarray(labels, np.int64)
    order = np.lexsort((np.asarray(file_names), labels))
    split = Split(np.ascontiguousarray(images[order].transpose(0, 3, 1, 2)), labels[order])
    found = digests(split)
    what = "clips" if images.dtype == np.int16 else "images"
    # Labels first: a changed label moves its image too, so that both digests differ.
    for part in reversed(found):
        if found[part] != expected[part]:
            raise SourceError(
                f"{source}: the {part} of its {len(split)} {what}, sorted by label and file name, have SHA-256 "
                f"{found[part]}, expected {expected[part]}"
            )
    return split


def digests(split: Split) -> dict[str, str]:
    """SHA-256 of a split in its own order: `pixels` uint8 `[N, H, W, C]`, and `labels` as one byte each.

    Of sound, `samples` in the place of `pixels`: int16, the low byte first.
    """
    values = np.ascontiguousarray(split.inputs.transpose(0, 2, 3, 1))
    sound = values.dtype == np.int16
    return {
        "samples" if sound else "pixels": hashlib.sha256(values.astype("<i2") if sound else values).hexdigest(),
        "labels": hashlib.sha256(split.labels.astype(np.uint8)).hexdigest(),
    }


def balanced_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """A shuffle of all samples in which the classes take turns.

    Within any prefix, the counts of two classes differ by at most one until one of them is used up; a used-up class is
    skipped from then on.

    Args:
        labels: int64 `[N]`.
        seed: of the shuffle.

    Returns:
        int64 `[N]`, every index of `labels` once.
    """
    # The raw stream, since numpy keeps a bit generator's stream across versions and platforms but not its permutations.
    shuffled = np.argsort(np.random.PCG64(seed).random_raw(len(labels)), kind="stable")
    classes = labels[shuffled]
    turn = np.empty_like(shuffled)
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        turn[members] = np.arange(len(members))
    return shuffled[np.lexsort((classes, turn))]


def evaluation_samples(labels: np.ndarray, count: int) -> np.ndarray:
    """The test samples that are attacked: class-balanced to within one, and those of a smaller count come first.

    Args:
        labels: int64 `[N]`, of the test split.
        count: how many, 1 to N.

    Returns:
        int64 `[count]`, indices into the split, class-interleaved.

    Raises:
        ValueError: an impossible count.
    """
    if not 1 <= count <= len(labels):
        raise ValueError(f"evaluation.samples is {count}, expected 1 to {len(labels)}, the number of test images")
    return balanced_order(labels, EVALUATION_SEED)[:count]


def calibration_samples(labels: np.ndarray, count: int) -> np.ndarray:
    """As `evaluation_samples`, for calibration: indices into the train split whose labels are given."""
    if not 1 <= count <= len(labels):
        raise ValueError(f"data.calibration is {count}, expected 1 to {len(labels)}, the number of training images")
    return balanced_order(labels, CALIBRATION_SEED)[:count]


def balanced_part(source: Split, count: int) -> Split:
    """As many samples of a source's own validation split, class-balanced to within one, in canonical order.

    Raises:
        ValueError: an impossible count.
    """
    classes = len(np.unique(source.labels))
    if not classes <= count <= len(source):
        raise ValueError(
            f"data.validation is {count}, expected {classes} to {len(source)}, the number of validation samples"
        )
    return source.take(np.sort(balanced_order(source.labels, VALIDATION_SEED)[:count]))


def split_validation(source: Split, count: int) -> tuple[Split, Split]:
    """Divides a source's training images into train and val, both in canonical order.

    Args:
        source: all training images, in canonical order.
        count: the size of val, class-balanced to within one.

    Returns:
        train, val.

    Raises:
        ValueError: a count that leaves train or val without some class.
    """
    order = balanced_order(source.labels, VALIDATION_SEED)
    num_classes = len(np.unique(source.labels))
    val, train = np.split(order, [count]) if count >= 0 else (order[:0], order)
    if any(len(np.unique(source.labels[part])) < num_classes for part in (val, train)):
        raise ValueError(
            f"data.validation is {count}, expected a number of the {len(source)} training images that leaves each of "
            f"the {num_classes} classes both in train and in val"
        )
    return source.take(np.sort(train)), source.take(np.sort(val))


def _check_range(what: str, values: np.ndarray, limit: int) -> None:
    outside = values[(values < 0) | (values >= limit)]
    if outside.size:
        raise ValueError(f"{what} contain {outside[0]}, expected 0 to {limit - 1}")


def _described(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"
