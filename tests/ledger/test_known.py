"""Results of which a record is known and the content is nowhere: computed only where somebody asks for the content."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from stages.ledger.collect import DAY, find_garbage
from stages.ledger.files import md5
from stages.ledger.job import Job
from stages.ledger.remote import GIVEN_UP
from stages.ledger.revouch import revouch
from stages.ledger.verify import verify_bytes, verify_results
from tests.ledger.conftest import FIRST, GRID, JOBS, SECOND, THIRD
from tests.ledger.test_verify import computing

CACHE = Path(".dvc/cache")
ALSO = Job("double", "also", ("data/a.bin",), ("also",), ("code/double.py",), "double", ("data/d.bin",))  # a target


def lose(*jobs):
    """Remove all that jobs made, from its place and from the cache."""
    for job in jobs:
        for path in job.products:
            content(path).unlink()
            Path(path).unlink()


def content(path, cache=CACHE):
    """Where a cache keeps the content of a file in place."""
    digest = md5(path)
    return cache / "files/md5" / digest[:2] / digest[2:]


def states(bench, needed=()):
    """The names of jobs by what is to be done about them."""
    found = bench.ledger().assess(needed)
    return {
        state: [job.name for job in getattr(found, state)]
        for state in ("current", "restorable", "known", "stale", "needed")
        if getattr(found, state)
    }


def names(*jobs):
    return [job.name for job in jobs]


def computed_by_a_run(bench, needed=()):
    bench.computed.clear()
    bench.run(needed)
    return bench.computed


def test_what_nobody_asks_for_is_known_and_not_computed(bench):
    bench.run()
    made, locked = bench.files(), Path("dvc.lock").read_bytes()
    lose(FIRST, SECOND)
    assert states(bench) == {"current": names(THIRD), "known": names(FIRST, SECOND)}
    assert computed_by_a_run(bench) == []
    assert Path("dvc.lock").read_bytes() == locked  # which keeps the records
    assert bench.files() == {name: made[name] for name in ("c.csv", "c.json")}


def test_its_record_gives_the_keys_of_what_follows(bench):
    bench.run()
    made = bench.files()
    lose(FIRST)
    for path in (*SECOND.products, *THIRD.products):
        Path(path).unlink()
    assert states(bench) == {"restorable": names(SECOND, THIRD), "known": names(FIRST)}
    assert computed_by_a_run(bench) == []
    assert bench.files() == {name: text for name, text in made.items() if not name.startswith("a.")}


def test_a_target_is_computed_with_all_that_it_needs(bench):
    bench.run()
    made = bench.files()
    lose(SECOND, THIRD)
    assert states(bench) == {"current": names(FIRST), "stale": names(SECOND, THIRD), "needed": names(SECOND, THIRD)}
    lose(FIRST)
    assert states(bench) == {"stale": names(*JOBS), "needed": names(*JOBS)}
    assert computed_by_a_run(bench) == names(*JOBS)
    assert bench.files() == made


def test_what_a_job_that_runs_reads_is_computed_and_no_more(bench):
    bench.run()
    lose(FIRST, SECOND)
    Path("code/tell.py").write_text("NAME = 'other'\n")
    assert states(bench) == {"stale": names(*JOBS), "needed": names(FIRST, SECOND)}
    assert computed_by_a_run(bench) == names(*JOBS)
    lose(FIRST)
    Path("code/tell.py").write_text("NAME = 'third'\n")
    assert states(bench) == {"current": names(SECOND), "known": names(FIRST), "stale": names(THIRD)}
    Path("data/b.bin").unlink()
    assert states(bench) == {"restorable": names(SECOND), "known": names(FIRST), "stale": names(THIRD)}
    assert computed_by_a_run(bench) == names(THIRD)


def test_a_file_that_is_asked_for_is_computed(bench):
    bench.run()
    lose(FIRST, SECOND)
    wanted = ["data/a.json"]
    assert states(bench, wanted) == {
        "current": names(THIRD),
        "known": names(SECOND),
        "stale": names(FIRST),
        "needed": names(FIRST),
    }
    assert computed_by_a_run(bench, wanted) == names(FIRST)
    assert computed_by_a_run(bench, ["data/b.bin"]) == names(SECOND)


@pytest.mark.parametrize("by", ["the lock", "the run-cache"])
def test_either_record_is_enough(bench, by):
    bench.run()
    lose(FIRST, SECOND)
    (Path(CACHE / "runs") if by == "the lock" else Path("dvc.lock")).rename("away")
    if by == "the lock":
        assert states(bench) == {"current": names(THIRD), "known": names(FIRST, SECOND)}
        Path("dvc.lock").unlink()
        assert states(bench) == {"stale": names(*JOBS)}
    else:
        assert computed_by_a_run(bench) == []
        assert Path("dvc.lock").read_bytes() == Path("away").read_bytes()


def test_remotes_are_asked_in_order_for_records_and_contents(bench, monkeypatch, capsys):
    """The first holds all records and a damaged content, the second the record and contents of one job."""
    monkeypatch.setenv(GIVEN_UP, "")  # so that it is as before after the test
    bench.run()
    made = bench.files()
    first, second = Path("first"), Path("second")
    shutil.copytree(CACHE, first)
    shutil.copytree(CACHE, second)
    shutil.rmtree(second / "runs")
    for path in (*FIRST.products, *THIRD.products):
        content(path, second).unlink()
    shutil.rmtree(first / "files")
    spoilt = content("data/b.bin", first)
    spoilt.parent.mkdir(parents=True)
    spoilt.write_text("spoilt")
    texts = "".join(f"['remote \"{name}\"']\nurl = ../{name}\n" for name in ("first", "second"))
    Path(".dvc/config").write_text(texts)
    for path in ("data", CACHE, "dvc.lock"):
        shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()

    assert states(bench) == {"stale": names(*JOBS)}
    bench.remotes = ["first"]
    assert states(bench) == {
        "restorable": names(SECOND),
        "known": names(FIRST),
        "stale": names(THIRD),
        "needed": names(THIRD),
    }
    bench.remotes = ["nowhere", "first", "second"]
    assert computed_by_a_run(bench) == names(THIRD)
    assert bench.files() == {name: text for name, text in made.items() if not name.startswith("a.")}
    told = capsys.readouterr().err
    assert told.count("damaged: what the remote 'first' holds as") == 1
    assert told.count("remote 'nowhere' is not asked in this run") == 1
    assert os.environ[GIVEN_UP] == "nowhere"


def test_a_damaged_content_is_fetched_again(bench, monkeypatch, capsys):
    bench.run()
    made = bench.files()
    shutil.copytree(CACHE, "store")
    Path(".dvc/config").write_text("['remote \"store\"']\nurl = ../store\n")
    bench.remotes = ["store"]
    damaged = content("data/b.bin")
    damaged.chmod(0o644)
    damaged.write_text("damaged")
    shutil.rmtree("data")
    assert computed_by_a_run(bench) == []
    assert f"damaged: {damaged.absolute()} does not hold what its name says: moved to" in capsys.readouterr().err
    assert bench.files() == made
    assert damaged.read_text() == made["b.bin"]


def test_a_record_of_other_settings_makes_nothing_known(bench):
    bench.run()
    lose(FIRST)
    bench.params["first"] = 4
    assert states(bench) == {"stale": names(*JOBS)}


def test_files_of_other_settings_do_not_stay_in_place_of_what_is_absent(bench):
    bench.run()
    made = bench.files()
    lose(FIRST)
    bench.params["first"] = 4
    bench.run()
    bench.params["first"] = 3
    Path("data/a.json").write_text(made["a.json"])  # what is right stays
    assert states(bench) == {"restorable": names(SECOND, THIRD), "known": names(FIRST)}
    assert computed_by_a_run(bench) == []
    assert bench.files() == {name: text for name, text in made.items() if name != "a.bin"}
    bench.params["first"] = 4
    assert computed_by_a_run(bench) == []  # the cache has what was removed


def test_other_bytes_than_recorded_are_told_and_what_follows_runs_on_them(bench, capsys):
    """Of two jobs that read them, one has to run and gets them at once, the other in the next run."""
    bench.jobs = [*JOBS, ALSO]
    bench.params["also"] = 1
    bench.run()
    lose(FIRST)
    bench.params["also"] = 2
    capsys.readouterr()
    assessment, *_ = bench.ledger().restore()
    bench.ledger().write_lock(assessment)
    assert list(assessment.stale) == [FIRST, ALSO]
    bench.produce(FIRST, "other")
    bench.produce(ALSO)
    assert "other" in Path("data/d.bin").read_text()
    assert capsys.readouterr().err == ""
    assert computed_by_a_run(bench) == names(SECOND, THIRD)
    assert capsys.readouterr().err == (
        "different: make--a came out with other bytes than dvc.lock said: "
        "what follows runs on these, now or in the next run\n"
    )
    assert "other" in Path("data/c.csv").read_text()
    assert computed_by_a_run(bench) == []
    assert capsys.readouterr().err == ""


def test_many_results_of_other_bytes_are_told_in_one_sentence(grid, capsys):
    lose(*GRID)
    capsys.readouterr()
    for job in grid.ledger().assess().stale:
        grid.produce(job, f"other {job.name}")
    ledger = grid.ledger()
    ledger.write_lock(ledger.assess())
    (told,) = capsys.readouterr().err.splitlines()
    named = ", ".join(f"make--0{number}" for number in range(5))
    assert told.startswith(f"different: {named} and 35 others came out with other bytes than dvc.lock said: ")
    # What was made from them has other inputs, and was never said to be anything.


def test_the_same_bytes_are_no_news(bench, capsys):
    bench.run()
    lose(*JOBS)
    bench.run()
    assert capsys.readouterr().err == ""


def test_verify_says_what_it_could_not_check(bench, capsys):
    bench.run()
    lose(SECOND)
    assert verify_bytes(bench.ledger()) == 0
    assert capsys.readouterr().out == (
        "4 of 5 files are in place and what dvc.lock says, 4 of 5 contents are in the cache; "
        "1 files are in neither and were not checked\n"
    )
    assert verify_results(bench.ledger(), [FIRST, THIRD], computing(bench), 5, 0) == 0
    assert capsys.readouterr().out == (
        "1 of 1 results came out the same, byte for byte, when computed again "
        "(1 drawn from 1 with --seed 0; 1 others cannot be, since their inputs are not here)\n"
    )


def tidy():
    for path in Path("code").iterdir():
        path.write_text(path.read_text() + "UNUSED = 0\n")


def test_records_are_carried_over_to_code_that_gives_what_they_say(bench, capsys):
    bench.run()
    lose(SECOND)
    tidy()
    assert revouch(bench.ledger(), computing(bench), 5, 0, bench.codes)
    said = capsys.readouterr().out
    assert "2 of 2 came out the same, byte for byte (drawn from 2" in said
    assert "3 results now stand under the new code" in said
    assert states(bench) == {"current": names(FIRST, THIRD), "known": names(SECOND)}
    Path("dvc.lock").unlink()
    assert states(bench) == {"current": names(FIRST, THIRD), "known": names(SECOND)}


def test_no_record_is_carried_over_to_code_that_gives_something_else(bench, capsys):
    bench.run()
    lose(SECOND)
    tidy()
    assert not revouch(bench.ledger(), computing(bench, {SECOND: "other"}), 5, 0, bench.codes)
    assert "different: double--a computed again gives other bytes in data/b.bin" in capsys.readouterr().err
    assert states(bench) == {"stale": names(*JOBS)}


def test_nothing_is_carried_over_unless_something_can_be_computed_again(bench, capsys):
    bench.run()
    lose(SECOND)
    tidy()
    assert not revouch(bench.ledger(), computing(bench), 5, 0, bench.codes, ("tell",))
    assert "of 1 results none has its inputs here" in capsys.readouterr().out


def test_garbage_collection_keeps_a_record_that_the_lock_names(bench):
    subprocess.run(["git", "init", "-q"], check=True)
    bench.run()
    lose(SECOND)
    records = set(CACHE.glob("runs/*/*/*"))
    find_garbage(Path(), now=max(path.stat().st_mtime for path in records) + 40 * DAY).remove()
    assert set(CACHE.glob("runs/*/*/*")) == records
    Path("dvc.lock").unlink()
    assert states(bench) == {"current": names(FIRST, THIRD), "known": names(SECOND)}
