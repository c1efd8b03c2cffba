"""Whether everything still is what dvc.lock says: files by hashing them again, results by computing some again."""

import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from stages.ledger import dvcfiles
from stages.ledger.job import Job
from stages.ledger.ledger import Compute, Ledger


def verify_bytes(ledger: Ledger) -> int:
    """Hash all files, contents and records that dvc.lock names, whatever is remembered of them; name those that differ.

    Damaged contents and records are set aside; a damaged file is restored by the next run, since its digest is
    remembered.

    Returns:
        The number of what is damaged.
    """
    locked = dvcfiles.read_lock().values()
    outs = [out for record in locked for out in record["outs"]]
    files = [ledger.digests.hash_again(out["path"]) for out in outs]
    ledger.digests.remember()
    differing = [
        out["path"] for out, file in zip(outs, files, strict=True) if file is not None and file["md5"] != out["md5"]
    ]
    for path in differing:
        print(f"damaged: {path} is not what dvc.lock says: `snakemake` restores or recomputes it", file=sys.stderr)
    contents = {out["md5"] for out in outs}
    damaged = sum(map(ledger.cache.set_aside_damaged, sorted(contents)))
    damaged += sum(map(ledger.cache.set_aside_damaged_records, locked))
    held = {digest for digest in contents if ledger.cache.content(digest).is_file()}
    here = len(files) - files.count(None) - len(differing)
    absent = sum(file is None and out["md5"] not in held for out, file in zip(outs, files, strict=True))
    print(
        f"{here} of {len(outs)} files are in place and what dvc.lock says, "
        f"{len(held)} of {len(contents)} contents are in the cache"
        + (f"; {absent} files are in neither and were not checked" if absent else "")
    )
    return len(differing) + damaged


def verify_results(
    ledger: Ledger, results: Sequence[Job], compute: Callable[[Job], Compute], count: int, seed: int
) -> int:
    """Compute a random sample of results again, from their inputs in place, and name those that come out different.

    Args:
        results: the jobs to draw from; those that are not up to date, or whose inputs are not in place, are left out.
        compute: how to compute a job.
        count: how many to draw.

    Returns:
        The number of results that differ.
    """
    current = ledger.assess().current
    up_to_date = [job for job in results if job in current]
    candidates = [job for job in up_to_date if ledger.has_inputs(job)]
    drawn = random.Random(seed).sample(candidates, min(count, len(candidates)))
    different = sum(tell_difference(job, ledger.compute_again(job, compute(job), current[job])) for job in drawn)
    print(
        f"{len(drawn) - different} of {len(drawn)} results came out the same, byte for byte, when computed again",
        end="",
    )
    lacking = len(up_to_date) - len(candidates)
    uncheckable = f"; {lacking} others cannot be, since their inputs are not here" if lacking else ""
    print(f" ({len(drawn)} drawn from {len(candidates)} with --seed {seed}{uncheckable})")
    return different


def tell_difference(job: Job, differing: list[str]) -> bool:
    """Name what came out different, if anything did; whether it did."""
    if differing:
        paths = ", ".join(str(Path(path)) for path in differing)
        print(f"different: {job.name} computed again gives other bytes in {paths}", file=sys.stderr)
    return bool(differing)
