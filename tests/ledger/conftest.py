"""A repository with a plan of three jobs in a row, or of many, computed by functions of the tests."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from stages.ledger.job import Job
from stages.ledger.ledger import Ledger, Outputs

FIRST = Job("make", "a", (), ("first",), ("code/make.py",), "make", ("data/a.bin", "data/a.json"))
SECOND = Job("double", "a", ("data/a.bin",), ("second.factor",), ("code/double.py",), "double", ("data/b.bin",))
THIRD = Job("tell", "all", ("data/b.bin",), (), ("code/tell.py",), "tell", (), ("data/c.csv",), ("data/c.json",))
JOBS = [FIRST, SECOND, THIRD]


def _grid(size: int) -> list[Job]:
    """Two jobs in a row for each item, and one that reads all."""
    items = [f"{number:02}" for number in range(size)]
    made = {item: (f"data/made/{item}.bin", f"data/made/{item}.json") for item in items}
    doubled = {item: (f"data/doubled/{item}.bin", f"data/doubled/{item}.json") for item in items}
    return [
        *(Job("make", item, (), ("first",), ("code/make.py",), "make", made[item]) for item in items),
        *(
            Job("double", item, made[item], ("second.factor",), ("code/double.py",), "double", doubled[item])
            for item in items
        ),
        Job(
            "tell",
            "all",
            tuple(path for item in items for path in doubled[item]),
            (),
            ("code/tell.py",),
            "tell",
            (),
            ("data/told.csv",),
        ),
    ]


GRID = _grid(40)  # 81 records and 161 contents


class Bench:
    """Opens ledgers, and computes jobs while counting."""

    def __init__(self, folder: Path, jobs: Sequence[Job] = JOBS) -> None:
        self.folder = folder
        self.jobs = jobs
        self.params = {"first": 3, "second": {"factor": 0.00001}}
        self.remotes: Sequence[str] = ()
        self.computed: list[str] = []
        self.codes: dict[str, str] = {}  # as they were in the last run

    def ledger(self) -> Ledger:
        return Ledger(self.jobs, self.params, self.folder, remotes=self.remotes)

    def produce(self, job: Job, text: str | None = None, **options: bool) -> bool:
        """Compute a job: every product holds `text`, by default its name, settings and inputs."""
        return self.ledger().produce(job, lambda outputs: self.compute(job, outputs, text), **options)

    def compute(self, job: Job, outputs: Outputs, text: str | None = None) -> None:
        """Write a job's products."""
        self.computed.append(job.name)
        settings = [self.ledger()._setting(key) for key in job.params]
        read = "".join((self.folder / name).read_text() for name in job.inputs)
        for product in job.products:
            outputs.path(product).write_text(text or f"{product} {settings} {read}")

    def produce_all(self) -> None:
        for job in self.jobs:
            self.produce(job)

    def run(self, needed: Collection[str] = ()) -> None:
        """What `snakemake` does: restore, run what is stale, write dvc.lock before and after that."""
        ledger = self.ledger()
        self.codes = {job.code: ledger.code(job) for job in self.jobs}
        assessment, *_ = ledger.restore(needed)
        ledger.write_lock(assessment)
        for job in assessment.stale:
            self.produce(job)
        ledger = self.ledger()
        ledger.write_lock(ledger.assess())

    @property
    def everything(self) -> list[str]:
        """All files that jobs make."""
        return [path for job in self.jobs for path in job.products]

    def files(self) -> dict[str, str]:
        """All files in data/ and what they hold."""
        return {path.name: path.read_text() for path in sorted((self.folder / "data").iterdir())}

    def files_of(self, *names: str) -> dict[str, str]:
        """Some files in data/ and what they hold."""
        return {name: (self.folder / "data" / name).read_text() for name in names}

    def bytes_in(self, *folders: str) -> dict[str, bytes]:
        """All files below folders of the repository and what they hold."""
        paths = (path for folder in folders for path in sorted((self.folder / folder).rglob("*")) if path.is_file())
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A repository in the working directory."""
    return Bench(_repository(tmp_path, monkeypatch))


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The same with many jobs, all computed and locked. No power is lost here, so that nothing waits for the disk."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    made = Bench(_repository(tmp_path, monkeypatch), GRID)
    made.run()
    made.computed.clear()
    return made


def _repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "code").mkdir()
    for name in ("make", "double", "tell"):
        (tmp_path / f"code/{name}.py").write_text(f"NAME = {name!r}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("DVC_SYSTEM_CONFIG_DIR", str(tmp_path / "nowhere"))
    return tmp_path
