"""A repository with a plan of three jobs in a row, computed by functions of the tests."""

from pathlib import Path

import pytest

from stages.ledger.job import Job
from stages.ledger.ledger import Ledger

FIRST = Job("make", "a", (), ("first",), ("code/make.py",), "make", ("data/a.bin", "data/a.json"))
SECOND = Job("double", "a", ("data/a.bin",), ("second.factor",), ("code/double.py",), "double", ("data/b.bin",))
THIRD = Job("tell", "all", ("data/b.bin",), (), ("code/tell.py",), "tell", (), ("data/c.csv",), ("data/c.json",))
JOBS = [FIRST, SECOND, THIRD]


class Bench:
    """Opens ledgers, and computes jobs while counting."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.params = {"first": 3, "second": {"factor": 0.00001}}
        self.computed: list[str] = []

    def ledger(self) -> Ledger:
        return Ledger(JOBS, self.params, self.folder)

    def produce(self, job: Job, text: str | None = None, **options: bool) -> bool:
        """Compute a job: every product holds `text`, by default its name, settings and inputs."""
        ledger = self.ledger()

        def compute(outputs):
            self.computed.append(job.name)
            read = "".join((self.folder / name).read_text() for name in job.inputs)
            for product in job.products:
                outputs.path(product).write_text(
                    text or f"{product} {[ledger._setting(key) for key in job.params]} {read}"
                )

        return ledger.produce(job, compute, **options)

    def produce_all(self) -> None:
        for job in JOBS:
            self.produce(job)

    def files(self) -> dict[str, str]:
        """All files in data/ and what they hold."""
        return {path.name: path.read_text() for path in sorted((self.folder / "data").iterdir())}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A repository in the working directory."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "code").mkdir()
    for name in ("make", "double", "tell"):
        (tmp_path / f"code/{name}.py").write_text(f"NAME = {name!r}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("DVC_SYSTEM_CONFIG_DIR", str(tmp_path / "nowhere"))
    return Bench(tmp_path)
