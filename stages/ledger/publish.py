"""Results kept in git: a folder of the repository that is a DVC remote, with what is small and took long to make.

The records of all of a study's jobs go there, and the contents of some: with the records alone, the other results are
known (see `Ledger.assess`), so that a clone computes only those that somebody asks for. An index in each study's folder
says what it published; what no index names any more is removed.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from stages.ledger.files import md5, write_whole
from stages.ledger.job import Job
from stages.ledger.ledger import Ledger, some
from stages.ledger.runcache import Record, RunCache

INDEX = Path("data/published.txt")  # in a study's folder: the files that it published, one a line
OBJECTS = ("files/md5/??/*", "runs/??/*/*")


def publish(
    ledger: Ledger, folder: Path, studies: Iterable[Path], is_kept: Callable[[Job, dict[str, Any]], bool]
) -> str:
    """Publish the results of the study in the working directory, in place of what it published before.

    Args:
        folder: the remote's.
        studies: the folders of all studies that publish there.
        is_kept: whether the content of a job's output, given by its description in the record, is published. Outputs
            that git tracks are not asked about: they are in it already.

    Returns:
        What was published, and of which rules' jobs not all contents, one line each.

    Raises:
        ValueError: a file is not what its record says, or results would be lost for which nothing stands in.
    """
    assessment, *_ = ledger.restore()
    records = {**assessment.current, **assessment.known, **assessment.needed}
    published = RunCache(folder)
    if lost := _lost(ledger, published, records):
        raise ValueError(
            f"{INDEX}: {len(lost)} results would go out of it, {some([job.name for job in lost])}: they have to run "
            "here, as what they read was made again and came out with other bytes. Expected that they have run, or a "
            "clone in which it was not made again."
        )
    ledger.write_lock(assessment)
    contents: set[Path] = set()
    incomplete: Counter[str] = Counter()
    for job, record in records.items():
        outs = [out for out in record["outs"] if out["path"] in job.outputs]
        kept = [out for out in outs if is_kept(job, out) and _keep(published, out)]
        contents.update(published.content(out["md5"]) for out in kept)
        incomplete[job.rule] += kept != outs
        published.add(record)
    named = {*contents, *map(published.record, records.values())}
    write_whole(INDEX, "".join(f"{path.relative_to(folder).as_posix()}\n" for path in sorted(named)))
    removed = _remove_unnamed(folder, studies)
    size = sum(path.stat().st_size for path in contents)
    total = sum(path.stat().st_size for path in _objects(folder))
    lacking = ", ".join(f"{count} {rule}" for rule, count in incomplete.items() if count)
    unknown = len(assessment.stale) - len(assessment.needed)
    left_out = f"; {unknown} jobs have to run and were left out" if unknown else ""
    return (
        f"{len(records)} records and {len(contents)} contents of {size / 1e6:.2f} MB are published, "
        f"{removed} files were removed; {os.path.relpath(folder)} holds {total / 1e6:.2f} MB in all{left_out}\n"
        f"known by their record alone: {lacking or 'none'}"
    )


def _lost(ledger: Ledger, published: RunCache, records: Mapping[Job, Record]) -> list[Job]:
    """The jobs that have a published record as a clone would see them, from published inputs, and none here."""
    outs: dict[str, dict[str, Any]] = {}  # by path, published ones where there are any
    lost = []
    for job in ledger.jobs:
        here = records.get(job)
        inputs = [outs[path] for path in sorted(job.inputs) if path in outs]
        found = published.find(ledger.wanted_of(job, inputs), job.products) if len(inputs) == len(job.inputs) else ()
        record = next(iter(found), here)
        outs |= {out["path"]: out for out in record["outs"]} if record else {}
        if record and not here:
            lost.append(job)
    return lost


def _keep(published: RunCache, out: dict[str, Any]) -> bool:
    """Keep a content that is in place; whether it is published now, or was before."""
    if published.content(out["md5"]).is_file():
        return True
    if not os.path.isfile(out["path"]):
        return False
    if md5(out["path"]) != out["md5"]:
        raise ValueError(f"{out['path']}: is not what its record says: run `make verify` first")
    published.store(out["path"])
    return True


def _remove_unnamed(folder: Path, studies: Iterable[Path]) -> int:
    """Remove what no study's index names, and folders that are empty then; the number of files."""
    indexes = [study / INDEX for study in studies]
    named = {folder / line for index in indexes if index.is_file() for line in index.read_text().splitlines()}
    unnamed = [path for path in _objects(folder) if path not in named]
    for path in unnamed:
        path.unlink()
        for parent in path.parents[:2]:
            if parent != folder and not any(parent.iterdir()):  # DVC fails at a key's folder without a record
                parent.rmdir()
    for scratch in ("tmp", "damaged"):
        shutil.rmtree(folder / scratch, ignore_errors=True)
    return len(unnamed)


def _objects(folder: Path) -> list[Path]:
    return [path for pattern in OBJECTS for path in folder.glob(pattern)]
