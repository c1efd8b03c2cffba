import os

import pytest

from stages.ledger.files import Digests, copy_whole, md5, partial, settle, write_whole


def test_md5_of_known_bytes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert md5(tmp_path / "abc") == "900150983cd24fb0d6963f7d28e17f72"


def test_partial_keeps_folder_and_suffix(tmp_path):
    written = partial(tmp_path / "net.safetensors")
    assert written.parent == tmp_path
    assert written.suffix == ".safetensors"
    assert written.name.startswith(".")


def test_write_whole_tells_whether_it_wrote(tmp_path):
    path = tmp_path / "new/file.txt"
    assert write_whole(path, "one")
    before = path.stat().st_mtime_ns
    assert not write_whole(path, "one")
    assert path.stat().st_mtime_ns == before
    assert write_whole(path, "two")
    assert path.read_text() == "two"


def test_a_failed_copy_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "source").write_text("new")
    (tmp_path / "target").write_text("old")

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        copy_whole(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


def test_settle_renames(tmp_path):
    (tmp_path / "a").write_text("x")
    settle(tmp_path / "a", tmp_path / "deep/b")
    assert not (tmp_path / "a").exists()
    assert (tmp_path / "deep/b").read_text() == "x"


def test_digests_follow_a_change_and_are_remembered(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("abc")
    digests = Digests(tmp_path / "memory.json")
    assert digests(file) == {"path": str(file), "hash": "md5", "md5": "900150983cd24fb0d6963f7d28e17f72", "size": 3}
    digests.remember()

    def fail(path):
        raise AssertionError(f"{path} is hashed again")

    with monkeypatch.context() as patched:
        patched.setattr("stages.ledger.files.md5", fail)
        assert Digests(tmp_path / "memory.json")(file) == digests(file)

    write_whole(file, "xyz")  # the same size
    assert Digests(tmp_path / "memory.json")(file)["md5"] == md5(file) == "d16fb36f0911f878998c136191af705e"
    assert digests(tmp_path / "missing") is None


def test_processes_that_remember_at_once_keep_both(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    one, other = Digests(tmp_path / "memory.json"), Digests(tmp_path / "memory.json")
    one(tmp_path / "a")
    other(tmp_path / "b")
    one.remember()
    other.remember()
    assert set(Digests(tmp_path / "memory.json")._known) == {str(tmp_path / "a"), str(tmp_path / "b")}
