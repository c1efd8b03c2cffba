import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stages.datasets.arrays import SourceError, Split, digests
from stages.datasets.parquet import read_split

CLASSES = ("cat", "dog")
SHAPE = (3, 4, 5)
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), np.uint8)
LABELS = [1, 0, 1, 0, 1, 0]
NAMES = ["f.png", "e.png", "d.png", "c.png", "b.png", "a.png"]
CANONICAL = [5, 3, 1, 4, 2, 0]
EXPECTED = digests(Split(IMAGES[CANONICAL].transpose(0, 3, 1, 2), np.array(LABELS)[CANONICAL]))


def encode(image, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, lossless=True)
    return buffer.getvalue()


def rows(images=IMAGES, labels=LABELS, kind="PNG"):
    return [
        {"img": {"bytes": encode(image, kind), "path": name}, "label": label}
        for image, name, label in zip(images, NAMES, labels, strict=True)
    ]


def write(path, content):
    pq.write_table(pa.Table.from_pylist(content), path)
    return path


def read(path):
    return read_split(path, "img", SHAPE, CLASSES, EXPECTED)


def refusal(path):
    with pytest.raises(SourceError) as error:
        read(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "expected" in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_reads_the_canonical_arrays(tmp_path, kind):
    split = read(write(tmp_path / "train.parquet", rows(kind=kind)))
    assert (split.inputs == IMAGES[CANONICAL].transpose(0, 3, 1, 2)).all()
    assert split.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert split.inputs.flags.c_contiguous


def test_reads_grey_images(tmp_path):
    grey = IMAGES[..., 0]
    expected = digests(Split(grey[CANONICAL][:, None], np.array(LABELS)[CANONICAL]))
    path = write(tmp_path / "train.parquet", rows(grey))
    assert (read_split(path, "img", (1, 4, 5), CLASSES, expected).inputs[:, 0] == grey[CANONICAL]).all()


def test_missing_file(tmp_path):
    assert "no such file" in refusal(tmp_path / "train.parquet")


@pytest.mark.parametrize("kept", [0, 3, 100, -1])
def test_truncated_file(tmp_path, kept):
    path = write(tmp_path / "train.parquet", rows())
    path.write_bytes(path.read_bytes()[:kept])
    assert "truncated or not Parquet" in refusal(path)


def test_altered_pixel(tmp_path):
    altered = IMAGES.copy()
    altered[2, 1, 1, 1] ^= 1
    assert "the pixels of its 6 images" in refusal(write(tmp_path / "train.parquet", rows(altered)))


def test_altered_label(tmp_path):
    assert "the labels of its 6 images" in refusal(write(tmp_path / "train.parquet", rows(labels=[1, 0, 1, 0, 1, 1])))


def test_swapped_labels(tmp_path):
    assert "sorted by label" in refusal(write(tmp_path / "train.parquet", rows(labels=[0, 1, 1, 0, 1, 0])))


def test_missing_row(tmp_path):
    assert "of its 5 images" in refusal(write(tmp_path / "train.parquet", rows()[:-1]))


@pytest.mark.parametrize("label", [-1, 2])
def test_label_without_a_class(tmp_path, label):
    path = write(tmp_path / "train.parquet", rows(labels=[1, 0, label, 0, 1, 0]))
    assert f"row 2 has label {label}, expected 0 to 1" in refusal(path)


@pytest.mark.parametrize("column", ["img", "label"])
def test_missing_column(tmp_path, column):
    content = [{name: value for name, value in row.items() if name != column} for row in rows()]
    assert f"no column '{column}'" in refusal(write(tmp_path / "train.parquet", content))


def test_column_of_another_type(tmp_path):
    content = [row | {"label": str(row["label"])} for row in rows()]
    assert "column 'label' is string, expected int64" in refusal(write(tmp_path / "train.parquet", content))


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ({"label": None}, "label"),
        ({"img": None}, "img.bytes"),
        ({"img": {"bytes": None, "path": "a.png"}}, "img.bytes"),
        ({"img": {"bytes": encode(IMAGES[0]), "path": None}}, "img.path"),
    ],
)
def test_nulls(tmp_path, change, column):
    path = write(tmp_path / "train.parquet", [rows()[0] | change, *rows()[1:]])
    assert f"column '{column}' has 1 nulls, expected none" in refusal(path)


@pytest.mark.parametrize("data", [b"", b"no image", encode(IMAGES[0])[:60], encode(IMAGES[0])[:-40]])
def test_corrupt_image_bytes(tmp_path, data):
    content = rows()
    content[3]["img"]["bytes"] = data
    assert "row 3: the image cannot be decoded" in refusal(write(tmp_path / "train.parquet", content))
