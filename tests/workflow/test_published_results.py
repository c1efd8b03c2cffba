"""Results published in git: a plain clone fetches them, knows the others, and computes what it is asked for."""

import shutil

import pytest

from tests.workflow.conftest import REPOSITORY, Project
from tests.workflow.test_nothing_twice import to_run
from tests.workflow.test_workflow import ALL, contents

pytestmark = pytest.mark.workflow


@pytest.fixture
def published(computed: Project) -> Project:
    """A project whose results are published and committed. The toy has no networks: scores and the report are small."""
    (computed.folder / "data/published").mkdir()
    shutil.copy(REPOSITORY / "data/published/README.md", computed.folder / "data/published")
    computed.set(ledger={"remote": "published"})
    said = computed.make("publish")
    assert said.returncode == 0, said.stdout
    assert "11 records and 5 contents" in said.stdout
    assert "known by their record alone: 2 prepare, 4 attack\n" in said.stdout
    computed.commit()
    assert computed.run("git", "status", "--short", "--ignored", "data").stdout.count("published") == 0
    return computed


def clone_of(project: Project, name: str = "clone") -> Project:
    """A clone with nothing but what git has."""
    clone = Project(project.folder.with_name(name))
    assert project.run("git", "clone", "-q", str(project.folder), str(clone.folder)).returncode == 0
    return clone


def test_a_clone_of_a_clone_computes_nothing(published):
    clone = clone_of(clone_of(published), "second")
    before = contents(clone.products())
    said = clone.snakemake("-n")
    assert "Jobs: 5 would be fetched, 6 known, without their content." in said
    assert "Nothing to be done" in said
    assert contents(clone.products()) == before

    assert "Jobs: 5 fetched, 6 known" in clone.snakemake()
    assert clone.computed() == []
    made = contents(published.products())
    assert {name for name in made if name not in clone.products()} == {
        name for name in made if name.startswith(("data/prepared/", "data/adversarial/"))
    }
    assert made.items() >= contents(clone.products()).items()
    assert "Jobs: 5 up to date, 6 known" in clone.snakemake("-n")
    assert clone.run("git", "status", "--short").stdout == ""


def test_a_clone_computes_what_its_changes_need(published):
    clone = clone_of(published)
    (clone.folder / "stages/attacks/sign.py").write_text('SALT = "other"\n')
    assert to_run(clone.snakemake("-n")) == {"attack": 2, "prepare": 2, "report": 1, "score": 2}
    clone.snakemake()
    signs = [f"{rule}--{name}-sign" for rule in ("attack", "score") for name in ("even", "odd")]
    assert clone.computed() == sorted([*signs, "prepare--even", "prepare--odd", "report--all"])
    said = clone.make("publish", "LIMIT=0")
    assert "11 records and 0 contents" in said.stdout
    assert "10 files were removed" in said.stdout  # five contents, and the records of what follows from the change
    index = (clone.folder / "data/published.txt").read_text().split()
    assert len(index) == 11 and all((clone.folder / "data/published" / line).is_file() for line in index)


def test_without_it_the_remote_is_not_asked(published):
    clone = clone_of(published)
    clone.set(ledger={"remote": ""})
    assert to_run(clone.snakemake("-n")) == {"attack": 4, "prepare": 2, "report": 1, "score": 4}


def test_dvc_takes_it_for_a_remote_and_not_for_the_default_one(published, tmp_path):
    refused = published.run("dvc", "push", "--run-cache")
    assert refused.returncode != 0 and "no remote specified" in refused.stdout
    before = published.run("git", "status", "--short").stdout

    clone = clone_of(published)
    said = clone.make("pull", "REMOTE=published")
    assert said.returncode == 0, said.stdout
    assert "Jobs: 5 up to date, 6 known" in clone.snakemake("-n")
    assert clone.dvc("repro", "--allow-missing").count("skipping") == len(ALL)
    assert clone.computed() == []

    clone.dvc("remote", "add", "--default", "store", str(tmp_path / "store"))
    said = clone.make("push")
    assert said.returncode == 0, said.stdout
    assert len(list((tmp_path / "store/files/md5").glob("*/*"))) == 5
    assert clone.run("git", "status", "--short").stdout.split() == ["M", ".dvc/config"]
    assert published.run("git", "status", "--short").stdout == before
