"""DVC's run-cache: which command on which inputs, parameters and code gave which outputs.

Bit for bit the layout of DVC 3 (`dvc/stage/cache.py`), without importing it and without its lock, so that jobs may save
at once and `dvc repro`, `dvc push --run-cache` and `dvc pull --run-cache` understand each other's results.

A record (DVC: a stage of dvc.lock) is a dict with `cmd`, `deps`, `params` and `outs`.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configobj import ConfigObj
from platformdirs import site_config_dir, user_config_dir
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.ledger.files import copy_whole, md5, partial, settle, write_whole

Record = dict[str, Any]
NOT_HASHED = ("size", "nfiles")  # keys that DVC leaves out of its keys, wherever they stand


def read_yaml(path: Path) -> Any:
    """A YAML 1.2 file as DVC reads it (1e-3 is a number, `on` is not a truth value)."""
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))


def repository(folder: Path) -> Path:
    """The nearest folder, from `folder` upwards, that DVC was initialised in.

    Raises:
        FileNotFoundError: there is none.
    """
    for candidate in (folder, *folder.parents):
        if (candidate / ".dvc").is_dir():
            return candidate
    raise FileNotFoundError(f"{folder}: expected a folder .dvc in it or above it, run `dvc init` in the repository")


def cache_folder(root: Path) -> Path:
    """Where the cache lies: `cache.dir` of DVC's settings (local, repository, user, system), or else .dvc/cache."""
    user = os.environ.get("DVC_GLOBAL_CONFIG_DIR") or user_config_dir("dvc", "iterative")
    system = os.environ.get("DVC_SYSTEM_CONFIG_DIR") or site_config_dir("dvc", "iterative")
    for config in (root / ".dvc/config.local", root / ".dvc/config", Path(user, "config"), Path(system, "config")):
        folder = ConfigObj(str(config)).get("cache", {}).get("dir")
        if folder:
            return config.parent / Path(folder).expanduser()
    return root / ".dvc/cache"


def record_key(wanted: Record, products: Iterable[str]) -> str:
    """The key of what is wanted (`cmd`, `deps`, `params`): all that may change the products' bytes, and their paths."""
    return _sha256({**wanted, "outs": sorted(products)})


def same_origin(record: Record, wanted: Record) -> bool:
    """Whether a record tells of the same command, inputs, parameters and code."""
    return all(_hashed(record.get(part)) == _hashed(wanted.get(part)) for part in ("cmd", "deps")) and (
        record.get("params") == wanted.get("params")
    )


@dataclass(frozen=True)
class RunCache:
    """Records and the contents they name, under one folder that several studies and users may share."""

    folder: Path

    def find(self, wanted: Record, products: Iterable[str]) -> Iterator[Record]:
        """Records of what is wanted, the newest first; unreadable ones are passed over, as DVC does."""
        folder = self._records(record_key(wanted, products))
        names = folder.iterdir() if folder.is_dir() else ()
        for path in sorted(names, key=lambda path: path.stat().st_mtime_ns, reverse=True):
            try:
                record = read_yaml(path)
            except (YAMLError, UnicodeDecodeError):
                continue
            if isinstance(record, dict) and same_origin(record, wanted):
                yield record

    def holds(self, record: Record) -> bool:
        """Whether the contents of all outputs are there."""
        return all(self._holds(out["md5"], out["size"]) for out in record["outs"])

    def store(self, path: Path) -> dict[str, str | int]:
        """Keep a file's content; its `hash`, `md5` and `size` in bytes."""
        digest, size = md5(path), path.stat().st_size
        if not self._holds(digest, size):
            content = self._content(digest)
            copy_whole(path, content, self.folder / "tmp")
            content.chmod(0o444)
        return {"hash": "md5", "md5": digest, "size": size}

    def add(self, record: Record) -> None:
        """Keep a record whose contents are stored already: a record must never promise what is not there."""
        key = record_key({part: record[part] for part in record if part != "outs"}, [o["path"] for o in record["outs"]])
        path = self._records(key) / _sha256(record)
        written = self.folder / "tmp" / partial(path).name  # DVC takes any file beside a record for a record
        write_whole(written, json.dumps(record, indent=1) + "\n")
        settle(written, path)

    def check_out(self, record: Record) -> bool:
        """Copy all outputs to their paths (relative to the working directory), or none: False where one is damaged or
        missing. A damaged content is deleted, so that it is made anew.
        """
        copies = {Path(out["path"]): partial(out["path"]) for out in record["outs"]}
        try:
            for out, copy in zip(record["outs"], copies.values(), strict=True):
                content = self._content(out["md5"])
                if not content.is_file():
                    return False
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(content, copy)
                if md5(copy) != out["md5"]:
                    content.unlink()
                    return False
            for path, copy in copies.items():
                settle(copy, path)
            return True
        finally:
            for copy in copies.values():
                copy.unlink(missing_ok=True)

    def _holds(self, digest: str, size: int) -> bool:
        content = self._content(digest)
        return content.is_file() and content.stat().st_size == size

    def _content(self, digest: str) -> Path:
        return self.folder / "files/md5" / digest[:2] / digest[2:]

    def _records(self, key: str) -> Path:
        return self.folder / "runs" / key[:2] / key


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(_hashed(value), sort_keys=True).encode()).hexdigest()


def _hashed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _hashed(item) for key, item in value.items() if key not in NOT_HASHED}
    return [_hashed(item) for item in value] if isinstance(value, list) else value
