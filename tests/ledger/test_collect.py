"""What garbage collection takes, what it keeps, and that it can be killed at any time."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from stages.ledger.collect import DAY, find_garbage
from stages.ledger.yaml12 import read_yaml
from tests.ledger.conftest import FIRST, JOBS, THIRD, Bench

CACHE = Path(".dvc/cache")
SOON, LATER = time.time() + 2 * DAY, time.time() + 31 * DAY
OPERATIONS = ((Path, "unlink"), (Path, "rename"), (shutil, "rmtree"))


def git(*command):
    own = ("-c", "user.name=toy", "-c", "user.email=toy@example.org")
    subprocess.run(["git", *own, *command], check=True, capture_output=True)


def lock(bench):
    ledger = bench.ledger()
    ledger.write_lock(ledger.assess())


@pytest.fixture
def used(bench: Bench) -> Bench:
    """A repository in which all jobs were computed with two settings, and the lock names the results of the second."""
    git("init", "-q")
    Path(".gitignore").write_text("/data/\n/.dvc/cache/\n/.dvc/tmp/\n")
    for first in (3, 4):
        bench.params["first"] = first
        bench.produce_all()
        lock(bench)
    return bench


def is_kept(bench, first):
    """Whether all results of a setting can be restored."""
    bench.params["first"] = first
    assessment = bench.ledger().assess()
    assert not assessment.stale or list(assessment.stale) == JOBS
    return not assessment.stale


def collect(now=LATER, **options):
    garbage = find_garbage(Path(), now=now, **options)
    garbage.remove()
    assert find_garbage(Path(), now=now, **options).is_empty
    return garbage


def test_what_no_lock_names_goes_after_some_days(used):
    assert find_garbage(Path(), now=SOON).is_empty
    contents = sum(path.is_file() for path in CACHE.glob("files/md5/*/*"))
    garbage = find_garbage(Path(), now=SOON, days=1)
    assert sorted(result.rule for result in garbage.results) == ["double", "make", "tell"]
    assert (garbage.kept, len(garbage.contents)) == (3, contents // 2)
    today = time.strftime("%Y-%m-%d")
    assert str(garbage).splitlines()[:2] == [
        "3 results stay.",
        f"3 results would go, last used {today} to {today}: 1 double, 1 make, 1 tell",
    ]
    assert is_kept(used, 3)  # looking removes nothing
    garbage.remove()
    assert is_kept(used, 4)
    assert not is_kept(used, 3)
    assert sum(path.is_file() for path in CACHE.glob("files/md5/*/*")) == contents // 2
    assert find_garbage(Path(), now=SOON, days=1).is_empty


KEEPERS = ["branch", "tag", "stash", "older stash", "experiment", "running experiment", "reflog", "merge", "study"]


@pytest.mark.parametrize("kept_by", KEEPERS)
def test_every_lock_of_the_repository_keeps_what_it_names(used, kept_by):
    git("add", "-A")
    git("commit", "-qm", "of setting 4")
    used.params["first"] = 3
    used.produce_all()
    lock(used)
    if "stash" in kept_by:
        git("stash")
        if kept_by == "older stash":
            Path("dvc.lock").write_text("")
            git("stash")
    elif kept_by in ("study", "running experiment"):
        folder = Path("studies/other" if kept_by == "study" else ".dvc/tmp/exps/standalone/tmp1")
        folder.mkdir(parents=True)
        Path("dvc.lock").rename(folder / "dvc.lock")
        git("checkout", "dvc.lock")
    else:
        git("checkout", "-qb", "side")
        git("commit", "-qam", "of setting 3")
        if kept_by == "tag":
            git("tag", "kept")
        if kept_by == "experiment":
            git("update-ref", "refs/exps/ab/cdef/kept", "side")
        git("checkout", "-q", "-")
        if kept_by == "merge":
            git("merge", "-qs", "ours", "--no-ff", "side")
        if kept_by != "branch":
            git("branch", "-qD", "side")
        if kept_by != "reflog":
            git("reflog", "expire", "--expire=all", "--all")
    collect()
    assert is_kept(used, 3)
    assert is_kept(used, 4)


def test_what_was_used_of_late_stays_with_all_that_it_comes_from(used):
    """Without the results of its inputs the result of the last job could never be restored."""
    used.params["first"] = 3
    for job in JOBS:
        used.produce(job)
    (record,) = (path for path in CACHE.glob("runs/*/*/*") if is_record_of(used, THIRD, path))
    os.utime(record, (LATER - 5, record.stat().st_mtime))
    assert collect().is_empty
    assert is_kept(used, 3)


def is_record_of(bench, job, path):
    record = read_yaml(path)
    return record["cmd"] == job.command and record["deps"] == bench.ledger().wanted(job)["deps"]


def test_looking_is_no_use(used):
    records = list(CACHE.glob("runs/*/*/*"))
    for path in records:
        os.utime(path, (1e9, 1e9))  # accessed no later than modified: the system would set the time of access at a read
    assert len(find_garbage(Path()).results) == 3
    assert [path.stat().st_atime for path in records] == [1e9] * 6


def test_what_a_running_job_may_just_have_stored_stays(used):
    used.ledger().cache.store(Path(".gitignore"))
    assert find_garbage(Path(), days=0, now=time.time()).is_empty
    assert len(find_garbage(Path(), days=0, now=time.time() + 3601).contents) > 0

    garbage = find_garbage(Path(), now=LATER)
    again = garbage.contents[0].path
    os.utime(again)  # stored again meanwhile
    garbage.remove()
    assert [file.path for file in garbage.contents if file.path.exists()] == [again]


@pytest.mark.parametrize("step", range(11))
def test_killed_at_any_time_no_record_promises_what_is_not_there(used, monkeypatch, step):
    steps = iter(range(step))
    garbage = find_garbage(Path(), now=LATER)
    with monkeypatch.context() as patch:
        for owner, name in OPERATIONS:
            patch.setattr(owner, name, interrupted(getattr(owner, name), steps))
        with pytest.raises(KeyboardInterrupt):
            garbage.remove()
    cache = used.ledger().cache
    for key in CACHE.glob("runs/*/*"):
        records = list(key.iterdir())
        assert records  # DVC fails at a key without a record
        assert all(map(cache.holds, map(read_yaml, records)))
    find_garbage(Path(), now=LATER + DAY).remove()
    assert is_kept(used, 4)
    assert not is_kept(used, 3)
    assert find_garbage(Path(), now=LATER + 9 * DAY).is_empty
    assert not list(CACHE.glob("tmp/*"))


def interrupted(operation, steps):
    def operate(*arguments, **options):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return operation(*arguments, **options)

    return operate


def test_one_of_two_records_of_a_key_goes(used):
    assert used.produce(FIRST, "other", recompute=True)
    used.produce_all()
    lock(used)
    keys = [result.file.path.parent for result in collect().results if result.rule == "make"]
    assert len(keys) == 2  # of setting 3, and what setting 4 gave at first
    assert [len(list(key.iterdir())) for key in keys if key.exists()] == [1]
    assert is_kept(used, 4)


def test_an_unreadable_record_keeps_what_it_names_for_as_long(used):
    (record, *_) = (result.file.path for result in find_garbage(Path(), now=LATER).results if result.rule == "make")
    record.write_text("{" + record.read_text())
    assert find_garbage(Path(), now=SOON).is_empty
    assert "unreadable" in [result.rule for result in collect().results]


def test_leftovers_go_after_a_day_and_checkpoints_with_the_results(used):
    Path("studies/other/data/trained").mkdir(parents=True)
    for study in (".", "studies/other"):
        Path(study, "dvc.yaml").write_text("stages: {}\n")
        Path(study, ".checkpoints").mkdir()
    partial = [Path("data/.12-a.bin"), Path("studies/other/data/trained/.34-b.json"), CACHE / "tmp/.56-c"]
    work = [Path(".checkpoints/train.safetensors"), Path("studies/other/.checkpoints/train"), CACHE / "damaged/0f"]
    others = [Path("data/.hidden"), Path("data/12-a.bin"), Path(".12-a.bin")]
    for path in (*partial, *work, *others):
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    assert find_garbage(Path(), now=time.time()).is_empty
    assert sorted(file.path.resolve() for file in collect(now=SOON).leftovers) == sorted(map(Path.resolve, partial))
    assert sorted(file.path.resolve() for file in collect(now=LATER).leftovers) == sorted(map(Path.resolve, work))
    assert all(path.exists() for path in others)


def test_a_shared_cache_needs_the_other_clones(used, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    clone, cache = elsewhere / "clone", elsewhere / "cache"
    shutil.move(CACHE, cache)
    Path(".dvc/config.local").write_text(f"[cache]\n    dir = {cache}\n")
    with pytest.raises(ValueError, match="/cache: lies outside the repository"):
        find_garbage(Path(), now=LATER)
    git("init", "-q", str(clone))
    used.params["first"] = 3
    used.produce_all()
    lock(used)
    Path("dvc.lock").rename(clone / "dvc.lock")
    used.params["first"] = 4
    used.produce_all()
    lock(used)
    assert collect(clones=[clone]).is_empty
    assert not collect(clones=[Path()]).is_empty
    assert is_kept(used, 4)
    assert not is_kept(used, 3)


def test_without_git_nothing_is_known_of_other_branches(bench):
    with pytest.raises(ValueError, match="expected a git repository"):
        find_garbage(Path())
