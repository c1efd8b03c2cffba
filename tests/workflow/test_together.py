"""Jobs and runs that write at the same moment."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.workflow.conftest import Project, build
from tests.workflow.test_faults import results

pytestmark = pytest.mark.workflow

KILLS = 50
JOBS = 11  # of the toy study

# Jobs wait for each other after they have computed, so that all of them save at once.
BARRIER = """
    Path("waiting").mkdir(exist_ok=True)
    Path("waiting", job.name).touch()
    while len(list(Path("waiting").glob(job.name.split("--")[0] + "--*"))) < int(os.environ.get("TOY_TOGETHER", 0)):
        time.sleep(0.01)
"""


def check_whole(project: Project) -> None:
    """Whether all contents are what their names say, and are there for all records."""
    contents = {path.parent.name + path.name: path for path in (project.folder / ".dvc/cache/files/md5").glob("??/*")}
    for name, path in contents.items():
        assert hashlib.md5(path.read_bytes()).hexdigest() == name
    for path in (project.folder / ".dvc/cache/runs").glob("??/*/*"):
        assert {out["md5"] for out in json.loads(path.read_text())["outs"]} <= contents.keys()


def start(project: Project, *options: str, **environment: str) -> subprocess.Popen:
    """Start Snakemake in a process group of its own."""
    return subprocess.Popen(
        ["snakemake", "--cores", "2", *options],
        cwd=project.folder,
        env=project.environment | environment,
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def check_succeeded(running: subprocess.Popen) -> None:
    printed, _ = running.communicate(timeout=300)
    assert running.returncode == 0, printed
    assert "lock" not in printed.lower().replace("dvc.lock", "").replace("nolock", ""), printed


@pytest.mark.slow
def test_jobs_that_finish_at_the_same_moment(tmp_path):
    alone, together = build(tmp_path / "alone"), build(tmp_path / "together")
    computing = together.folder / "stages/computing.py"
    head, sleep, tail = computing.read_text().partition("    time.sleep(")
    computing.write_text(head + BARRIER.lstrip("\n") + sleep + tail)
    sets = [f"set{number:02}" for number in range(24)]
    for project in (alone, together):
        project.set(sets=sets, attacks={"add": {"step": 0.001}})
    alone.snakemake("--cores", "4")
    # The barrier is for the 24 jobs of each rule; the report is one.
    targets = [f"data/scores/{name}-add.parquet" for name in sets]
    together.snakemake("--cores", "24", *targets, TOY_TOGETHER="24")
    together.snakemake()
    check_whole(together)
    assert len(list((together.folder / "waiting").iterdir())) == 3 * 24 + 1
    assert products(together) == products(alone)
    assert "up to date" in together.dvc("status")


def products(project: Project, folder: str = ".") -> dict[str, bytes]:
    """The results of a study, of which the code's digests are no part."""
    data = project.folder / folder / "data"
    paths = (path for path in data.rglob("*") if path.is_file() and path.name != "code.json")
    return {str(path.relative_to(data)): path.read_bytes() for path in paths}


def lock_of(project: Project, folder: str = ".") -> bytes:
    return (project.folder / folder / "dvc.lock").read_bytes()


def test_two_studies_at_once_in_one_clone(project, tmp_path):
    """They share some cells and not others, the cache, and what is remembered of digests."""
    sets = {"a": ["even", "odd"], "b": ["odd", "prime"]}
    for study, names in sets.items():
        folder = project.folder / "studies" / study
        folder.mkdir(parents=True)
        (folder / "params.yaml").write_bytes((project.folder / "params.yaml").read_bytes())
        Project(folder).set(sets=names)
    running = [start(project, "--config", f"study={study}", TOY_SECONDS="0.2") for study in sets]
    for process in running:
        check_succeeded(process)
    check_whole(project)
    alone = build(tmp_path / "alone")
    for study in sets:
        alone.set(sets=sets[study])
        alone.snakemake()
        assert products(project, f"studies/{study}") == products(alone)
        assert lock_of(project, f"studies/{study}") == lock_of(alone)
        shutil.rmtree(alone.folder / "data")
        assert "Nothing to be done" in project.snakemake("-n", "--config", f"study={study}")


@pytest.mark.slow
def test_two_runs_of_one_study_at_once(project, _computed_once):
    """Snakemake removes what a job is to make, even from under the other run, whose jobs may fail then."""
    for process in [start(project, TOY_SECONDS="0.2") for _ in range(2)]:
        print(process.communicate(timeout=300)[0])
        check_whole(project)
    project.snakemake()
    check_whole(project)
    assert results(project) == results(_computed_once)


@pytest.mark.slow
def test_killed_at_random_instants_the_next_run_goes_on_and_repeats_nothing_that_was_recorded(tmp_path):
    """The whole process group, again and again, in one study after another, so that all of a study's life is met."""
    killed, undisturbed = build(tmp_path / "killed"), build(tmp_path / "undisturbed")
    chance, scale, kills = random.Random(0), 0, 0
    while kills < KILLS:
        scale += 1
        for project in (killed, undisturbed):
            project.set(scale=scale)
        earlier = records(killed)
        while len(recorded := jobs(records(killed) - earlier)) < JOBS and kills < KILLS:
            running = start(killed, TOY_SECONDS="0.2")
            time.sleep(chance.uniform(0.5, 5))
            os.killpg(running.pid, signal.SIGKILL)  # Snakemake and its jobs
            running.communicate()
            kills += 1
            assert recorded.isdisjoint(killed.computed())
            check_whole(killed)
        killed.snakemake()
        assert recorded.isdisjoint(killed.computed())
        undisturbed.snakemake()
        assert whole_files(results(killed)) == results(undisturbed)


def records(project: Project) -> set[Path]:
    return set((project.folder / ".dvc/cache/runs").glob("??/*/*"))


def jobs(paths: set[Path]) -> set[str]:
    """The jobs of records."""
    return {"--".join(json.loads(path.read_text())["cmd"].split()[-2:]) for path in paths}


def whole_files(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if not Path(name).name.startswith(".")}
