"""The ledger of one study: which results it has, which can be restored, and which have to be computed.

All paths of jobs are relative to the working directory, which is the study's folder.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from stages.ledger import dvcfiles
from stages.ledger.code import Sources
from stages.ledger.files import Digests, partial, settle, write_whole
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


@dataclass(frozen=True)
class Assessment:
    """What is to be done about each job."""

    current: dict[Job, Record]  # its outputs are in place
    restorable: dict[Job, Record]  # the cache holds its outputs
    stale: tuple[Job, ...]  # it has to run, since it or what it reads from changed, or nothing is known about it


class Ledger:
    """The results of the jobs of a plan."""

    def __init__(
        self,
        jobs: Sequence[Job],
        params: dict[str, Any],
        project: Path,
        libraries: Iterable[str] = (),
        plots: list[dict[str, Any]] | None = None,
    ) -> None:
        """
        Args:
            jobs: the plan, each job after those that make its inputs.
            params: the content of params.yaml as YAML 1.2 reads it.
            project: the folder from which the code is imported.
            libraries: distributions whose version is part of the code that imports them.
            plots: the top-level `plots` of dvc.yaml.

        Raises:
            FileNotFoundError: the working directory is in no repository that DVC was initialised in.
        """
        root = repository(Path.cwd())
        self.jobs = jobs
        self.params = params
        self.plots = plots or []
        self.sources = Sources(project, libraries)
        self.cache = RunCache(cache_folder(root))
        self.digests = Digests(root / ".dvc/tmp/digests.json")
        self._code: dict[str, str] = {}

    @cached_property
    def makers(self) -> dict[str, Job]:
        """The job that makes each file."""
        return {path: job for job in self.jobs for path in job.products}

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
        """The same for one job, without reading the code of others."""
        definitions, code = Path(dvcfiles.DEFINITIONS), Path(dvcfiles.CODE)
        if not definitions.is_file() or definitions.read_text(encoding="utf-8") != self._definitions:
            raise ValueError(_outdated(dvcfiles.DEFINITIONS, "params.yaml"))
        if not code.is_file() or json.loads(code.read_text(encoding="utf-8")).get(job.code) != self.code(job):
            raise ValueError(_outdated(dvcfiles.CODE, f"the code of {job.rule} ({job.code})"))

    def _generated(self) -> dict[str, str]:
        code = {job.code: self.code(job) for job in self.jobs}
        return {
            dvcfiles.DEFINITIONS: self._definitions,
            dvcfiles.CODE: json.dumps(code, indent=2, sort_keys=True) + "\n",
        }

    @cached_property
    def _definitions(self) -> str:
        return dvcfiles.definitions(self.jobs, self.plots)

    # What a job's result depends on

    def code(self, job: Job) -> str:
        """The digest of the job's code."""
        if job.code not in self._code:
            self._code[job.code] = self.sources.digest(job.modules)
        return self._code[job.code]

    def wanted(self, job: Job) -> Record:
        """The record of the job without its outputs: command, inputs as they are on disk, settings, code.

        Raises:
            FileNotFoundError: an input is missing.
        """
        inputs = [self._digest(path) for path in sorted(job.inputs)]
        return self._wanted(job, inputs)

    def _wanted(self, job: Job, inputs: list[dict[str, Any]]) -> Record:
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

    def _digest(self, path: str) -> dict[str, Any]:
        digest = self.digests(path)
        if digest is None:
            maker = self.makers.get(path)
            raise FileNotFoundError(f"{path}: no such file, expected {_made_by(maker)}")
        return digest

    # Running a job

    def produce(self, job: Job, compute: "Compute", recompute: bool = False) -> bool:
        """Put the job's outputs in place, all or none: from the cache, else by computing them. Whether it computed.

        Outputs are written as partial files, then kept in the cache, then recorded, then renamed: killed at any
        instant, no file is half there, and no record promises what is not.

        Args:
            compute: writes all of the job's products to the paths of the `Outputs` that it is given.
            recompute: do not look into the cache, and record the new result beside the old.
        """
        wanted = self.wanted(job)
        if not recompute and any(self.cache.check_out(record) for record in self.cache.find(wanted, job.products)):
            return False
        with Outputs(job, self._checkpoint(job, wanted)) as outputs:
            compute(outputs)
            outputs.check()
            outs = [{"path": path, **self.cache.store(outputs.path(path))} for path in job.products]
            self.cache.add({**wanted, "outs": outs})
            outputs.settle()
        self.digests.remember()
        return True

    def compute_only(self, job: Job, compute: "Compute") -> None:
        """The same without the cache, for `dvc repro`, which looks up and records by itself."""
        with Outputs(job, self._checkpoint(job, self.wanted(job))) as outputs:
            compute(outputs)
            outputs.check()
            outputs.settle()

    @staticmethod
    def _checkpoint(job: Job, wanted: Record) -> Path:
        return CHECKPOINTS / f"{job.name}-{record_key(wanted, job.products)[:16]}.safetensors"

    # All jobs

    def assess(self) -> Assessment:
        """Which results are in place, in the cache, or to be computed; changes nothing.

        A result in place stays if any record vouches for it; else dvc.lock, then the newest record is restored.
        """
        locked = dvcfiles.read_lock()
        known: dict[str, dict[str, Any]] = {}  # the files as they will be once everything restorable is restored
        current, restorable, stale = {}, {}, []
        for job in self.jobs:
            if any(path in self.makers and path not in known for path in job.inputs):
                stale.append(job)
                continue
            inputs = [known[path] if path in known else self._digest(path) for path in sorted(job.inputs)]
            record, in_place = self._choose(job, self._wanted(job, inputs), locked.get(job.name))
            if record is None:
                stale.append(job)
                continue
            (current if in_place else restorable)[job] = record
            known |= {out["path"]: out for out in record["outs"]}
        return Assessment(current, restorable, tuple(stale))

    def _choose(self, job: Job, wanted: Record, locked: Record | None) -> tuple[Record | None, bool]:
        """The record to go by, if any, and whether its outputs are in place."""
        in_lock = [locked] if locked and same_origin(locked, wanted) and _paths(locked) == list(job.products) else []
        candidates = []
        for record in chain(in_lock, self.cache.find(wanted, job.products)):
            if all(self._is_in_place(out) for out in record["outs"]):
                return record, True
            candidates.append(record)
        return next(filter(self.cache.holds, candidates), None), False

    def _is_in_place(self, out: dict[str, Any]) -> bool:
        found = self.digests(out["path"])
        return found is not None and found["md5"] == out["md5"]

    def restore(self) -> tuple[Assessment, int]:
        """Restore all that the cache holds; what is left to do, and how many jobs were restored."""
        restored: set[Job] = set()
        # A content found damaged is deleted and its job becomes stale, hence again until nothing is left to restore.
        while (assessment := self.assess()).restorable:
            restored |= {job for job, record in assessment.restorable.items() if self.cache.check_out(record)}
        return assessment, len(restored)

    def write_lock(self, assessment: Assessment) -> None:
        """Write dvc.lock, where a stale job keeps its last record."""
        locked = dvcfiles.read_lock()
        records = {job.name: assessment.current.get(job, locked.get(job.name)) for job in self.jobs}
        records = {name: record for name, record in records.items() if record}
        if records != locked:
            dvcfiles.write_lock(records)
        self.digests.remember()


class Outputs:
    """Where a job writes; partial files that are left at the end are deleted.

    `checkpoint` is a place for what a killed job needs to go on. Its name holds a digest of all that the result
    depends on, so that nothing goes on from the state of another result.
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
            settle(partial(path), Path(path))
        self.checkpoint.unlink(missing_ok=True)


Compute = Callable[[Outputs], None]


def _outdated(path: str, source: str) -> str:
    return f"{os.path.relpath(path)} is not what {source} say now: run `python -m stages plan`"


def _made_by(job: Job | None) -> str:
    return f"it from `{job.command}`" if job else "it to be there"


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
