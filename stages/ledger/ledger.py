"""The ledger of one study: which results it has, which can be restored, and which have to be computed.

All paths of jobs are relative to the working directory, which is the study's folder.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from stages.ledger import dvcfiles
from stages.ledger.code import Sources
from stages.ledger.files import Digests, md5, partial, put, write_whole
from stages.ledger.job import Job
from stages.ledger.runcache import (
    NOT_HASHED,
    Record,
    RunCache,
    cache_folder,
    record_key,
    repository,
    same_origin,
)

CHECKPOINTS = Path(".checkpoints")
NAMED = 5  # jobs that a sentence names


@dataclass(frozen=True)
class Assessment:
    """What is to be done about each job."""

    current: dict[Job, Record]  # its outputs are in place
    restorable: dict[Job, Record]  # the cache holds its outputs
    known: dict[Job, Record]  # its outputs are nowhere at hand, but a record names them, and nobody asks for more
    stale: tuple[Job, ...]  # it has to run: it or what it reads from changed, no record is known, or it is needed
    needed: dict[Job, Record]  # of the stale: a record names its outputs, and somebody asks for their content
    locked: dict[str, Record]  # what dvc.lock says, by job name


class Ledger:
    """The results of the jobs of a plan."""

    def __init__(
        self,
        jobs: Sequence[Job],
        params: dict[str, Any],
        project: Path,
        libraries: Iterable[str] = (),
        plots: list[dict[str, Any]] | None = None,
        remotes: Sequence[str] = (),
    ) -> None:
        """
        Args:
            jobs: the plan, each job after those that make its inputs.
            params: the content of params.yaml as YAML 1.2 reads it.
            project: the folder from which the code is imported.
            libraries: distributions whose version is part of the code that imports them.
            plots: the top-level `plots` of dvc.yaml.
            remotes: the DVC remotes that are asked, one after the other, for what the cache lacks.

        Raises:
            FileNotFoundError: the working directory is in no repository that DVC was initialised in.
        """
        root = repository(Path.cwd())
        self.jobs = jobs
        self.params = params
        self.plots = plots or []
        self.sources = Sources(project, libraries)
        self.cache = RunCache(cache_folder(root), _open(root, remotes) if remotes else ())
        self.digests = Digests(root / ".dvc/tmp/digests")
        self._code: dict[str, str] = {}

    @cached_property
    def makers(self) -> dict[str, Job]:
        """The job that makes each file."""
        return {path: job for job in self.jobs for path in job.products}

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """The files that no job reads."""
        return tuple(path for path in self.makers if path not in self._read)

    @cached_property
    def _read(self) -> frozenset[str]:
        return frozenset(path for job in self.jobs for path in job.inputs)

    # The generated files

    def write_generated(self) -> None:
        """Write dvc.yaml and data/code.json where they are not what params.yaml and the code say."""
        for path, text in self._generated().items():
            write_whole(Path(path), text)

    def check_generated(self) -> None:
        """ValueError unless dvc.yaml and data/code.json are what params.yaml and the code say."""
        for path, text in self._generated().items():
            if not Path(path).is_file() or Path(path).read_text(encoding="utf-8") != text:
                raise ValueError(_outdated(path, "params.yaml and the code"))

    def check_job(self, job: Job) -> None:
        """The same for one job, without reading the code and the definitions of others."""
        definitions, code = Path(dvcfiles.DEFINITIONS), Path(dvcfiles.CODE)
        if not definitions.is_file() or not dvcfiles.defines(definitions.read_text(encoding="utf-8"), job):
            raise ValueError(_outdated(dvcfiles.DEFINITIONS, "params.yaml"))
        if not code.is_file() or json.loads(code.read_text(encoding="utf-8")).get(job.code) != self.code(job):
            raise ValueError(_outdated(dvcfiles.CODE, f"the code of {job.rule} ({job.code})"))

    def _generated(self) -> dict[str, str]:
        code = {job.code: self.code(job) for job in self.jobs}
        return {
            dvcfiles.DEFINITIONS: dvcfiles.definitions(self.jobs, self.plots),
            dvcfiles.CODE: json.dumps(code, indent=2, sort_keys=True) + "\n",
        }

    # What a job's result depends on

    def code(self, job: Job) -> str:
        """The digest of the job's code."""
        if job.code not in self._code:
            self._code[job.code] = self.sources.digest(job.modules)
        return self._code[job.code]

    def wanted(self, job: Job) -> Record:
        """The record of the job without its outputs: command, inputs hashed as they are on disk now, settings, code.

        Raises:
            FileNotFoundError: an input is missing.
        """
        inputs = []
        for path in sorted(job.inputs):
            described = self.digests.hash_again(path)
            if described is None:
                raise FileNotFoundError(f"{path}: no such file, expected {_made_by(self.makers.get(path))}")
            inputs.append(described)
        return self.wanted_of(job, inputs)

    def wanted_of(self, job: Job, inputs: list[dict[str, Any]]) -> Record:
        """The same for inputs, sorted by path, of which only the descriptions are known."""
        settings = {key: self._setting(key) for key in sorted(job.params)}
        params = {dvcfiles.PARAMS: settings} if settings else {}
        record = {"cmd": job.command, "deps": inputs, "params": {**params, dvcfiles.CODE: {job.code: self.code(job)}}}
        return {part: value for part, value in record.items() if value}

    def _setting(self, key: str) -> Any:
        value = self.params
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                raise ValueError(f"{dvcfiles.PARAMS}: {key}: is missing, expected a value.")
            value = value[part]
        for name in _keys({key.rpartition(".")[2]: value}):
            if name in NOT_HASHED:
                raise ValueError(f"{dvcfiles.PARAMS}: {key}: DVC's run-cache ignores keys named {name!r}: rename it.")
        return value

    # Running a job

    def produce(self, job: Job, compute: "Compute", recompute: bool = False) -> bool:
        """Put the job's outputs in place, all or none: from the cache, else by computing them. Whether it computed.

        Outputs are written as partial files, then kept in the cache, then recorded, then renamed: killed at any
        instant, no file is half there, and no record promises what is not.

        Args:
            compute: writes all of the job's products to the paths of the `Outputs` that it is given.
            recompute: do not look into the cache, and record the new result beside the old.

        Raises:
            FileNotFoundError: an input is missing, or an output was not written.
            ValueError: an input holds something else than when the job started.
        """
        wanted = self.wanted(job)
        if not recompute and any(self.cache.check_out(record) for record in self.cache.find(wanted, job.products)):
            return False
        self.cache.check_writable()
        self.cache.set_aside_damaged_records({**wanted, "outs": [{"path": path} for path in job.products]})
        with Outputs(job, self._checkpoint(job, wanted)) as outputs:
            compute(outputs)
            outputs.check()
            self._check_inputs(job, wanted, outputs)
            outs = [{"path": path, **self.cache.store(outputs.path(path))} for path in job.products]
            self.cache.add({**wanted, "outs": outs})
            outputs.settle()
        return True

    def _check_inputs(self, job: Job, wanted: Record, outputs: "Outputs") -> None:
        """ValueError where another run has put other bytes in an input's place, which the job may have read instead.

        An input that is gone could be read only as it was: hours of training are not lost for that.
        """
        for before in wanted.get("deps", []):
            now = self.digests(before["path"])
            if now and now["md5"] != before["md5"]:
                outputs.forget_checkpoints()  # they may go on from the other input
                raise ValueError(
                    f"{before['path']}: changed while {job.name} ran, whose result is of no use now: "
                    "run `snakemake` again, and one at a time in a folder"
                )

    def compute_again(self, job: Job, compute: "Compute", record: Record) -> list[str]:
        """Compute a job beside its outputs, which stay; the products that came out different from those in place, or
        from what the record says of those that are not.
        """
        with Outputs(job, CHECKPOINTS / partial(f"{job.name}.safetensors").name) as outputs:
            try:
                compute(outputs)
                outputs.check()
                recorded = _digests(record)
                before = {path: md5(path) if os.path.isfile(path) else recorded[path] for path in job.products}
                return [path for path in job.products if md5(outputs.path(path)) != before[path]]
            finally:
                outputs.forget_checkpoints()

    @staticmethod
    def _checkpoint(job: Job, wanted: Record) -> Path:
        return CHECKPOINTS / f"{job.name}-{record_key(wanted, job.products)[:16]}.safetensors"

    # All jobs

    def assess(self, needed: Collection[str] = ()) -> Assessment:
        """Which results are in place, in the cache, known by a record alone, or to be computed; changes nothing.

        A result in place stays if any record vouches for it; else dvc.lock, then the newest record is restored. What is
        at hand nowhere has to be computed only if somebody asks for its content; a record is enough for the keys of
        what follows.

        Args:
            needed: files whose content is asked for, beside what jobs make of which nobody reads anything, and what
                jobs read that have to run.
        """
        locked = dvcfiles.read_lock()
        files: dict[str, dict[str, Any]] = {}  # as they will be once everything is restored and computed
        found: dict[str, dict[Job, Record]] = {"current": {}, "restorable": {}, "known": {}}
        stale: set[Job] = set()
        for job in self.jobs:
            inputs = [files.get(path) if path in self.makers else self.digests(path) for path in sorted(job.inputs)]
            record = None
            if None not in inputs:
                record, where = self._choose(job, self.wanted_of(job, inputs), locked.get(job.name))
            if record is None:
                stale.add(job)
                continue
            found[where][job] = record
            files |= {out["path"]: out for out in record["outs"]}
        required = self._required(found["known"], stale, needed)
        return Assessment(
            current=found["current"],
            restorable=found["restorable"],
            known={job: record for job, record in found["known"].items() if job not in required},
            stale=tuple(job for job in self.jobs if job in stale or job in required),
            needed={job: record for job, record in found["known"].items() if job in required},
            locked=locked,
        )

    def _choose(self, job: Job, wanted: Record, locked: Record | None) -> tuple[Record | None, str]:
        """The record to go by, if any, and where its outputs are, in the words of an assessment."""
        in_lock = [locked] if locked and same_origin(locked, wanted) and _paths(locked) == list(job.products) else []
        candidates = []
        for record in chain(in_lock, self.cache.find(wanted, job.products)):
            if outs := self.in_place(record):
                # Sizes and the like, which no name vouches for, from the files.
                return {**wanted, "outs": outs}, "current"
            candidates.append(record)
        for record in filter(self.cache.holds, candidates):
            return record, "restorable"
        return next(iter(candidates), None), "known"

    def _required(self, known: Collection[Job], stale: Collection[Job], needed: Collection[str]) -> set[Job]:
        """The known jobs that have to run all the same, since somebody asks for what they make."""
        asked = set(needed)
        required = set()
        for job in reversed(self.jobs):
            is_last = self._read.isdisjoint(job.products)
            if job in known and (is_last or not asked.isdisjoint(job.products)):
                required.add(job)
            if job in stale or job in required:
                asked.update(job.inputs)
        return required

    def has_inputs(self, job: Job) -> bool:
        """Whether all that a job reads is in the working directory."""
        return all(map(os.path.isfile, job.inputs))

    def in_place(self, record: Record) -> list[dict[str, Any]]:
        """The outputs in the working directory, none unless all are those of a record."""
        files = [self.digests(out["path"]) for out in record["outs"]]
        same = (file is not None and file["md5"] == out["md5"] for file, out in zip(files, record["outs"], strict=True))
        return files if all(same) else []

    def restore(self, needed: Collection[str] = ()) -> tuple[Assessment, int, int]:
        """Restore all that the cache and the remotes hold. Files that are not what a known result's record says, which
        are those of other settings, go.

        Args:
            needed: as for `assess`.

        Returns:
            What is left to do, how many jobs were restored, and how many of these needed a remote.
        """
        restored: set[Job] = set()
        fetched: set[Job] = set()
        # A content found damaged or gone makes its job known or stale, hence again until nothing is left to restore.
        while (assessment := self.assess(needed)).restorable:
            for job, record in assessment.restorable.items():
                local = self.cache.is_local(record)
                if self.cache.check_out(record):
                    restored.add(job)
                    fetched |= set() if local else {job}
        self._refill(assessment.current.values())
        self._remove_others(assessment.known.values())
        return assessment, len(restored), len(fetched)

    def _refill(self, records: Iterable[Record]) -> None:
        """Keep again what is in place while the cache lost it; a cache that cannot be written stays as it is."""
        with contextlib.suppress(OSError):
            for record in records:
                if not self.cache.has(record):
                    self.cache.keep(record)

    def _remove_others(self, records: Iterable[Record]) -> None:
        for out in (out for record in records for out in record["outs"]):
            file = self.digests(out["path"])
            if file and file["md5"] != out["md5"]:
                os.unlink(out["path"])

    def write_lock(self, assessment: Assessment) -> None:
        """Write dvc.lock, where a job that is not in place keeps the record that is known, or else its last one.

        A result that is not what its record said is told: the record may be of another machine, and what follows from
        it is no longer what it was.
        """
        recorded = {**assessment.current, **assessment.known, **assessment.needed}
        records = {job.name: recorded.get(job, assessment.locked.get(job.name)) for job in self.jobs}
        records = {name: record for name, record in records.items() if record}
        if records != assessment.locked:
            _tell_other_bytes(records, assessment.locked)
            dvcfiles.write_lock(records)
        self.digests.remember()


class Outputs:
    """Where a job writes; partial files that are left at the end are deleted.

    `checkpoint` is a place for what a killed job needs to go on. Its name holds a digest of all that the result
    depends on, so that nothing goes on from the state of another result. A job that needs several adds to the name.
    """

    def __init__(self, job: Job, checkpoint: Path) -> None:
        self.job = job
        self.checkpoint = checkpoint

    def __enter__(self) -> "Outputs":
        return self

    def __exit__(self, *_: object) -> None:
        for path in self.job.products:
            partial(path).unlink(missing_ok=True)

    def path(self, product: str) -> Path:
        """Where to write a product."""
        if product not in self.job.products:
            raise ValueError(f"{self.job.name}: {product!r} is none of its outputs: {', '.join(self.job.products)}")
        written = partial(product)
        written.parent.mkdir(parents=True, exist_ok=True)
        return written

    def check(self) -> None:
        for path in self.job.products:
            if not partial(path).is_file():
                raise FileNotFoundError(f"{path}: {self.job.name} ended without writing it")

    def settle(self) -> None:
        for path in self.job.products:
            put(partial(path), Path(path))
        self.forget_checkpoints()

    def forget_checkpoints(self) -> None:
        """Deletes the checkpoint, and those whose names begin with its name."""
        for path in self.checkpoint.parent.glob("*"):
            if path.name.startswith(self.checkpoint.name):
                path.unlink(missing_ok=True)


Compute = Callable[[Outputs], None]


def _open(root: Path, remotes: Sequence[str]) -> tuple[Any, ...]:
    from stages.ledger.remote import Remote  # most jobs need none

    return tuple(Remote(root, name) for name in remotes)


def _outdated(path: str, source: str) -> str:
    return f"{os.path.relpath(path)} is not what {source} say now: run `snakemake`, or `python -m stages plan`"


def _made_by(job: Job | None) -> str:
    return f"it from `{job.command}`" if job else "it to be there"


def _tell_other_bytes(records: Mapping[str, Record], locked: Mapping[str, Record]) -> None:
    different = [
        name
        for name, record in records.items()
        if name in locked and _digests(record) != _digests(locked[name]) and same_origin(record, locked[name])
    ]
    if different:
        print(
            f"different: {some(different)} came out with other bytes than {dvcfiles.LOCK} said: "
            "what follows runs on these, now or in the next run",
            file=sys.stderr,
        )


def some(names: Sequence[str]) -> str:
    """The first of many names, and how many others there are."""
    others = f" and {len(names) - NAMED} others" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{others}"


def _digests(record: Record) -> dict[str, str]:
    return {out["path"]: out["md5"] for out in record["outs"]}


def _paths(record: Record) -> list[str]:
    return [out["path"] for out in record["outs"]]


def _keys(value: Any) -> Iterable[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _keys(item)
    elif isinstance(value, list):
        for item in value:
            yield from _keys(item)
