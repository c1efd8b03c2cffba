"""Carry results over to changed code that should not change them, after computing a sample of them again.

Any edit beyond comments changes the digest of the code and makes what it computed stale. Where the edit only tidied up,
computing everything again would tell little more than a sample does.
"""

import json
import os
import random
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from stages.ledger import dvcfiles
from stages.ledger.git import git
from stages.ledger.job import Job
from stages.ledger.ledger import Compute, Ledger
from stages.ledger.runcache import Record, same_origin
from stages.ledger.verify import tell_difference


@dataclass(frozen=True)
class Vouched:
    """A job of which nothing but the code changed since its record, and whose outputs are in place or known by it."""

    job: Job
    record: Record  # under the code as it is now
    in_place: bool


def codes_of(commit: str) -> dict[str, str]:
    """The digests of a study's code as a commit has them in data/code.json.

    Raises:
        ValueError: git knows no such commit, or no such file in it.
    """
    return json.loads(git(Path(), "show", f"{commit}:./{dvcfiles.CODE}"))


def candidates(ledger: Ledger, before: Mapping[str, str], rules: Container[str] = ()) -> Iterator[Vouched]:
    """The jobs (of these rules, or of all) whose results could be carried over from the code `before`, in the plan's
    order. dvc.lock keeps results of jobs that have not run again since older edits, too, of which nobody has said that
    they change nothing.
    """
    locked = dvcfiles.read_lock()
    recorded = {out["path"]: out for record in locked.values() for out in record["outs"]}
    for job in ledger.jobs:
        if rules and job.rule not in rules:
            continue
        record = locked.get(job.name)
        inputs = [ledger.digests(path) or recorded.get(path) for path in sorted(job.inputs)]
        if record is None or None in inputs or not _code(record).items() <= before.items():
            continue
        outs = ledger.in_place(record)
        if not outs and any(os.path.exists(out["path"]) for out in record["outs"]):
            continue
        wanted = ledger.wanted_of(job, inputs)
        if not same_origin(record, wanted) and same_origin(_without_code(record), _without_code(wanted)):
            yield Vouched(job, {**wanted, "outs": outs or record["outs"]}, bool(outs))


def revouch(
    ledger: Ledger,
    compute: Callable[[Job], Compute],
    count: int,
    seed: int,
    before: Mapping[str, str],
    rules: Container[str] = (),
) -> bool:
    """Compute a random sample of the candidates again. Only if every one is the same, record all under the new code.

    Args:
        compute: how to compute a job.
        count: how many to compute again; of each changed code one is drawn before any second.
        before: the digests of the code before the change; results of older code are left alone.
        rules: whose results are carried over, those of all if there is none; the code of others may change results.

    Returns:
        Whether none came out different.

    Raises:
        ValueError: the count is below one, or a file changed in a way that only hashing it tells.
    """
    if count < 1:
        raise ValueError(f"--count: {count} results would prove nothing, expected 1 or more")
    found = list(candidates(ledger, before, rules))
    if not found:
        print("Nothing to carry over: no result of the code before the change differs from what is wanted in it alone")
        return True
    computable = [vouched for vouched in found if ledger.has_inputs(vouched.job)]
    if not computable:
        print(f"Nothing was carried over: of {len(found)} results none has its inputs here, to be computed again")
        return False
    drawn = _draw(computable, count, random.Random(seed))
    codes = {vouched.job.code for vouched in found}
    different = [
        vouched
        for vouched in drawn
        if tell_difference(vouched.job, ledger.compute_again(vouched.job, compute(vouched.job), vouched.record))
    ]
    covered = {vouched.job.code for vouched in drawn}
    print(
        f"{len(drawn) - len(different)} of {len(drawn)} came out the same, byte for byte "
        f"(drawn from {len(computable)} with --seed {seed}; they cover {len(covered)} of {len(codes)} changed codes)"
    )
    if different:
        print("Nothing was carried over: run `snakemake` to compute all of them")
        return False
    for vouched in found:
        if not vouched.in_place:
            ledger.cache.add(vouched.record)
        elif not ledger.cache.keep(vouched.record):
            raise ValueError(f"{vouched.job.name}: its files are not what dvc.lock says: run `make verify` first")
    ledger.write_generated()
    ledger.write_lock(ledger.assess())
    print(f"{len(found)} results now stand under the new code")
    return True


def _draw(found: list[Vouched], count: int, chance: random.Random) -> list[Vouched]:
    """A random sample that repeats no code before each was drawn."""
    shuffled = chance.sample(found, len(found))
    seen: dict[str, int] = {}
    turns = []
    for vouched in shuffled:
        seen[vouched.job.code] = seen.get(vouched.job.code, 0) + 1
        turns.append(seen[vouched.job.code])
    order = sorted(range(len(shuffled)), key=turns.__getitem__)
    return [shuffled[index] for index in order[:count]]


def _code(record: Record) -> dict[str, str]:
    return record.get("params", {}).get(dvcfiles.CODE, {})


def _without_code(record: Record) -> Record:
    params = {file: values for file, values in record.get("params", {}).items() if file != dvcfiles.CODE}
    return {**record, "params": params}
