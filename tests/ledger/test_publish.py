"""What is published goes into a folder that is a remote, and what no study publishes any more goes out of it."""

import os
import shutil
from pathlib import Path

import pytest

from stages.ledger.publish import INDEX, publish
from stages.ledger.runcache import RunCache
from tests.ledger.conftest import FIRST, SECOND, THIRD
from tests.ledger.test_known import CACHE, computed_by_a_run, content, names, states

STORE = Path("data/published")


@pytest.fixture
def published(bench):
    """A repository that can publish: all is computed, and the store is a remote of DVC's settings."""
    Path(".dvc/config").write_text("['remote \"published\"']\nurl = ../data/published\n")
    bench.run()
    return bench


def publishing(bench, rules=("double",), studies=(Path(),)):
    return publish(bench.ledger(), STORE.absolute(), [Path(study).absolute() for study in studies], keeping(rules))


def keeping(rules):
    return lambda job, _: job.rule in rules


def stored():
    return {str(path.relative_to(STORE)) for path in STORE.rglob("*") if path.is_file()}


def test_all_records_and_the_chosen_contents_are_published(published):
    said = publishing(published)
    size = Path("data/b.bin").stat().st_size
    records = {str(path.relative_to(CACHE)) for path in CACHE.glob("runs/*/*/*")}
    assert stored() == {*records, str(content("data/b.bin", Path()))}
    assert set(INDEX.read_text().splitlines()) == stored()
    assert said.startswith(
        f"3 records and 1 contents of {size / 1e6:.2f} MB are published, 0 files were removed; data/"
    )
    assert said.endswith("\nknown by their record alone: 1 make")
    assert (STORE / content("data/b.bin", Path())).read_text() == Path("data/b.bin").read_text()
    assert sorted(path.name for path in STORE.iterdir()) == ["files", "runs"]


def test_what_git_tracks_is_not_asked_about(published):
    asked = []
    publish(published.ledger(), STORE.absolute(), [Path().absolute()], lambda job, out: asked.append(out["path"]))
    assert sorted(asked) == ["data/a.bin", "data/a.json", "data/b.bin"]


def test_a_clone_fetches_what_is_published_and_knows_the_rest(published):
    publishing(published)
    made = published.files_of("b.bin", "c.csv", "c.json")
    shutil.rmtree(CACHE)
    for name in ("a.bin", "a.json", "b.bin"):
        Path("data", name).unlink()
    Path("dvc.lock").unlink()
    published.remotes = ["published"]
    assert states(published) == {"current": names(THIRD), "restorable": names(SECOND), "known": names(FIRST)}
    assert computed_by_a_run(published) == []
    assert published.files_of("b.bin", "c.csv", "c.json") == made

    before = stored()
    assert publishing(published).startswith("3 records and 1 contents")  # from there again: nothing is lost
    assert stored() == before
    assert publishing(published, ("make", "double")).startswith("3 records and 1 contents")  # nothing is made up


def test_what_somebody_asks_for_and_nobody_has_stays_published(published):
    """In a clone the content of a last result may be nowhere: its job has to run, and its record is as good as ever."""
    publishing(published)
    before = stored()
    shutil.rmtree(CACHE)
    for name in ("a.bin", "a.json", "b.bin", "c.csv", "c.json"):
        Path("data", name).unlink()
    published.remotes = ["published"]
    assert states(published)["needed"] == names(THIRD)
    said = publishing(published)
    assert said.startswith("3 records and 1 contents") and "left out" not in said
    assert stored() == before


def test_publishing_again_replaces_what_the_study_published(published):
    publishing(published, ("make", "double"))
    before = stored()
    published.params["second"]["factor"] = 7
    published.run()
    said = publishing(published, ("make", "double"))
    assert "3 records and 3 contents" in said and "3 files were removed" in said  # b.bin and two records
    assert set(INDEX.read_text().splitlines()) == stored() != before
    assert all(any(folder.iterdir()) for folder in STORE.rglob("*") if folder.is_dir())
    publishing(published, ())
    assert {path.split("/")[0] for path in stored()} == {"runs"}


def test_what_another_study_publishes_stays_until_the_study_goes(published):
    publishing(published, ("make", "double"))
    first = stored()
    other = Path("studies/other")
    for name in ("code", "data"):
        shutil.copytree(name, other / name, ignore=shutil.ignore_patterns("published*"))
    os.chdir(other)
    published.params["first"] = 4
    published.run()
    publish(published.ledger(), Path("../../data/published").resolve(), studies(), keeping(("make", "double")))
    index = set(INDEX.read_text().splitlines())
    os.chdir("../..")
    assert stored() == first | index != first
    assert first & index  # what both have is there once
    shutil.rmtree(other)
    published.params["first"] = 3
    published.run()
    assert f"{len(index - first)} files were removed" in publishing(published, ("make", "double"))
    assert stored() == first


def studies():
    root = Path("../..").resolve()
    return [root, *root.glob("studies/*")]


def test_a_study_that_is_not_finished_publishes_what_it_has(published):
    Path("code/tell.py").write_text("NAME = 'other'\n")
    said = publishing(published)
    assert said.startswith("2 records") and "; 1 jobs have to run and were left out\n" in said
    assert len([path for path in stored() if path.startswith("runs/")]) == 2


def test_results_are_not_lost_where_what_they_read_came_out_with_other_bytes(published):
    publishing(published)
    before, lock = stored(), Path("dvc.lock").read_text()
    published.produce(FIRST, "as another machine makes it", recompute=True)
    told = "2 results would go out of it, double--a, tell--all: they have to run here"
    with pytest.raises(ValueError, match=rf"^data/published\.txt: {told}"):
        publishing(published)
    assert stored() == before and Path("dvc.lock").read_text() == lock
    published.run()
    assert publishing(published).startswith("3 records and 1 contents")
    assert stored() != before


def test_a_file_that_is_not_what_its_record_says_is_refused(published):
    status, path = Path("data/b.bin").stat(), Path("data/b.bin")
    path.write_bytes(b"\0" + path.read_bytes()[1:])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(ValueError, match=r"^data/b\.bin: is not what its record says: run `make verify` first$"):
        publishing(published)


def test_what_is_published_is_whole(published):
    publishing(published, ("make", "double"))
    store = RunCache(STORE)
    for job in (FIRST, SECOND, THIRD):
        (record,) = store.find(published.ledger().wanted(job), job.products)
        assert record == published.ledger().assess().current[job]
        assert store.holds(record)
