"""A DVC remote, read on demand: the records and contents that `dvc push --run-cache` left there.

DVC's own settings (.dvc/config.local with its credentials included) and file systems are used, so that every kind of
remote that DVC knows works. Trouble with a remote is told and never raised: what it does not give is computed.
"""

import os
import shutil
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from stages.ledger.runcache import settings

Answer = TypeVar("Answer")

PATIENCE = 3  # troubles after which a remote is not asked again
GIVEN_UP = "LEDGER_REMOTES_GIVEN_UP"  # names them, a line each, to processes started from this one: they ask nothing
SILENCE = 60.0  # seconds without an answer, or without another byte of a download, after which it is not asked again
MODIFIED = ("mtime", "LastModified", "last_modified", "modified")  # names of one thing in the remotes' listings


class RemoteError(Exception):
    """Why a remote is not asked any more."""


class Remote:
    """The run-cache and the contents of one remote. DVC is imported when the first question is asked."""

    def __init__(self, root: Path, name: str) -> None:
        """
        Args:
            root: the repository, a folder with `.dvc` in it.
            name: of a remote in its DVC settings.
        """
        self.root = root
        self.name = name
        self._troubles = PATIENCE if name in _given_up() else 0
        self._listed: dict[str, dict[str, dict[str, Any]]] = {}  # by folder, then by name: what a listing tells

    @property
    def given_up(self) -> bool:
        """Whether it is in such trouble that it is not asked any more."""
        return self._troubles >= PATIENCE

    def records(self, key: str) -> list[tuple[str, bytes]]:
        """The file names and contents of the records of a key, the newest first where the remote tells times."""
        return self._ask(lambda: self._records(key), [])

    def holds(self, md5: str) -> bool:
        """Whether the content with that MD5 is there."""
        return self._ask(lambda: md5[2:] in self._list(f"files/md5/{md5[:2]}"), False)

    def fetch(self, md5: str, path: Path) -> bool:
        """Download a content, without checking it; whether it came. Otherwise there is no file at `path`."""
        # A download that was given up may still go on: it must not write where a job writes by then.
        arriving = path.with_name(f"{path.name}.fetched")
        remote_path = f"files/md5/{md5[:2]}/{md5[2:]}"
        try:
            came = self._ask(lambda: self._download(remote_path, arriving), False, lambda: _size(arriving))
            if came:
                os.replace(arriving, path)
            return came
        finally:
            arriving.unlink(missing_ok=True)

    def _records(self, key: str) -> list[tuple[str, bytes]]:
        prefix = f"runs/{key[:2]}"
        if key not in self._list(prefix):  # one listing for all keys of a prefix, most of which may not be there
            return []
        files = self._list(f"{prefix}/{key}")
        newest_first = sorted(files, key=lambda name: (-_modified(files[name]), name))
        return [(name, self._files.cat_file(self._path(f"{prefix}/{key}/{name}"))) for name in newest_first]

    def _download(self, remote_path: str, path: Path) -> bool:
        self._files.get_file(self._path(remote_path), str(path))
        return True

    def _list(self, folder: str) -> dict[str, dict[str, Any]]:
        if folder not in self._listed:
            listed = []
            with suppress(FileNotFoundError):
                listed = self._files.ls(self._path(folder), detail=True)
            self._listed[folder] = {os.path.basename(info["name"].rstrip("/")): info for info in listed}
        return self._listed[folder]

    def _path(self, relative: str) -> str:
        return self._files.join(self._opened[1], relative)

    @property
    def _files(self) -> Any:
        return self._opened[0]

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """DVC's file system of the remote, connected, and the remote's path in it."""
        try:
            files, path = self._configured()
            there = files.exists(path)
        except RemoteError:
            raise
        except Exception as error:  # each kind of remote has its own
            raise RemoteError(_reason(error)) from error
        if not there:
            where = files.unstrip_protocol(path)
            raise RemoteError(f"nothing is at {where}, expected what `dvc push --run-cache` puts there")
        return files, path

    def _configured(self) -> tuple[Any, str]:
        if folder := _plain_folder(self.root, self.name):
            return _Folder(), folder
        from dvc.config import Config
        from dvc.fs import get_cloud_fs

        config = Config(str(self.root / ".dvc"))
        if self.name.lower() not in config["remote"]:
            known = ", ".join(sorted(config["remote"])) or "one that `dvc remote add` added"
            raise RemoteError(f"DVC's settings name no such remote, expected one of: {known}")
        kind, settings, path = get_cloud_fs(config, name=self.name)
        if kind.protocol in ("http", "https") or settings.get("version_aware") or settings.get("worktree"):
            raise RemoteError("DVC keeps no run-cache in remotes over HTTP and in versioned ones, expected another")
        return kind(**settings), path

    def _ask(self, question: Callable[[], Answer], otherwise: Answer, progress: Callable[[], Any] = int) -> Answer:
        """The answer, or `otherwise` where the remote lacks what it is about or is in trouble."""
        if self.given_up:
            return otherwise
        try:
            return _answer(question, progress)
        except FileNotFoundError:
            pass
        except RemoteError as error:
            self._give_up()
            self._tell(f"is not asked in this run: {error}")
        except Exception as error:  # each kind of remote has its own
            self._troubles += 1
            self._tell(f"is in trouble: {_reason(error)}")
            if self.given_up:
                self._give_up()
                self._tell(f"is not asked again in this run, after {PATIENCE} troubles")
        return otherwise

    def _give_up(self) -> None:
        self._troubles = PATIENCE
        os.environ[GIVEN_UP] = "\n".join({*_given_up(), self.name})

    def _tell(self, sentence: str) -> None:
        print(f"remote {self.name!r} {sentence}.", file=sys.stderr)


class _Folder:
    """What is asked of DVC's file systems, for a folder of this machine: DVC's imports take longer than all of it."""

    exists = staticmethod(os.path.exists)
    join = staticmethod(os.path.join)
    get_file = staticmethod(shutil.copyfile)

    def ls(self, path: str, detail: bool) -> list[dict[str, Any]]:
        return [{"name": entry.path, "mtime": entry.stat().st_mtime} for entry in os.scandir(path)]

    def cat_file(self, path: str) -> bytes:
        return Path(path).read_bytes()

    def unstrip_protocol(self, path: str) -> str:
        return path


def _plain_folder(root: Path, name: str) -> str | None:
    """Where a remote lies that is a folder of this machine, with no settings but its url; None of any other."""
    found = list(settings(root, f'remote "{name.lower()}"'))
    if not found or any(set(section) != {"url"} for _, section in found):
        return None
    config, section = found[0]
    url = section["url"]
    return None if "://" in url else os.path.normpath(config.parent / Path(url).expanduser())


def _answer(question: Callable[[], Answer], progress: Callable[[], Any]) -> Answer:
    """The answer to a question that is asked in a thread, since the remotes' own limits are minutes, or there are none.

    Raises:
        RemoteError: for a time nothing came, and `progress` gave the same value all the while.
    """
    outcomes: SimpleQueue = SimpleQueue()

    def ask() -> None:
        try:
            outcomes.put((question(), None))
        except BaseException as error:
            outcomes.put((None, error))

    threading.Thread(target=ask, daemon=True).start()
    reached = progress()
    while True:
        try:
            answer, error = outcomes.get(timeout=SILENCE)
        except Empty:
            before, reached = reached, progress()
            if before == reached:
                raise RemoteError(f"no answer for {SILENCE:g} seconds") from None
        else:
            if error:
                raise error
            return answer


def _given_up() -> set[str]:
    return set(os.environ.get(GIVEN_UP, "").splitlines())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (
        FileNotFoundError
    ):  # not there yet, or for a moment not: DVC's local copy first tries a reflink, and removes it
        return 0


def _modified(info: dict[str, Any]) -> float:
    """When an entry of a listing was modified, in seconds since the epoch; 0 where the remote does not tell."""
    time = next((info[name] for name in MODIFIED if name in info), 0)
    return time.timestamp() if hasattr(time, "timestamp") else float(time)


def _reason(error: BaseException) -> str:
    """An error in one line, with its kind, which often says more."""
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
