"""A DVC remote in a local folder, and in each kind of trouble. Servers are in tests/workflow/test_remotes.py."""

import hashlib
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stages.ledger import remote as module
from stages.ledger.remote import Remote, RemoteError

KEY = "ab" * 32
ASK = "is not asked in this run"


class Store:
    """A repository with a remote in a folder, laid out as `dvc push --run-cache` does."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "repository"
        self.folder = folder / "store"
        (self.root / ".dvc").mkdir(parents=True)
        self.folder.mkdir()
        self.configure("store", url=self.folder)

    def configure(self, name: str, file: str = "config", **settings: object) -> Remote:
        lines = [f"['remote \"{name}\"']", *(f"    {key} = {value}" for key, value in settings.items())]
        with open(self.root / ".dvc" / file, "a") as config:
            config.write("\n".join(lines) + "\n")
        return self.remote(name)

    def remote(self, name: str = "store") -> Remote:
        return Remote(self.root, name)

    def add_record(self, name: str, content: bytes, time: int, key: str = KEY) -> None:
        path = self.folder / "runs" / key[:2] / key / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (time, time))

    def add_content(self, content: bytes) -> str:
        digest = hashlib.md5(content).hexdigest()
        path = self.folder / "files/md5" / digest[:2] / digest[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return digest


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("DVC_SYSTEM_CONFIG_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv(module.GIVEN_UP, "")  # so that it is as before after the test
    return Store(tmp_path)


@pytest.fixture
def troubles(capsys):
    """What was told since this was last asked, one sentence an item."""
    return lambda: capsys.readouterr().err.splitlines()


def ask_all(remote: Remote, path: Path) -> list:
    return [remote.records(KEY), remote.holds("c" * 32), remote.fetch("c" * 32, path)]


def test_records_come_newest_first(store, troubles):
    for name, time in (("b", 2000), ("c", 3000), ("a", 1000)):
        store.add_record(name, name.encode() * 3, time)
    store.add_record("other", b"of another key", 4000, key="ab" + "cd" * 31)
    remote = store.remote()
    assert remote.records(KEY) == [("c", b"ccc"), ("b", b"bbb"), ("a", b"aaa")]
    assert remote.records("ab" + "00" * 31) == remote.records("cd" * 32) == []
    assert troubles() == []


def test_contents_are_fetched_as_they_are(store, troubles, tmp_path):
    digest, damaged = store.add_content(b"result"), store.add_content(b"whole")
    (store.folder / "files/md5" / damaged[:2] / damaged[2:]).write_bytes(b"half")
    remote, path = store.remote(), tmp_path / "partial"
    assert remote.holds(digest)
    assert remote.fetch(digest, path)
    assert path.read_bytes() == b"result"
    assert remote.fetch(damaged, path)
    assert path.read_bytes() == b"half"
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["partial"]
    assert troubles() == []


def test_what_is_missing_is_no_trouble(store, troubles, tmp_path):
    remote = store.remote()
    for _ in range(2):  # an empty remote, then one with other things in it
        assert ask_all(remote, tmp_path / "partial") == [[], False, False]
        assert not (tmp_path / "partial").exists()
        store.add_content(b"other")
        store.add_record("other", b"other", 1000, key="cd" * 32)
    assert not remote.given_up
    assert troubles() == []


def test_settings_outside_git_count(store, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    store.folder.rename(elsewhere)
    store.folder = elsewhere
    store.configure("store", "config.local", url="../../elsewhere")  # from the settings' own folder
    assert store.remote().holds(store.add_content(b"result"))


def test_a_prefix_is_listed_once_and_only_if_it_is_asked_for(store, monkeypatch):
    digests = [store.add_content(bytes([number])) for number in range(40)]
    keys = [hashlib.sha256(bytes([number])).hexdigest() for number in range(40)]
    for key in keys:
        store.add_record("record", b"", 1000, key)

    remote, listed = store.remote(), []
    files, path = remote._opened
    listing = files.ls
    monkeypatch.setattr(files, "ls", lambda folder, **options: listed.append(folder) or listing(folder, **options))
    for _ in range(3):
        assert all(map(remote.holds, digests))
    assert sorted(listed) == sorted(f"{path}/files/md5/{prefix}" for prefix in {digest[:2] for digest in digests})

    listed.clear()
    assert remote.records(keys[0])
    assert listed == [f"{path}/runs/{keys[0][:2]}", f"{path}/runs/{keys[0][:2]}/{keys[0]}"]


@pytest.mark.parametrize(
    "name, settings, reason",
    [
        ("stoer", None, "DVC's settings name no such remote, expected one of: store"),
        ("gone", {"url": "/not/there"}, "nothing is at /not/there, expected what `dvc push --run-cache` puts there"),
        ("web", {"url": "https://example.org/store"}, "DVC keeps no run-cache in remotes over HTTP and in versioned"),
        ("versions", {"url": "s3://bucket/x", "version_aware": "true"}, "DVC keeps no run-cache in remotes over HTTP"),
        ("bucket", {"url": "gs://bucket/x"}, "ImportError: gs is supported, but requires 'dvc-gs' to be installed"),
        (
            "typo",
            {"url": "ssh://localhost/x", "keyfil": "key"},
            "ConfigError: config file error: extra keys not allowed",
        ),
        ("closed", {"url": "ssh://127.0.0.1:1/x"}, "ConnectionRefusedError: "),
    ],
)
def test_a_remote_that_cannot_be_opened_is_told_once(store, troubles, tmp_path, monkeypatch, name, settings, reason):
    monkeypatch.setitem(sys.modules, "dvc_gs", None)
    remote = store.configure(name, **settings) if settings else store.remote(name)
    assert ask_all(remote, tmp_path / "partial") == [[], False, False]
    assert remote.given_up
    assert store.remote(name).given_up  # so it is for processes that are started from now on
    assert store.remote("store").given_up == (name == "store")
    (sentence,) = troubles()
    assert sentence.startswith(f"remote '{name}' {ASK}: {reason}")
    assert sentence.endswith(".") and not sentence.endswith("..")


def test_without_any_remote_the_sentence_says_how_to_add_one(store, troubles):
    (store.root / ".dvc/config").unlink()
    assert store.remote().records(KEY) == []
    assert troubles()[0].endswith("expected one of: one that `dvc remote add` added.")


def test_after_three_troubles_it_is_not_asked_again(store, troubles):
    (store.folder / "runs").write_text("a file where a folder should be")
    digest = store.add_content(b"result")
    remote = store.remote()
    for number in range(1, 4):
        assert not remote.given_up
        assert remote.records(KEY) == []
        told = troubles()
        assert told[0].startswith("remote 'store' is in trouble: NotADirectoryError: ")
        assert len(told) == 1 + (number == 3)
    assert told[1] == "remote 'store' is not asked again in this run, after 3 troubles."
    assert not remote.holds(digest)
    assert not store.remote().holds(digest)
    assert troubles() == []


def test_a_failing_fetch_leaves_no_file(store, troubles, monkeypatch, tmp_path):
    remote, path = store.remote(), tmp_path / "partial"

    def fail(_, arriving, **options):
        Path(arriving).write_bytes(b"half of i")
        raise ConnectionResetError("connection\nreset.")

    monkeypatch.setattr(remote._files, "get_file", fail)
    assert not remote.fetch(store.add_content(b"half of it"), path)
    assert [file for file in tmp_path.iterdir() if file.is_file()] == []
    assert troubles() == ["remote 'store' is in trouble: ConnectionResetError: connection reset."]


def test_a_server_that_never_answers_is_given_up(store, troubles, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "SILENCE", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        remote = store.configure("mute", url=f"ssh://127.0.0.1:{server.getsockname()[1]}/x")
        assert ask_all(remote, tmp_path / "partial") == [[], False, False]
    assert troubles() == [f"remote 'mute' {ASK}: no answer for 0.1 seconds."]


def test_a_slow_answer_is_waited_for_as_long_as_it_goes_on(monkeypatch):
    monkeypatch.setattr(module, "SILENCE", 0.01)
    arrived, whole = [], threading.Event()

    def progress():
        arrived.append("byte")
        if len(arrived) == 5:
            whole.set()
        return len(arrived)

    assert module._answer(lambda: whole.wait(60) and "answer", progress) == "answer"
    with pytest.raises(RemoteError, match=r"^no answer for 0.01 seconds$"):
        module._answer(threading.Event().wait, lambda: "as before")


def test_dvc_is_not_imported_before_something_is_asked(store):
    program = "import sys; from stages.ledger.remote import Remote; Remote('.', 'x'); sys.exit('dvc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2]).returncode == 0


def test_a_folder_is_read_without_dvc(store):
    digest = store.add_content(b"result")
    program = (
        "import sys; from pathlib import Path; from stages.ledger.remote import Remote; root, digest = sys.argv[1:]; "
        "held = Remote(Path(root), 'store').holds(digest); sys.exit(not held or 'dvc' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(store.root), digest]
    assert subprocess.run(command, cwd=Path(__file__).parents[2]).returncode == 0


def test_a_download_whose_file_comes_and_goes_is_not_taken_for_missing(store, troubles, tmp_path, monkeypatch):
    """As DVC's local copy does it: a reflink that fails leaves nothing for a moment, as the size is looked at."""
    digest, stat = store.add_content(b"result"), Path.stat

    def gone(path, **options):
        if path.name.endswith(".fetched"):
            raise FileNotFoundError(path)
        return stat(path, **options)

    remote = store.remote()
    assert remote.holds(digest)
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    monkeypatch.setattr(Path, "stat", gone)
    assert remote.fetch(digest, tmp_path / "partial")
    assert (tmp_path / "partial").read_bytes() == b"result"
    assert troubles() == []
