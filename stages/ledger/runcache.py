"""DVC's run-cache: which command on which inputs, parameters and code gave which outputs.

Bit for bit the layout of DVC 3 (`dvc/stage/cache.py`), without importing it and without its lock, so that jobs may save
at once and `dvc repro`, `dvc push --run-cache` and `dvc pull --run-cache` understand each other's results.

A record (DVC: a stage of dvc.lock) is a dict with `cmd`, `deps`, `params` and `outs`. Both records and contents are
named by a hash of what they hold. Nothing is used that does not hold what its name says: it is named, set aside in the
folder `damaged`, and fetched or made anew.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.ledger.files import copy_whole, describe, md5, partial, put, settle, sync_folder, write_whole
from stages.ledger.yaml12 import parse_yaml

if TYPE_CHECKING:
    from stages.ledger.remote import Remote

Record = dict[str, Any]
NOT_HASHED = ("size", "nfiles")  # keys that DVC leaves out of its keys, wherever they stand


def repository(folder: Path) -> Path:
    """The nearest folder, from `folder` upwards, that DVC was initialised in.

    Raises:
        FileNotFoundError: there is none.
    """
    for candidate in (folder, *folder.parents):
        if (candidate / ".dvc").is_dir():
            return candidate
    raise FileNotFoundError(f"{folder}: expected a folder .dvc in it or above it, run `dvc init` in the repository")


def settings_folders() -> dict[str, str]:
    """The folders of the user's and the system's settings of DVC, as the environment variables that DVC reads."""
    folders = {name: os.environ.get(name, "") for name in ("DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR")}
    if not all(folders.values()):
        from platformdirs import site_config_dir, user_config_dir

        named = user_config_dir("dvc", "iterative"), site_config_dir("dvc", "iterative")
        folders = {name: folders[name] or default for name, default in zip(folders, named, strict=True)}
    return folders


def cache_folder(root: Path) -> Path:
    """Where the cache lies: `cache.dir` of DVC's settings, or else .dvc/cache."""
    for config, section in settings(root, "cache"):
        if folder := section.get("dir"):
            return config.parent / Path(folder).expanduser()
    return root / ".dvc/cache"


def settings(root: Path, name: str) -> Iterator[tuple[Path, dict[str, str]]]:
    """The files of DVC's settings (local, repository, user, system) that have a section of that name, and the section.

    Raises:
        ValueError: a file is none of settings.
    """
    shared = (Path(folder, "config") for folder in settings_folders().values())
    for config in (root / ".dvc/config.local", root / ".dvc/config", *shared):
        text = config.read_text(encoding="utf-8") if config.is_file() else ""
        if name not in text:
            continue  # the parser takes 8 ms
        from configobj import ConfigObj, ConfigObjError

        try:
            found = ConfigObj(text.splitlines()).get(name, {})
            section = {key: found[key] for key in found}  # one by one, since that is what fills in other options
        except ConfigObjError as error:
            raise ValueError(f"{config}: DVC cannot read it either: {error}") from None
        if section:
            yield config, section


def record_key(wanted: Record, products: Iterable[str]) -> str:
    """The key of what is wanted (`cmd`, `deps`, `params`): all that may change the products' bytes, and their paths."""
    return _sha256({**wanted, "outs": sorted(products)})


def same_origin(record: Record, wanted: Record) -> bool:
    """Whether a record tells of the same command, inputs, parameters and code."""
    params, wanted_params = record.get("params"), wanted.get("params")
    return (
        all(_hashed(record.get(part)) == _hashed(wanted.get(part)) for part in ("cmd", "deps"))
        and params == wanted_params
        and _text(params) == _text(wanted_params)  # 1, 1.0 and true are equal to Python alone
    )


@dataclass(frozen=True)
class RunCache:
    """Records and the contents they name, under one folder that several studies and users may share."""

    folder: Path
    remotes: "Sequence[Remote]" = ()  # asked, one after the other, for what the folder lacks
    _good: set[str] = field(default_factory=set)  # contents that this process found to be what their names say
    _not_fetched: set[str] = field(default_factory=set)  # contents that no remote delivered

    def find(self, wanted: Record, products: Iterable[str]) -> Iterator[Record]:
        """Records of what is wanted, without damaged ones: the folder's, the newest first, then the remotes'."""
        key = record_key(wanted, products)
        local = self._stored(key)
        yield from _fitting(wanted, ((path.name, content) for path, content in local))
        known = {path.name for path, _ in local}
        for remote in self.remotes:
            found = [(name, content) for name, content in remote.records(key) if name not in known]
            known.update(name for name, _ in found)
            yield from _fitting(wanted, found)

    def holds(self, record: Record) -> bool:
        """Whether the contents of all outputs are there and whole, or else in place or in a remote."""
        return all(
            self._is_good(out["md5"]) or _is_in_place(out) or self._is_remote(out["md5"]) for out in record["outs"]
        )

    def is_local(self, record: Record) -> bool:
        """Whether the contents of all outputs are there and whole, or else in place."""
        return all(self._is_good(out["md5"]) or _is_in_place(out) for out in record["outs"])

    def store(self, path: Path | str) -> dict[str, str | int]:
        """Keep a file's content; its `hash`, `md5` and `size` in bytes."""
        described = describe(path)
        digest = described["md5"]
        if not self._is_good(digest):
            if self.content(digest).is_file():
                self._set_aside(self.content(digest))
            self._keep(path, digest)
        else:
            with suppress(OSError):  # another user's
                os.utime(self.content(digest))  # no garbage collection takes it before its new record is there
        return {part: described[part] for part in ("hash", "md5", "size")}

    def add(self, record: Record) -> None:
        """Keep a record. Contents that are at hand are stored before, so that it promises no more than there is."""
        path = self.record(record)
        staged = self.folder / "tmp" / partial(path.parent).name
        try:
            write_whole(staged / path.name, json.dumps(record, indent=1) + "\n")
            path.parents[1].mkdir(parents=True, exist_ok=True)
            try:  # DVC fails on a key's folder without a record, and takes any file in it for one
                os.rename(staged, path.parent)
                sync_folder(path.parents[1])
            except OSError:  # it has records already
                settle(staged / path.name, path)
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def has(self, record: Record) -> bool:
        """Whether a record and its contents are there, without a look into them."""
        return self.record(record).is_file() and all(self.content(out["md5"]).is_file() for out in record["outs"])

    def keep(self, record: Record) -> bool:
        """Keep a record and its outputs, which are in place; nothing, and False, where one is not what it says."""
        if any(md5(out["path"]) != out["md5"] for out in record["outs"]):
            return False
        for out in record["outs"]:
            self.store(out["path"])
        self.add(record)
        return True

    def check_out(self, record: Record) -> bool:
        """Copy all outputs to their paths (relative to the working directory), or none: False where the content of one
        is neither in the folder nor in a remote. Damaged contents are set aside.
        """
        copies = {Path(out["path"]): partial(out["path"]) for out in record["outs"]}
        try:
            if not all(map(self._copy, record["outs"], copies.values())):
                return False
            if self.remotes and not self.record(record).is_file():
                with suppress(OSError):  # a cache that may only be read
                    self.add(record)
            for path, copy in copies.items():
                put(copy, path)
            self._mark_used(record)
            return True
        finally:
            for copy in copies.values():
                copy.unlink(missing_ok=True)

    def check_writable(self) -> None:
        """PermissionError where nothing can be kept, so that nobody computes for nothing."""
        folder = self.folder / "tmp"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            writable = os.access(folder, os.W_OK)
        except OSError:
            writable = False
        if not writable:
            raise PermissionError(
                f"{self.folder}: no result can be kept there, expected a folder that may be written: "
                "change its rights, or choose another by `dvc cache dir`"
            )

    def set_aside_damaged(self, digest: str) -> bool:
        """Set the content of that name aside if it is damaged; whether it was."""
        self._good.discard(digest)
        return self.content(digest).is_file() and not self._is_good(digest) and self._set_aside(self.content(digest))

    def set_aside_damaged_records(self, record: Record) -> int:
        """The same for all records of the key of a record, of which `outs` need no more than their paths; how many."""
        damaged = [path for path, content in self._stored(_key(record)) if _read_record(path.name, content) is None]
        return sum(map(self._set_aside, damaged))

    def content(self, digest: str) -> Path:
        """Where the content with that MD5 lies if it is there."""
        return self.folder / "files/md5" / digest[:2] / digest[2:]

    def record(self, record: Record) -> Path:
        """Where a record lies if it is there."""
        return self._records(_key(record)) / _sha256(record)

    def _copy(self, out: dict[str, Any], copy: Path) -> bool:
        """Copy a content from the folder, else from its place (git's tables are in no remote), else from a remote.

        Whether the copy is there and whole.
        """
        digest = out["md5"]
        copy.parent.mkdir(parents=True, exist_ok=True)
        content = self.content(digest)
        if content.is_file():
            shutil.copyfile(content, copy)
            if md5(copy) == digest:
                return True
            self._set_aside(content)
        if os.path.isfile(out["path"]):
            shutil.copyfile(out["path"], copy)
            if md5(copy) == digest:
                return True
        for remote in self.remotes:
            if remote.fetch(digest, copy):
                if md5(copy) == digest:
                    with suppress(OSError):  # a cache that may only be read
                        self._keep(copy, digest)
                    return True
                print(f"damaged: what the remote {remote.name!r} holds as {digest}: not used", file=sys.stderr)
        self._not_fetched.add(digest)
        return False

    def _keep(self, path: Path, digest: str) -> None:
        copy_whole(path, self.content(digest), self.folder / "tmp")
        self.content(digest).chmod(0o444)
        self._good.add(digest)

    def _is_good(self, digest: str) -> bool:
        content = self.content(digest)
        if content.is_file() and (digest in self._good or md5(content) == digest):
            self._good.add(digest)
            return True
        return False

    def _is_remote(self, digest: str) -> bool:
        return digest not in self._not_fetched and any(remote.holds(digest) for remote in self.remotes)

    def _set_aside(self, path: Path) -> bool:
        aside = self.folder / "damaged" / f"{path.parent.name}{path.name}"  # of a content: its MD5
        self._good.discard(aside.name)
        try:
            aside.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, aside)
            outcome = f"moved to {aside}"
            with suppress(OSError):  # DVC fails on a key's folder without a record
                path.parent.rmdir()
        except FileNotFoundError:
            outcome = "another process moved it"
        except OSError as error:  # a cache that may only be read still gives what is whole
            outcome = f"not used, and not moved ({error.strerror})"
        print(f"damaged: {path} does not hold what its name says: {outcome}", file=sys.stderr)
        return True

    def _mark_used(self, record: Record) -> None:
        """Tell garbage collection, by the time of access; that of modification says which record is the newest."""
        with suppress(OSError):  # another user's, or a cache that may only be read
            path = self.record(record)
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))

    def _stored(self, key: str) -> list[tuple[Path, bytes]]:
        """The files of a key's records and their bytes, the newest first."""
        found = []
        for path in self._records(key).glob("*"):
            with suppress(FileNotFoundError):  # another process may remove it meanwhile
                found.append((path.stat().st_mtime_ns, path, path.read_bytes()))
        return [(path, content) for _, path, content in sorted(found, reverse=True)]

    def _records(self, key: str) -> Path:
        return self.folder / "runs" / key[:2] / key


def _key(record: Record) -> str:
    wanted = {part: value for part, value in record.items() if part != "outs"}
    return record_key(wanted, [out["path"] for out in record["outs"]])


def _is_in_place(out: dict[str, Any]) -> bool:
    """Whether an output is in place."""
    return os.path.isfile(out["path"]) and md5(out["path"]) == out["md5"]


def _fitting(wanted: Record, files: Iterable[tuple[str, bytes]]) -> Iterator[Record]:
    for name, content in files:
        record = _read_record(name, content)
        if record and same_origin(record, wanted):
            yield {part: wanted.get(part, value) for part, value in record.items()}  # sizes are in no name


def _read_record(name: str, content: bytes) -> Record | None:
    """A record if it holds what its name says: ours are JSON, DVC's own are YAML."""
    try:
        record = _parse(content)
        return record if isinstance(record, dict) and _sha256(record) == name else None
    except (ValueError, TypeError):  # no text, or a YAML text that is not to be had as JSON
        return None


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return parse_yaml(content.decode())


def _sha256(value: Any) -> str:
    return hashlib.sha256(_text(_hashed(value)).encode()).hexdigest()


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _hashed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _hashed(item) for key, item in value.items() if key not in NOT_HASHED}
    return [_hashed(item) for item in value] if isinstance(value, list) else value
