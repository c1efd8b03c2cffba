import hashlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.datasets import vww
from stages.datasets.arrays import SourceError

MIRROR = Path(os.environ.get("TINYROBUST_DATA_MIRROR", ""))
FILES = {
    class_name: [f"COCO_train2014_{number:012d}.jpg" for number in range(first, first + 12)]
    for class_name, first in (("person", 100), ("non_person", 500))
}
COUNTS = {"train": 10, "test": 6}


def jpeg(name, size=(96, 96)):
    """An image of one colour, which says what file it is and survives the compression."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (level(name),) * 3).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def level(name):
    return int(name[-7:-4]) % 100 * 2 + 50 * (name > "COCO_train2014_000000000300")


def write_archive(path, files):
    """An archive laid out like the official one, of the given {path: content}."""
    with tarfile.open(path, "w:gz") as archive:
        folder = tarfile.TarInfo("vw_coco2014_96/person")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in files.items():
            member = tarfile.TarInfo(f"vw_coco2014_96/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def files():
    """The content of an archive, in no order; macOS adds `._` files of its own."""
    images = {f"{folder}/{name}": jpeg(name) for folder, names in FILES.items() for name in names}
    return dict(sorted(images.items(), key=lambda item: item[0][-5])) | {"person/._COCO_train2014_9.jpg": b"no image"}


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Packs {path: content} into a mirror's archive and loads it; `load.path` is where the archive lies."""
    path = tmp_path / "vww" / vww.ARCHIVE
    path.parent.mkdir()

    def pack_and_load(files):
        write_archive(path, files)
        monkeypatch.setattr(vww, "ARCHIVE_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
        return vww.load(tmp_path)

    monkeypatch.setattr(vww, "COUNTS", COUNTS)
    pack_and_load.path = path
    return pack_and_load


def expected(split, class_name, test_count):
    """Names by digest: the first are test, those after them train."""
    names = sorted(FILES[class_name], key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return sorted(names[:test_count] if split == "test" else names[test_count : test_count + 5])


def test_images_are_dealt_out_by_the_digests_of_their_names_and_in_canonical_order(load, files):
    splits = load(files)
    assert list(splits) == ["train", "test"]
    for name, split in splits.items():
        per_class = COUNTS[name] // 2
        assert split.inputs.shape == (COUNTS[name], 3, 96, 96)
        assert split.labels.tolist() == [0] * per_class + [1] * per_class
        names = expected(name, "non_person", 3) + expected(name, "person", 3)
        values = split.inputs.astype(int)
        wanted = np.array([level(file) for file in names])[:, None, None, None]
        assert np.abs(values - wanted).max() <= 1


def test_the_order_of_the_archive_does_not_matter(load, files):
    first, second = load(files), load(dict(reversed(files.items())))
    for name in COUNTS:
        assert (first[name].inputs == second[name].inputs).all()


def test_a_larger_train_count_leaves_test_as_it_is(load, files, monkeypatch):
    before = load(files)
    monkeypatch.setattr(vww, "COUNTS", COUNTS | {"train": 18})
    after = load(files)
    assert (after["test"].inputs == before["test"].inputs).all()
    rows = {image.tobytes() for image in after["train"].inputs}
    assert len(rows) == 18
    assert {image.tobytes() for image in before["train"].inputs} < rows


def test_download(load, files, publisher, monkeypatch):
    splits = load(files)
    load.path.rename(publisher.folder / vww.ARCHIVE)
    monkeypatch.setattr(vww, "ARCHIVE_URL", f"{publisher.url}/{vww.ARCHIVE}")
    assert (vww.load()["test"].inputs == splits["test"].inputs).all()


@pytest.mark.parametrize("class_name", vww.CLASSES)
def test_missing_class(load, files, class_name):
    others = {name: content for name, content in files.items() if not name.startswith(f"{class_name}/")}
    message = f"^{load.path}: 0 images in the folder '{class_name}', expected at least 8$"
    with pytest.raises(SourceError, match=message):
        load(others)


def test_too_few_images(load, files, monkeypatch):
    monkeypatch.setattr(vww, "COUNTS", COUNTS | {"train": 20})
    with pytest.raises(SourceError, match="12 images in the folder 'non_person', expected at least 13"):
        load(files)


def test_image_of_another_size(load, files):
    name = f"person/{expected('test', 'person', 3)[0]}"
    with pytest.raises(SourceError, match=f"^{load.path}: vw_coco2014_96/{name}: the image is RGB of 96 x 95"):
        load(files | {name: jpeg(name, (96, 95))})


def test_wrong_checksum(load, files, tmp_path):
    load(files)
    load.path.write_bytes(load.path.read_bytes()[:-1])
    with pytest.raises(SourceError, match=f"^{load.path}: the file has SHA-256 .*, expected {vww.ARCHIVE_SHA256}$"):
        vww.load(tmp_path)


@pytest.mark.skipif(
    not (MIRROR / "vww").is_dir(), reason="TINYROBUST_DATA_MIRROR names no folder with the Visual Wake Words archive"
)
def test_the_real_archive():
    for name, split in vww.load(MIRROR).items():
        assert np.bincount(split.labels).tolist() == [vww.COUNTS[name] // 2] * 2
