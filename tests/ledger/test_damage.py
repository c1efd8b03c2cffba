"""Bytes that are not what they were: in the cache, in dvc.lock, in what is remembered of digests."""

import json
import random
import shutil
from pathlib import Path

import pytest

from stages.ledger.yaml12 import parse_yaml
from tests.ledger.conftest import GRID

CONTENTS, RECORDS, DAMAGED = ".dvc/cache/files", ".dvc/cache/runs", Path(".dvc/cache/damaged")
AT_ONCE = 30  # objects that are damaged in one round


def flip(content, chance):
    """Another byte somewhere, often one that differs in a single bit."""
    index = chance.choice([0, len(content) // 2, len(content) - 1, *[chance.randrange(len(content))] * 5])
    other = content[index] ^ chance.choice([1 << chance.randrange(8), chance.randrange(1, 256)])
    return content[:index] + bytes([other]) + content[index + 1 :]


def digit(content, chance):
    """Another digit in place of one, so that the text stays well-formed."""
    index = chance.choice([index for index, byte in enumerate(content) if chr(byte).isdigit()])
    other = chance.choice([value for value in b"0123456789" if value != content[index]])
    return content[:index] + bytes([other]) + content[index + 1 :]


HARMS = {
    "a byte": flip,
    "a digit": digit,
    "longer": lambda content, _: content + b"\0",
    "shorter": lambda content, _: content[:-1],
    "truncated": lambda content, chance: content[: chance.randrange(1, len(content) - 1)],
    "emptied": lambda *_: b"",
    "deleted": lambda *_: None,
}


def harm(path, how, chance):
    before = path.read_bytes()
    after = HARMS[how](before, chance)
    path.chmod(0o644)
    path.unlink()
    if after is not None:
        path.write_bytes(after)
    return before, after


def says_the_same(before, after):
    """Whether a harmed record still holds all but sizes, which are in no name and never used."""
    try:
        return after is not None and without_sizes(json.loads(before)) == without_sizes(parse_yaml(after.decode()))
    except ValueError:
        return False


def lost_of(harmed):
    """The harmed objects that give nothing back."""
    return [path for path, bytes_ in harmed.items() if path.is_relative_to(CONTENTS) or not says_the_same(*bytes_)]


def without_sizes(value):
    if isinstance(value, dict):
        return {key: without_sizes(item) for key, item in value.items() if key != "size"}
    return [without_sizes(item) for item in value] if isinstance(value, list) else value


def makers(bench):
    """The job that each object of the cache is a result of."""
    found = {}
    for path in Path(RECORDS).glob("??/*/*"):
        record = json.loads(path.read_text())
        rule, item = record["cmd"].split()[-2:]
        name = f"{rule}--{item}"
        found[path] = name
        found |= {Path(CONTENTS, "md5", out["md5"][:2], out["md5"][2:]): name for out in record["outs"]}
    return found


@pytest.mark.parametrize("how", HARMS)
def test_harm_in_the_cache_is_found_told_set_aside_and_mended(grid, capsys, how):
    chance = random.Random(how)
    made, cached = grid.bytes_in("data"), grid.bytes_in(CONTENTS, RECORDS)
    locked = Path("dvc.lock").read_bytes()
    made_by = makers(grid)
    objects = chance.sample(sorted(made_by), len(made_by))
    assert len(objects) > 200
    if how not in ("a byte", "a digit"):
        objects = objects[:AT_ONCE]
    for start in range(0, len(objects), AT_ONCE):
        harmed = {path: harm(path, how, chance) for path in objects[start : start + AT_ONCE]}
        lost = lost_of(harmed)
        shutil.rmtree("data")
        Path("dvc.lock").unlink()
        capsys.readouterr()
        grid.computed.clear()
        grid.run(grid.everything)

        told = capsys.readouterr().err
        assert grid.bytes_in("data") == made
        assert Path("dvc.lock").read_bytes() == locked
        assert sorted(grid.computed) == sorted({made_by[path] for path in lost})
        whole = grid.bytes_in(CONTENTS, RECORDS)
        for path in lost:
            after = harmed[path][1]
            if after is not None:
                assert f"damaged: {path.absolute()} does not hold what its name says: moved to" in told
                assert (DAMAGED / f"{path.parent.name}{path.name}").read_bytes() == after
        assert told.count("damaged:") == sum(harmed[path][1] is not None for path in lost)
        for path in harmed.keys() - lost:
            assert str(path.absolute()) not in told
            path.write_bytes(harmed[path][0])
            whole[str(path)] = harmed[path][0]
        assert whole == cached


@pytest.mark.parametrize("seed", range(4))
def test_a_dry_look_says_what_a_run_then_does_and_changes_nothing(grid, seed):
    chance = random.Random(seed)
    made_by = makers(grid)
    harmed = {path: harm(path, chance.choice(list(HARMS)), chance) for path in chance.sample(sorted(made_by), 20)}
    for path in chance.sample(sorted(Path("data").rglob("*.*")), 60):
        path.unlink()
    if seed % 2:
        Path("dvc.lock").unlink()
    before = everything()
    looked = grid.ledger().assess(grid.everything)
    assert everything() == before
    assert looked.restorable and looked.stale

    assessment, restored, fetched = grid.ledger().restore(grid.everything)
    assert (assessment.stale, restored, fetched) == (looked.stale, len(looked.restorable), 0)
    assert assessment.current.keys() == looked.current.keys() | looked.restorable.keys()
    grid.run(grid.everything)
    assert set(grid.computed) == {job.name for job in looked.stale} & {made_by[path] for path in lost_of(harmed)}
    assert list(grid.ledger().assess().current) == GRID


def everything():
    status = {path: path.stat() for path in sorted(Path().rglob("*"))}
    return {
        path: (found.st_mode, found.st_ino, found.st_mtime_ns, path.is_file() and path.read_bytes())
        for path, found in status.items()
    }


def test_a_wrong_size_in_a_record_or_the_lock_reaches_nothing(grid):
    """DVC's names vouch for no sizes."""
    locked = Path("dvc.lock").read_text()
    for path in Path(RECORDS).glob("??/*/*"):
        record = json.loads(path.read_text())
        for part in (*record["outs"], *record.get("deps", [])):
            part["size"] += 1
        path.write_text(json.dumps(record))
    Path("dvc.lock").write_text(locked.replace("size: ", "size: 1"))
    shutil.rmtree("data")
    grid.run()
    assert grid.computed == []
    assert Path("dvc.lock").read_text() == locked


def test_a_damaged_lock_gives_a_right_run_or_one_sentence(grid):
    made, chance = grid.bytes_in("data"), random.Random(0)
    grid.jobs = GRID[:2] + GRID[40:42]  # so that it is short, and every byte has its chance
    grid.run()
    locked = Path("dvc.lock").read_bytes()
    outcomes = []
    for number in range(120):
        how = ("a byte", "a byte", "a digit", "truncated", "emptied")[number % 5]
        harm(Path("dvc.lock"), how, chance)
        outcomes.append(outcome(grid, locked))
        assert grid.bytes_in("data") == made
        assert grid.computed == []
    assert set(outcomes) == {"right", "told"}


def outcome(bench, locked):
    for path in bench.jobs[1].products:
        Path(path).unlink()
    try:
        bench.run()
    except ValueError as error:
        assert str(error).startswith("dvc.lock: ")
        assert str(error).endswith("restore it by `git checkout dvc.lock`, or remove it, and the cache makes it anew")
        assert "\n" not in str(error)
        Path("dvc.lock").unlink()
        bench.run()
        told = "told"
    else:
        told = "right"
    assert parse_yaml(Path("dvc.lock").read_text()) == parse_yaml(locked.decode())
    Path("dvc.lock").write_bytes(locked)
    return told


@pytest.mark.parametrize("text", ["[]", "schema: '2.0'\nstages: 3", "schema: '3.0'\nstages: {}", "a", "\xff"])
def test_a_lock_of_another_form_is_told(bench, text):
    Path("dvc.lock").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"^dvc\.lock: .*: restore it by `git checkout dvc\.lock`"):
        bench.ledger().assess()


def test_damage_in_what_is_remembered_costs_hashing_alone(grid):
    grid.jobs = GRID[:8]
    grid.run()
    memory = Path(".dvc/tmp/digests")
    remembered = memory.read_bytes()
    assert b"data/made/00.bin" in remembered
    chance = random.Random(0)
    for number in range(200):
        how = ("a byte", "a digit", "truncated", "emptied")[number % 4]
        harm(memory, how, chance)
        assessment = grid.ledger().assess()
        assert assessment.current == {job: assessment.locked[job.name] for job in grid.jobs}
        memory.write_bytes(remembered)
    memory.write_bytes(b"\xff")
    ledger = grid.ledger()
    ledger.write_lock(ledger.assess())
    assert memory.read_bytes().partition(b"\n")[2]


def test_what_was_remembered_is_not_trusted_after_a_digit_changed(grid):
    """A wrong digest of a file in place would make its job look stale, or vouch for what is not there."""
    memory = Path(".dvc/tmp/digests")
    true = grid.ledger().digests("data/made/00.bin")["md5"]
    memory.write_text(memory.read_text().replace(true, "0" * 32))
    assert grid.ledger().digests("data/made/00.bin")["md5"] == true


def test_settings_equal_to_python_alone_are_not_the_same(bench):
    bench.params["first"] = 1
    bench.run()
    for other in (True, 1.0):
        bench.params["first"] = other
        assert bench.jobs[0] in bench.ledger().assess().stale
