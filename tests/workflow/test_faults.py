"""A full disk and a cache that may only be read: said in one sentence, nothing lost, and the next run goes on."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workflow.conftest import Project

pytestmark = pytest.mark.workflow

KIB = 1024
FULL = "no space left on device"
REMEDY = "free some and run it again, no earlier result is lost"


class Disk:
    """A small disk in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.filler = folder / "filler"

    def fill(self, left: int) -> None:
        """Fill it up to so many bytes."""
        status = os.statvfs(self.folder)
        self.filler.write_bytes(bytes(status.f_bavail * status.f_bsize - left))

    def allow_writing(self, allowed: bool) -> None:
        subprocess.run(["mount", "-o", f"remount,{'rw' if allowed else 'ro'}", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if not shutil.which("mount") or (done := subprocess.run(mount, capture_output=True, text=True)).returncode:
        pytest.skip(f"a disk in memory cannot be mounted here: {done.stderr if shutil.which('mount') else 'no mount'}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, _computed_once: Project) -> dict[str, bytes]:
    """The results of the toy study at scale 3."""
    folder = tmp_path_factory.mktemp("undisturbed") / "project"
    shutil.copytree(_computed_once.folder, folder)
    project = Project(folder)
    project.set(scale=3)
    project.snakemake()
    return results(project)


def results(project: Project) -> dict[str, bytes]:
    """All files in data/, partial ones included, and dvc.lock."""
    files = {name: content for name, (content, _) in project.products().items()}
    return files | {"dvc.lock": (project.folder / "dvc.lock").read_bytes()}


def objects(cache: Path) -> dict[Path, bytes]:
    """All contents and records, and what is half written."""
    paths = (path for part in ("files", "runs", "tmp") for path in (cache / part).rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in paths}


def check_told(printed: str, sentence: str) -> None:
    """Whether a run says in one line what is the matter, and shows no traceback of the project's own code."""
    assert [line for line in printed.splitlines() if line.startswith("error: ") and sentence in line], printed
    assert "/stages/" not in printed, printed


def check_interrupted(project: Project, cache: Path, before: dict[str, bytes], whole: dict[str, bytes]) -> None:
    """Run out of space at scale 3 and see that all earlier results are there, and all files whole."""
    kept = objects(cache)
    done = project.run("snakemake", "--cores", "2", "--keep-going")
    assert done.returncode != 0, done.stdout
    check_told(done.stdout, FULL)
    assert REMEDY in done.stdout
    assert objects(cache).items() >= kept.items()
    assert not list((cache / "tmp").iterdir())
    for name, content in results(project).items():
        assert name == "dvc.lock" or content in (before.get(name), whole.get(name)), name


def check_goes_on(project: Project, whole: dict[str, bytes]) -> None:
    """See that the next run comes to the results of an undisturbed one, and that the earlier ones are not lost."""
    project.snakemake()
    assert results(project) == whole
    project.computed()
    project.set(scale=2)
    project.snakemake()
    assert project.computed() == []


SIZES = [pytest.param(60), *(pytest.param(left, marks=pytest.mark.slow) for left in (20, 36, 90, 130))]


@pytest.mark.parametrize("left", SIZES)
def test_a_full_disk(computed, disk, undisturbed, left):
    shutil.copytree(computed.folder, disk.folder / "project")
    project = Project(disk.folder / "project")
    before = results(project)
    project.set(scale=3)
    disk.fill(left * KIB)
    check_interrupted(project, project.folder / ".dvc/cache", before, undisturbed)
    disk.filler.unlink()
    check_goes_on(project, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, 12, 60, 110])
def test_a_full_disk_of_the_cache_alone(project, disk, undisturbed, left):
    project.dvc("cache", "dir", "--local", str(disk.folder / "cache"))
    project.snakemake()
    before = results(project)
    project.set(scale=3)
    disk.fill(left * KIB)
    check_interrupted(project, disk.folder / "cache", before, undisturbed)
    disk.filler.unlink()
    check_goes_on(project, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("left", [36, 60])
def test_a_disk_that_is_full_when_results_are_restored(computed, disk, undisturbed, left):
    shutil.copytree(computed.folder, disk.folder / "project")
    project = Project(disk.folder / "project")
    project.set(scale=3)
    project.snakemake()
    shutil.rmtree(project.folder / "data")
    disk.fill(left * KIB)
    check_interrupted(project, project.folder / ".dvc/cache", {}, undisturbed)
    disk.filler.unlink()
    project.computed()
    check_goes_on(project, undisturbed)


def test_a_cache_that_may_only_be_read(computed, disk, undisturbed):
    cache = disk.folder / "cache"
    shutil.copytree(computed.folder / ".dvc/cache", cache)
    computed.dvc("cache", "dir", "--local", str(cache))
    before, kept = results(computed), objects(cache)
    disk.allow_writing(False)
    shutil.rmtree(computed.folder / "data")
    assert "11 restored" in computed.snakemake()
    assert results(computed) == before

    computed.set(scale=3)
    done = computed.run("snakemake", "--cores", "2", "--keep-going")
    assert done.returncode != 0
    check_told(done.stdout, f"{cache}: no result can be kept there, expected a folder that may be written")
    assert computed.computed() == []  # nobody computes for nothing
    assert (
        results(computed).items() <= before.items()
    )  # Snakemake removes what a job is to make, and the cache keeps it
    assert objects(cache) == kept

    disk.allow_writing(True)
    check_goes_on(computed, undisturbed)


@pytest.mark.slow
def test_damage_in_a_cache_that_may_only_be_read_is_told_and_not_used(computed, disk):
    cache = disk.folder / "cache"
    shutil.copytree(computed.folder / ".dvc/cache", cache)
    computed.dvc("cache", "dir", "--local", str(cache))
    before = results(computed)
    damaged = max(cache.glob("files/md5/??/*"))
    damaged.chmod(0o644)
    damaged.write_bytes(b"\0" + damaged.read_bytes()[1:])
    disk.allow_writing(False)
    shutil.rmtree(computed.folder / "data")
    done = computed.run("snakemake", "--cores", "2", "--keep-going")
    assert done.returncode != 0
    check_told(done.stdout, "no result can be kept there")
    assert f"damaged: {damaged} does not hold what its name says: not used, and not moved" in done.stdout
    restored = results(computed)
    assert len(restored) > 10
    assert restored.items() <= before.items()
    disk.allow_writing(True)
    computed.snakemake()
    assert results(computed) == before
