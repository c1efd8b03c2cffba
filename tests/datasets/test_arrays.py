import hashlib

import numpy as np
import pytest

from stages.datasets.arrays import (
    Dataset,
    SourceError,
    Split,
    balanced_order,
    calibration_samples,
    canonical_split,
    digests,
    evaluation_samples,
    split_validation,
)


def split_of(labels, channels=1):
    """A split whose i-th image has the value i everywhere."""
    labels = np.asarray(labels, np.int64)
    values = np.arange(len(labels), dtype=np.uint8)
    return Split(np.tile(values[:, None, None, None], (1, channels, 2, 2)), labels)


def test_digests_are_of_pixels_in_nhwc_order_and_of_labels_as_bytes():
    red, green = [[1, 2], [3, 4]], [[5, 6], [7, 8]]
    split = Split(np.array([[red, green]], np.uint8), np.array([9]))
    assert digests(split) == {
        "pixels": hashlib.sha256(bytes([1, 5, 2, 6, 3, 7, 4, 8])).hexdigest(),
        "labels": hashlib.sha256(bytes([9])).hexdigest(),
    }


def test_canonical_order_is_by_label_then_file_name():
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    expected = {
        "pixels": hashlib.sha256(bytes([3, 1, 2, 0])).hexdigest(),
        "labels": hashlib.sha256(bytes([0, 0, 1, 1])).hexdigest(),
    }
    split = canonical_split(images, [1, 0, 1, 0], ["b_10.png", "b.png", "B.png", "a.png"], expected, "source")
    assert split.inputs.ravel().tolist() == [3, 1, 2, 0]
    assert split.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(("part", "labels", "value"), [("pixels", [0, 1], 1), ("labels", [0, 2], 0)])
def test_canonical_split_refuses_another_content(part, labels, value):
    expected = digests(Split(np.zeros((2, 1, 1, 1), np.uint8), np.array([0, 1])))
    images = np.full((2, 1, 1, 1), value, np.uint8)
    with pytest.raises(
        SourceError, match=f"^faulty.parquet: the {part} of its 2 images, .* expected {expected[part]}$"
    ):
        canonical_split(images, labels, ["a", "b"], expected, "faulty.parquet")


def test_the_order_of_a_source_does_not_matter():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 4, 5, 3), np.uint8)
    labels = rng.integers(0, 3, 30)
    names = [f"{number}.png" for number in range(30)]
    order = np.lexsort((names, labels))
    expected = digests(Split(images[order].transpose(0, 3, 1, 2), labels[order]))
    for _ in range(3):
        shuffle = rng.permutation(30)
        split = canonical_split(images[shuffle], labels[shuffle], [names[i] for i in shuffle], expected, "source")
        assert (split.inputs == images[order].transpose(0, 3, 1, 2)).all()


def test_classes_take_turns_and_a_used_up_class_is_skipped():
    labels = np.array([0, 0, 0, 1, 1, 2])
    order = balanced_order(labels, seed=5)
    assert labels[order].tolist() == [0, 1, 2, 0, 1, 0]
    assert sorted(order) == list(range(6))


def test_selections_are_the_same_everywhere():
    labels = np.repeat(np.arange(5), 8)
    assert evaluation_samples(labels, 10).tolist() == [7, 11, 19, 29, 35, 3, 8, 20, 28, 39]
    assert calibration_samples(labels, 10).tolist() == [2, 9, 16, 31, 36, 4, 14, 18, 28, 39]
    assert split_validation(split_of(labels), 5)[1].inputs[:, 0, 0, 0].tolist() == [3, 11, 20, 25, 32]


@pytest.mark.parametrize("select", [evaluation_samples, calibration_samples])
@pytest.mark.parametrize("count", [1, 9, 10, 23, 40])
def test_selections_are_balanced_and_smaller_ones_are_prefixes(select, count):
    labels = np.repeat(np.arange(10), 4)
    chosen = select(labels, count)
    counts = np.bincount(labels[chosen], minlength=10)
    assert len(set(chosen)) == count
    assert counts.max() - counts.min() <= 1
    assert (chosen == select(labels, 40)[:count]).all()


@pytest.mark.parametrize("select", [evaluation_samples, calibration_samples])
@pytest.mark.parametrize("count", [-1, 0, 41])
def test_impossible_selections_are_refused(select, count):
    with pytest.raises(ValueError, match=rf"^(evaluation.samples|data.calibration) is {count}, expected 1 to 40"):
        select(np.repeat(np.arange(10), 4), count)


@pytest.mark.parametrize("count", [3, 4, 10, 27])
def test_validation_is_balanced_disjoint_complete_and_in_order(count):
    source = split_of(np.repeat(np.arange(3), 10))
    train, val = split_validation(source, count)
    counts = np.bincount(val.labels)
    assert len(val) == count
    assert counts.max() - counts.min() <= 1
    assert sorted([*train.inputs[:, 0, 0, 0], *val.inputs[:, 0, 0, 0]]) == list(range(30))
    for part in (train, val):
        values = part.inputs[:, 0, 0, 0].astype(int)
        assert (np.diff(values) > 0).all()
        assert (part.labels == source.labels[values]).all()


@pytest.mark.parametrize("count", [-5, 0, 2, 28, 30, 31])
def test_validation_must_leave_every_class_in_both(count):
    with pytest.raises(ValueError, match=f"^data.validation is {count}, expected .* each of the 3 classes"):
        split_validation(split_of(np.repeat(np.arange(3), 10)), count)


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (np.zeros((2, 1, 1, 1), np.float32), np.zeros(2, np.int64), "inputs are float32"),
        (np.zeros((2, 1, 1), np.uint8), np.zeros(2, np.int64), r"inputs are uint8 \[2, 1, 1\]"),
        (np.zeros((2, 1, 1, 1), np.uint8), np.zeros(2, np.int32), "labels are int32"),
        (np.zeros((2, 1, 1, 1), np.uint8), np.zeros(3, np.int64), r"labels are int64 \[3\], expected int64 \[2\]"),
    ],
)
def test_a_split_has_uint8_images_and_an_int64_label_each(inputs, labels, message):
    with pytest.raises(ValueError, match=message):
        Split(inputs, labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_shape": (1, 2, 3)}, r"train inputs are uint8 \[4, 1, 2, 2\], expected \[1, 2, 3\] each"),
        ({"classes": ("a", "b", "c")}, "train labels contain 3, expected 0 to 2"),
        ({"calibration": np.array([0, 4])}, "calibration indices contain 4, expected 0 to 3"),
        ({"calibration": np.array([-1])}, "calibration indices contain -1"),
        ({"calibration": np.array([0.0])}, r"calibration is float64 \[1\]"),
        ({"mean": (0.5, 0.5)}, "mean has 2 values"),
    ],
)
def test_a_dataset_fits_together(change, message):
    split = split_of([0, 1, 2, 3])
    fields = {
        "name": "made_up",
        "input_shape": (1, 2, 2),
        "classes": ("a", "b", "c", "d"),
        "mean": (0.5,),
        "std": 0.25,
        "train": split,
        "val": split,
        "test": split,
        "calibration": np.array([3, 0]),
    }
    assert len(Dataset(**fields).calibration) == 2
    with pytest.raises(ValueError, match=message):
        Dataset(**fields | change)
