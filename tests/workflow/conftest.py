"""A toy project in a repository of its own: the real Snakefile, ledger and command line around jobs of no work."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
TOY = Path(__file__).parent / "toy"
PARAMS = {
    "threads": 1,
    "mirror": "",
    "sets": ["even", "odd"],
    "scale": 2,
    "attacks": {"add": {"step": 0.001}, "sign": None},
    "transfer": [],
}


@dataclass
class Project:
    """A toy project; commands run in its folder with the Python that runs the tests."""

    folder: Path

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess:
        """Run a command to its end and return it with its output, stderr included."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment | environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=900,
            check=False,
        )

    @property
    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        home = str(self.folder.parent)  # so that nobody's own settings of DVC or Snakemake count
        own = {"PATH": path, "PYTHONPATH": str(self.folder), "HOME": home, "XDG_CONFIG_HOME": home}
        return {**os.environ, **own, "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": f"{home}/site"}

    def snakemake(self, *options: str, **environment: str) -> str:
        """What a Snakemake that has to succeed prints."""
        done = self.run("snakemake", "--cores", "2", *options, **environment)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def dvc(self, *arguments: str) -> str:
        """What a DVC that has to succeed prints."""
        done = self.run("dvc", *arguments)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def make(self, target: str, *variables: str) -> subprocess.CompletedProcess:
        """Run a target of the repository's Makefile, with the Python that runs the tests in place of a set-up."""
        venv = self.folder / ".venv"
        if not venv.exists():
            venv.symlink_to(sys.prefix)
        return self.run("make", "-f", str(REPOSITORY / "Makefile"), "--old-file=setup", target, *variables)

    def commit(self) -> None:
        """Commit all that git does not ignore."""
        for command in (
            ["add", "-A"],
            ["-c", "user.name=toy", "-c", "user.email=toy@example.org", "commit", "-qm", "."],
        ):
            assert self.run("git", *command).returncode == 0

    def set(self, **params: object) -> None:
        """Change settings of params.yaml."""
        file = self.folder / "params.yaml"
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | params))

    def computed(self) -> list[str]:
        """The jobs that were computed since this was last asked, sorted."""
        journal = self.folder / "journal.txt"
        jobs = journal.read_text().split() if journal.exists() else []
        journal.unlink(missing_ok=True)
        return sorted(jobs)

    def products(self) -> dict[str, tuple[bytes, int]]:
        """Content and modification time of every file in data/."""
        files = (path for path in sorted((self.folder / "data").rglob("*")) if path.is_file())
        return {str(path.relative_to(self.folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A toy project, nothing computed yet."""
    return build(tmp_path / "project")


@pytest.fixture(scope="session")
def _computed_once(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = build(tmp_path_factory.mktemp("computed") / "project")
    made.snakemake()
    made.commit()
    return made


@pytest.fixture
def computed(_computed_once: Project, tmp_path: Path) -> Project:
    """A toy project of which everything is computed and committed."""
    shutil.copytree(_computed_once.folder, tmp_path / "project")
    made = Project(tmp_path / "project")
    made.computed()
    return made


def build(folder: Path) -> Project:
    shutil.copytree(TOY, folder / "stages")
    shutil.copytree(
        REPOSITORY / "stages/ledger", folder / "stages/ledger", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(REPOSITORY / "profiles", folder / "profiles")
    shutil.copytree(REPOSITORY / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    for file in (
        "Snakefile",
        ".dvcignore",
        ".gitattributes",
        "stages/__init__.py",
        "stages/__main__.py",
        "stages/study.py",
    ):
        shutil.copy(REPOSITORY / file, folder / file)
    (folder / ".gitignore").write_text((REPOSITORY / ".gitignore").read_text() + "journal.txt\n")
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    made = Project(folder)
    assert made.run("git", "init", "-q").returncode == 0
    return made
