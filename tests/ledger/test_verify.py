import os
from pathlib import Path

from stages.ledger.verify import verify_bytes, verify_results
from tests.ledger.conftest import FIRST, JOBS, SECOND, THIRD

CACHE = Path(".dvc/cache")


def computing(bench, texts=None):
    """How to compute each job, some of them to other texts than at first."""
    return lambda job: lambda outputs: bench.compute(job, outputs, (texts or {}).get(job))


def harm(path):
    """Change a byte and leave size and modification time as they are."""
    status = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"\0" + path.read_bytes()[1:])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_mtime_ns, path.stat().st_size) == (status.st_mtime_ns, status.st_size)


def test_all_is_what_the_lock_says(bench, capsys):
    bench.run()
    assert verify_bytes(bench.ledger()) == 0
    told = capsys.readouterr()
    assert told.out == "5 of 5 files are in place and what dvc.lock says, 5 of 5 contents are in the cache\n"
    assert told.err == ""


def test_damage_in_place_is_found_though_time_and_size_stay_and_the_next_run_mends_it(bench, capsys):
    bench.run()
    made = bench.files()
    harm(Path("data/a.bin"))
    assert list(bench.ledger().assess().current) == JOBS  # which looks at time and size alone
    assert verify_bytes(bench.ledger()) == 1
    told = capsys.readouterr()
    assert "damaged: data/a.bin is not what dvc.lock says" in told.err
    assert told.out.startswith("4 of 5 files")
    bench.computed.clear()
    bench.run()
    assert bench.files() == made
    assert bench.computed == []
    assert verify_bytes(bench.ledger()) == 0


def test_damage_in_the_cache_is_set_aside_and_the_next_run_keeps_what_is_in_place(bench, capsys):
    bench.run()
    cached = bench.bytes_in(str(CACHE))
    content = min(CACHE.glob("files/md5/??/*"))
    record = min(CACHE.glob("runs/??/*/*"))
    harm(content)
    harm(record)
    assert verify_bytes(bench.ledger()) == 2
    told = capsys.readouterr()
    assert told.err.count("damaged: ") == 2
    assert str(content) in told.err and str(record) in told.err
    assert told.out.endswith("4 of 5 contents are in the cache\n")
    assert not content.exists() and not record.exists()

    bench.computed.clear()
    bench.run()
    assert bench.computed == []
    found = bench.bytes_in(str(CACHE))
    assert {path: found.get(path) for path in cached} == cached


def test_missing_files_and_contents_are_counted_and_no_damage(bench, capsys):
    bench.run()
    Path("data/b.bin").unlink()
    min(CACHE.glob("files/md5/??/*")).unlink()
    assert verify_bytes(bench.ledger()) == 0
    assert capsys.readouterr().out.startswith("4 of 5 files are in place and what dvc.lock says, 4 of 5 contents")


def test_results_computed_again_are_compared_and_stay(bench, capsys):
    bench.run()
    made, cached = bench.bytes_in("data"), bench.bytes_in(str(CACHE))
    assert verify_results(bench.ledger(), JOBS, computing(bench), 3, 0) == 0
    assert capsys.readouterr().out == (
        "3 of 3 results came out the same, byte for byte, when computed again (3 drawn from 3 with --seed 0)\n"
    )
    other = computing(bench, {SECOND: "other"})
    assert verify_results(bench.ledger(), JOBS, other, 3, 0) == 1
    told = capsys.readouterr()
    assert told.err == "different: double--a computed again gives other bytes in data/b.bin\n"
    assert told.out.startswith("2 of 3 results")
    assert (bench.bytes_in("data"), bench.bytes_in(str(CACHE))) == (made, cached)


def test_only_what_is_up_to_date_is_drawn_and_no_more_than_asked(bench, capsys):
    bench.run()
    bench.params["second"]["factor"] = 9
    bench.computed.clear()
    assert verify_results(bench.ledger(), JOBS, computing(bench), 5, 0) == 0
    assert bench.computed == [FIRST.name]
    assert "(1 drawn from 1 with" in capsys.readouterr().out
    assert verify_results(bench.ledger(), [THIRD], computing(bench), 5, 0) == 0
    assert capsys.readouterr().out.startswith("0 of 0 results")


def test_seeds_draw_different_samples(grid):
    drawn = []
    for seed in (0, 0, 1):
        grid.computed.clear()
        verify_results(grid.ledger(), grid.jobs, computing(grid), 5, seed)
        drawn.append(tuple(grid.computed))
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 5


def test_no_checkpoint_of_a_result_computed_again_stays(bench):
    bench.run()

    def keeps_a_checkpoint(outputs):
        outputs.checkpoint.parent.mkdir(exist_ok=True)
        outputs.checkpoint.write_text("half")
        bench.compute(FIRST, outputs)

    assert verify_results(bench.ledger(), [FIRST], lambda _: keeps_a_checkpoint, 1, 0) == 0
    assert list(Path(".checkpoints").iterdir()) == []
