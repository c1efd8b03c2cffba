import json
import shutil
from pathlib import Path

import pytest

from stages.ledger.revouch import codes_of, revouch
from tests.ledger.conftest import FIRST, JOBS, SECOND, THIRD
from tests.ledger.test_verify import computing, harm


def tidy(*names):
    for name in names:
        path = Path(f"code/{name}.py")
        path.write_text(path.read_text() + "UNUSED = 0\n")


def run_again(bench):
    """The jobs that a run now computes."""
    bench.computed.clear()
    bench.run()
    return bench.computed


def test_results_that_come_out_the_same_are_carried_over_along_a_chain(bench, capsys):
    bench.run()
    made = bench.files()
    tidy("make", "double", "tell")
    assert bench.ledger().assess().stale == tuple(JOBS)
    bench.computed.clear()
    assert revouch(bench.ledger(), computing(bench), 1, 0, bench.codes)
    assert len(bench.computed) == 1
    told = capsys.readouterr().out
    assert told.startswith("1 of 1 came out the same, byte for byte (drawn from 3 with --seed 0; they cover 1 of 3")
    assert told.endswith("3 results now stand under the new code\n")
    bench.ledger().check_generated()
    assert list(bench.ledger().assess().current) == JOBS
    for path in Path("data").glob("?.*"):
        path.unlink()
    assert run_again(bench) == []  # the cache vouches for them, too
    assert bench.files() == made | {"code.json": Path("data/code.json").read_text()}


def test_nothing_is_carried_over_where_one_differs(bench, capsys):
    bench.run()
    tidy("make", "double", "tell")
    before = bench.bytes_in(".dvc/cache", "data"), Path("dvc.lock").read_bytes()
    assert not revouch(bench.ledger(), computing(bench, {THIRD: "other"}), 3, 0, bench.codes)
    assert (bench.bytes_in(".dvc/cache", "data"), Path("dvc.lock").read_bytes()) == before
    told = capsys.readouterr()
    assert told.err == "different: tell--all computed again gives other bytes in data/c.csv, data/c.json\n"
    assert "Nothing was carried over" in told.out
    assert run_again(bench) == [job.name for job in JOBS]


def test_only_results_of_the_named_rules_are_carried_over(bench, capsys):
    bench.run()
    tidy("make", "double", "tell")
    assert revouch(bench.ledger(), computing(bench, {THIRD: "other"}), 5, 0, bench.codes, ["make", "double"])
    assert capsys.readouterr().out.endswith("2 results now stand under the new code\n")
    assert run_again(bench) == [THIRD.name]


def test_what_stands_under_its_code_is_left_alone(bench, capsys):
    bench.run()
    bench.computed.clear()
    assert revouch(bench.ledger(), computing(bench), 5, 0, bench.codes)
    tidy("double")
    assert revouch(bench.ledger(), computing(bench), 5, 0, bench.codes)
    assert bench.computed == [SECOND.name]
    assert capsys.readouterr().out.startswith("Nothing to carry over")
    assert list(bench.ledger().assess().current) == JOBS


def test_changed_settings_are_never_carried_over(bench):
    bench.run()
    tidy("make", "double", "tell")
    bench.params["second"]["factor"] = 7
    assert revouch(bench.ledger(), computing(bench), 5, 0, bench.codes)
    assert bench.ledger().assess().stale == (SECOND, THIRD)
    assert run_again(bench) == [SECOND.name, THIRD.name]


def test_changed_inputs_are_never_carried_over(bench):
    bench.run()
    tidy("double")
    bench.params["first"] = 4
    bench.produce(FIRST)
    assert revouch(bench.ledger(), computing(bench), 5, 0, bench.codes)
    assert run_again(bench) == [SECOND.name, THIRD.name]


def test_files_changed_by_hand_are_never_carried_over(bench):
    bench.run()
    tidy("double", "tell")
    Path("data/b.bin").write_text("by hand")
    assert revouch(bench.ledger(), computing(bench), 5, 0, bench.codes)
    assert SECOND.name in run_again(bench)


def test_a_file_damaged_in_silence_is_not_carried_over(bench):
    """Time and size as they were: only computing it again, or hashing it, tells."""
    bench.run()
    tidy("make", "double")
    harm(Path("data/b.bin"))
    cached = bench.bytes_in(".dvc/cache")
    assert not revouch(bench.ledger(), computing(bench), 2, 0, bench.codes)
    assert bench.bytes_in(".dvc/cache") == cached
    bench.computed.clear()
    with pytest.raises(ValueError, match=r"^double--a: its files are not what dvc\.lock says"):
        revouch(bench.ledger(), computing(bench), 1, 1, bench.codes)
    assert bench.computed == [FIRST.name]  # which is the same
    assert set(run_again(bench)) <= {SECOND.name}
    assert "data/b.bin" in Path("data/b.bin").read_text()


@pytest.mark.parametrize("count", [0, -1])
def test_no_sample_proves_nothing(bench, count):
    bench.run()
    tidy("make")
    with pytest.raises(ValueError, match=f"^--count: {count} "):
        revouch(bench.ledger(), computing(bench), count, 0, bench.codes)
    assert bench.ledger().assess().stale == tuple(JOBS)


@pytest.mark.parametrize("seed", range(5))
def test_each_changed_code_is_drawn_before_any_second(grid, seed):
    tidy("make", "double", "tell")
    assert revouch(grid.ledger(), computing(grid), 3, seed, grid.codes)
    assert sorted(name.partition("--")[0] for name in grid.computed) == ["double", "make", "tell"]
    assert run_again(grid) == []


def test_more_than_there_are_draws_all(grid):
    tidy("make")
    assert revouch(grid.ledger(), computing(grid), 1000, 0, grid.codes)
    assert len(grid.computed) == len(set(grid.computed)) == 40


def test_results_of_older_code_are_left_alone(bench, capsys):
    """The first edit may have changed them: nobody has said that it did not, and their files are gone."""
    bench.run()
    Path("data/b.bin").unlink()
    shutil.rmtree(".dvc/cache")
    tidy("double")
    bench.codes |= {job.code: bench.ledger().code(job) for job in JOBS}  # a commit of it, which computes nothing
    tidy("make", "double", "tell")
    assert revouch(bench.ledger(), computing(bench), 5, 0, bench.codes)
    assert capsys.readouterr().out.endswith("2 results now stand under the new code\n")
    assert SECOND.name in run_again(bench)


def test_a_commit_that_git_does_not_know_is_named():
    with pytest.raises(ValueError, match=r"git show failed, expected a git repository: .*nonsense"):
        codes_of("nonsense")


def test_codes_of_a_commit_are_those_of_the_study():
    assert codes_of("HEAD").keys() == json.loads(Path("data/code.json").read_text()).keys()
