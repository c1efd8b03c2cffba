"""Files that appear whole or not at all, and digests that are remembered between runs."""

import contextlib
import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

TOKEN = os.urandom(4).hex()  # process ids recur: in containers, on other nodes, after a restart


def md5(path: Path | str) -> str:
    """The hexadecimal MD5 digest of a file's bytes: how DVC names content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def partial(path: Path | str, folder: Path | None = None) -> Path:
    """The name under which this process writes `path` before it is whole; it keeps the suffix.

    By default it lies in the folder of `path`, so that the final rename is atomic.
    """
    path = Path(path)
    return (folder or path.parent) / f".{os.getpid()}-{TOKEN}-{path.name}"


def describe(path: Path | str) -> dict[str, str | int]:
    """DVC's description of a file: `path`, `hash`, `md5`, `size` in bytes; FileNotFoundError where there is none."""
    return {"path": str(path), "hash": "md5", "md5": md5(path), "size": os.stat(path).st_size}


def settle(written: Path, path: Path) -> None:
    """Give a whole file its name: on disk first, then renamed, then the name on disk too.

    Without both fsyncs a power loss could leave the name of an empty file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(written, "rb") as file:
        os.fsync(file.fileno())
    os.replace(written, path)
    sync_folder(path.parent)


def put(written: Path, path: Path) -> None:
    """Give a whole file its name, without waiting for the disk: for what the cache holds too.

    What a power loss then takes shows another size or time than remembered, is hashed again, and restored.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(written, path)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to disk."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write_whole(path: Path, text: str) -> bool:
    """Write a text file unless it holds just that already; whether it was written."""
    if path.is_file() and path.read_bytes() == text.encode():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    written = partial(path)
    try:
        written.write_bytes(text.encode())
        settle(written, path)
    finally:
        written.unlink(missing_ok=True)
    return True


def copy_whole(source: Path, path: Path, folder: Path | None = None) -> None:
    """Copy a file's bytes, not its mode, through a partial file in `folder` (by default that of `path`)."""
    written = partial(path, folder)
    written.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(source, written)
        settle(written, path)
    finally:
        written.unlink(missing_ok=True)


@dataclass
class Digests:
    """MD5 digests, remembered in a file as long as inode, modification time and size stay.

    The file is a cache for the process that looks at all files of a study; jobs hash what they read. Processes that
    write it at once may lose each other's news, and a damaged or missing memory is an empty one: both cost hashing
    files again. Its first line is the MD5 of the rest, so that damage shows.
    """

    memory: Path
    _known: dict[str, list] = field(default_factory=dict)
    _new: dict[str, list] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._known = self._read()

    def __call__(self, path: Path | str) -> dict[str, str | int] | None:
        """DVC's description of a file, None where there is no such file."""
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return None
        signature = [status.st_ino, status.st_mtime_ns, status.st_size]
        name = os.path.abspath(path)
        if name not in self._known or self._known[name][:3] != signature:
            self._known[name] = self._new[name] = [*signature, md5(path)]
        return {"path": str(path), "hash": "md5", "md5": self._known[name][3], "size": status.st_size}

    def hash_again(self, path: Path | str) -> dict[str, str | int] | None:
        """The same from the bytes on disk, whatever is remembered."""
        self._known.pop(os.path.abspath(path), None)
        return self(path)

    def remember(self) -> None:
        """Write what is new to the file, if it can be written."""
        if self._new:
            with contextlib.suppress(OSError):
                text = json.dumps(self._read() | self._new)
                write_whole(self.memory, f"{_md5(text.encode())}\n{text}")
            self._new.clear()

    def _read(self) -> dict[str, list]:
        try:
            digest, _, text = self.memory.read_bytes().partition(b"\n")
        except OSError:
            return {}
        return json.loads(text) if digest == _md5(text).encode() else {}


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
