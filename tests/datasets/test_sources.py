import hashlib

import pytest

from stages.datasets.arrays import SourceError
from stages.datasets.sources import source_file

CONTENT = b"all images"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def test_file_of_a_folder(tmp_path):
    (tmp_path / "images.mat").write_bytes(CONTENT)
    assert source_file("http://nowhere.invalid/images.mat", SHA256, tmp_path) == tmp_path / "images.mat"


def test_file_of_a_folder_with_wrong_checksum(tmp_path):
    (tmp_path / "images.mat").write_bytes(CONTENT[:-1])
    with pytest.raises(SourceError, match=f"^{tmp_path}/images.mat: the file has SHA-256 .*, expected {SHA256}$"):
        source_file("http://nowhere.invalid/images.mat", SHA256, tmp_path)


def test_folder_without_the_file_is_not_helped_by_a_download(tmp_path, publisher):
    (publisher.folder / "images.mat").write_bytes(CONTENT)
    with pytest.raises(SourceError, match=f"^{tmp_path}/images.mat: no such file, expected that of {publisher.url}"):
        source_file(f"{publisher.url}/images.mat", SHA256, tmp_path)


def test_download_once(publisher):
    published = publisher.folder / "images.mat"
    published.write_bytes(CONTENT)
    assert source_file(f"{publisher.url}/images.mat", SHA256).read_bytes() == CONTENT
    published.unlink()
    assert source_file(f"{publisher.url}/images.mat", SHA256) == publisher.cache / "images.mat"


def test_damaged_download_is_replaced(publisher):
    (publisher.folder / "images.mat").write_bytes(CONTENT)
    source_file(f"{publisher.url}/images.mat", SHA256).write_bytes(b"damaged")
    assert source_file(f"{publisher.url}/images.mat", SHA256).read_bytes() == CONTENT


def test_download_with_wrong_checksum_leaves_nothing(publisher):
    (publisher.folder / "images.mat").write_bytes(b"a captive portal's login page")
    with pytest.raises(SourceError, match=rf"^{publisher.url}/images.mat: not downloaded .*{SHA256}"):
        source_file(f"{publisher.url}/images.mat", SHA256)
    assert not list(publisher.cache.iterdir())


def test_failed_download_leaves_nothing(publisher):
    with pytest.raises(SourceError, match=r"not downloaded \(404 .*or a folder that has it in data.mirror$"):
        source_file(f"{publisher.url}/images.mat", SHA256)
    assert not list(publisher.cache.iterdir())
