"""Garbage collection that takes nothing by accident.

`dvc gc` removes whatever no dvc.lock names: the results of a setting that was changed an hour ago are gone. Here every
dvc.lock of the repository's history keeps what it names, and so does every record that was made or used of late.
"""

import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from stages.ledger.files import settle
from stages.ledger.git import git
from stages.ledger.runcache import cache_folder
from stages.ledger.yaml12 import parse_yaml

DAY = 24 * 60 * 60
GRACE = 60 * 60  # seconds; a running job may be about to record what it has just stored
DIGEST = re.compile(rb"(?<![0-9a-f])[0-9a-f]{32}(?:\.dir)?(?![0-9a-f])")  # .dir: the content lists a folder's files
LOCKS = (":(top,glob)**/dvc.lock", ":(top,glob)**/*.dvc")  # pathspecs of git: what names contents
OWN_COMMAND = re.compile(r"python -m stages (\S+) \S+")


@dataclass(frozen=True)
class File:
    """A file that may go."""

    path: Path
    size: int  # bytes
    time: float  # when it was last of use, in seconds since the epoch


@dataclass(frozen=True)
class Result:
    """A record of the run-cache: the contents that it was made from and those that were made, by their digests."""

    file: File
    rule: str
    inputs: frozenset[str]
    outputs: frozenset[str]


@dataclass(frozen=True)
class Garbage:
    """What may go, and how many results stay."""

    results: list[Result]
    contents: list[File]
    leftovers: list[File]
    kept: int

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to remove."""
        return not (self.results or self.contents or self.leftovers)

    def remove(self) -> None:
        """Remove it: records before contents, so that, killed at any instant, no record promises what is not there.

        A content that was stored again meanwhile stays, since its new record may be about to be written.
        """
        for result in self.results:
            _remove_record(result.file.path)
        for content in self.contents:
            if (now := _file(content.path)) and now.time == content.time:
                content.path.unlink(missing_ok=True)
        for leftover in self.leftovers:
            if leftover.path.is_dir():
                shutil.rmtree(leftover.path, ignore_errors=True)
            else:
                leftover.path.unlink(missing_ok=True)

    def __str__(self) -> str:
        """What would go, one line a kind."""
        rules = Counter(result.rule for result in self.results)
        by_rule = ", ".join(f"{rules[rule]} {rule}" for rule in sorted(rules))
        lines = [
            _line("results", [result.file for result in self.results], by_rule),
            _line("contents", self.contents, _bytes(self.contents)),
            _line("left-over files", self.leftovers, _bytes(self.leftovers)),
        ]
        return "\n".join([f"{self.kept} results stay.", *filter(None, lines)])


def find_garbage(root: Path, days: float = 30, clones: Iterable[Path] = (), now: float | None = None) -> Garbage:
    """What may go from the cache and from the studies of a repository; nothing is changed.

    These stay: what is named by a dvc.lock or .dvc file of the working directory, of any commit that git still knows
    (branches, tags, stashes, experiments, reflogs), or of the other clones; what is named by a record that was made or
    used in the last days, and by the records that its inputs come from; whatever was stored in the last hour.

    Args:
        root: the folder that DVC was initialised in, in a git repository.
        days: for how long a record that no dvc.lock vouches for is kept after it was last used.
        clones: further folders of the same kind that use the same cache.
        now: seconds since the epoch, by default the current time.

    Raises:
        ValueError: a folder is in no git repository, or the cache lies outside the repository, where others may use it,
            and no clones are given.
    """
    folder = cache_folder(root).resolve()
    if not folder.is_relative_to(root.resolve()) and not clones:
        raise ValueError(
            f"{folder}: lies outside the repository: name all other clones that use this cache by --clones, "
            "or `--clones .` if there are none"
        )
    now = time.time() if now is None else now
    return _Collection(root, folder, days * DAY, tuple(clones), now).garbage


@dataclass(frozen=True)
class _Collection:
    root: Path
    cache: Path
    span: float  # seconds for which an unlocked result is kept
    clones: tuple[Path, ...]
    now: float

    @property
    def garbage(self) -> Garbage:
        doomed = [result for result in self.results if not result.outputs <= self.kept]
        unnamed = [file for name, file in self._contents() if name not in self.kept and self._is_older(file, GRACE)]
        return Garbage(doomed, unnamed, self._leftovers(), len(self.results) - len(doomed))

    @cached_property
    def results(self) -> list[Result]:
        """The records of the run-cache."""
        return [result for path in self.cache.glob("runs/??/*/*") if (result := _result(path))]

    @cached_property
    def kept(self) -> frozenset[str]:
        """The digests of all contents that stay.

        A record is of no use without those of its inputs: these are followed back to the start.
        """
        makers: dict[str, list[Result]] = {}
        for result in self.results:
            for name in result.outputs:
                makers.setdefault(name, []).append(result)
        kept = self._locked()
        pending = [result for result in self.results if not self._is_older(result.file, max(self.span, GRACE))]
        followed: set[Path] = set()
        while pending:
            result = pending.pop()
            if result.file.path not in followed:
                followed.add(result.file.path)
                kept |= result.outputs
                pending += [maker for name in result.inputs for maker in makers.get(name, [])]
        listed = (self._content(name) for name in kept if name.endswith(".dir"))
        return frozenset(kept.union(*(_digests(path.read_bytes()) for path in listed if path.is_file())))

    def _locked(self) -> set[str]:
        """All digests in the dvc.lock and .dvc files of the repository, its clones and its running experiments."""
        found: set[str] = set()
        for folder in (self.root, *self.clones):
            running = (folder / ".dvc/tmp/exps").rglob("dvc.lock")
            for path in (*_files_like(folder, *LOCKS), *running):
                found |= _digests(path.read_bytes())
            found |= _digests(_committed(folder))
        return found

    def _contents(self) -> Iterator[tuple[str, File]]:
        for path in self.cache.glob("files/md5/??/*"):
            name = path.parent.name + path.name
            if DIGEST.fullmatch(name.encode()) and (file := _file(path)):
                yield name, file

    def _content(self, name: str) -> Path:
        return self.cache / "files/md5" / name[:2] / name[2:]

    def _leftovers(self) -> list[File]:
        """What killed processes left, and what was found damaged.

        A checkpoint is work that may go on: it stays as long as an unlocked result.
        """
        studies = [path.parent for path in _files_like(self.root, ":(top,glob)**/dvc.yaml")]
        spans = [(self.cache.glob("tmp/*"), DAY), (self.cache.glob("damaged/*"), self.span)]
        for study in studies:
            spans += [(study.glob("data/**/.[0-9]*-*"), DAY), (study.glob(".checkpoints/*"), self.span)]
        files = ((_file(path), span) for paths, span in spans for path in paths)
        return [file for file, span in files if file and self._is_older(file, max(span, GRACE))]

    def _is_older(self, file: File, span: float) -> bool:
        return file.time < self.now - span


def _result(path: Path) -> Result | None:
    """A record of DVC's or ours; None where it is gone."""
    try:
        status = path.stat()
        text = _read_unused(path)
    except FileNotFoundError:
        return None
    # Restoring from a record sets its time of access: see RunCache.check_out.
    file = File(path, status.st_size, max(status.st_atime, status.st_mtime))
    try:
        record = parse_yaml(text.decode())
        inputs, outputs = ([made["md5"] for made in record.get(part, [])] for part in ("deps", "outs"))
        command = str(record["cmd"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return Result(file, "unreadable", frozenset(), frozenset(_digests(text)))
    own = OWN_COMMAND.fullmatch(command)
    return Result(file, own[1] if own else command, frozenset(inputs), frozenset(outputs))


def _remove_record(path: Path) -> None:
    """Remove a record, and with the last one of a key the key's folder at once: DVC fails at an empty one."""
    if [other.name for other in path.parent.glob("*")] != [path.name]:
        path.unlink(missing_ok=True)
        return
    aside = path.parents[3] / "tmp" / f".{os.getpid()}-{path.parent.name}"
    aside.parent.mkdir(exist_ok=True)
    path.parent.rename(aside)
    for other in aside.iterdir():
        if other.name != path.name:  # it was recorded meanwhile
            settle(other, path.parent / other.name)
    shutil.rmtree(aside)


def _read_unused(path: Path) -> bytes:
    """A file's content; reading it is no use of it where the system lets us say so."""

    def opened(name: str, flags: int) -> int:
        try:
            return os.open(name, flags | getattr(os, "O_NOATIME", 0))
        except PermissionError:  # it is another user's
            return os.open(name, flags)

    with open(path, "rb", opener=opened) as file:
        return file.read()


def _file(path: Path) -> File | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return File(path, status.st_size, status.st_mtime)


def _digests(text: bytes) -> set[str]:
    """Whatever looks like the name of a content: too much is kept rather than too little."""
    return {name.decode() for name in DIGEST.findall(text)}


def _files_like(folder: Path, *patterns: str) -> list[Path]:
    """The files that match pathspecs of git, tracked or not, ignored or not."""
    listed = git(folder, "ls-files", "--full-name", "--cached", "--others", "-z", "--", *patterns)
    top = Path(os.fsdecode(git(folder, "rev-parse", "--show-toplevel").rstrip(b"\n")))
    paths = {top / os.fsdecode(name) for name in listed.split(b"\0") if name}
    return [path for path in sorted(paths) if path.is_file()]


def _committed(folder: Path) -> bytes:
    """All versions of all lock files in all commits that git still knows, one after the other."""
    known = ("--all", "--reflog", "--full-history", "--objects", "--no-object-names")
    # Of the objects, trees and commits are no harm: they hold no digest that DVC made.
    return git(folder, "cat-file", "--batch", given=git(folder, "rev-list", *known, "--", *LOCKS))


def _line(kind: str, files: list[File], details: str) -> str:
    times = sorted(time.strftime("%Y-%m-%d", time.localtime(file.time)) for file in files)
    return f"{len(files)} {kind} would go, last used {times[0]} to {times[-1]}: {details}" if files else ""


def _bytes(files: list[File]) -> str:
    return f"{sum(file.size for file in files) / 1e6:,.1f} MB"
