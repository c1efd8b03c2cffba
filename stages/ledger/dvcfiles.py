"""dvc.yaml and dvc.lock: the plan and its results in DVC's words."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from stages.ledger.files import write_whole
from stages.ledger.job import Job
from stages.ledger.runcache import Record
from stages.ledger.yaml12 import dump_as_dvc, read_yaml

PARAMS = "params.yaml"
CODE = "data/code.json"
DEFINITIONS = "dvc.yaml"
LOCK = "dvc.lock"
SCHEMA = "2.0"  # of dvc.lock
LINE = 1 << 20  # long enough that no text is folded
HEADER = "# Generated from params.yaml by `python -m stages plan`: change that file, not this one.\n"


def definitions(jobs: Sequence[Job], plots: list[dict[str, Any]]) -> str:
    """The text of dvc.yaml: one stage a job, and `plots` as DVC's top-level plots."""
    content: dict[str, Any] = {"stages": {job.name: _stage(job) for job in jobs}}
    if plots:
        content["plots"] = plots
    return HEADER + _dump(content)


def defines(text: str, job: Job) -> bool:
    """Whether a text of dvc.yaml has the stage of a job as `definitions` writes it, without looking at other stages."""
    _, stage = _dump({"stages": {job.name: _stage(job)}}).split("\n", 1)
    return re.search(rf"^{re.escape(stage)}(?!    |  -)", text, re.MULTILINE) is not None


def _dump(content: dict[str, Any]) -> str:
    return yaml.dump(content, Dumper=yaml.CSafeDumper, sort_keys=False, width=LINE)


def _stage(job: Job) -> dict[str, Any]:
    stage = {
        "cmd": job.command,
        "deps": sorted(job.inputs),
        "params": [*([{PARAMS: sorted(job.params)}] if job.params else []), {CODE: [job.code]}],
        "outs": [*sorted(job.outputs), *({path: {"cache": False}} for path in sorted(job.tracked))],
        "metrics": [{path: {"cache": False}} for path in sorted(job.metrics)],
    }
    return {part: value for part, value in stage.items() if value}


def read_lock() -> dict[str, Record]:
    """The records of dvc.lock by job name; none where there is no such file.

    Raises:
        ValueError: it is damaged.
    """
    path = Path(LOCK)
    remedy = f"restore it by `git checkout {path}`, or remove it, and the cache makes it anew"
    try:
        content = read_yaml(path) if path.is_file() else None
    except ValueError as error:
        raise ValueError(f"{error}: {remedy}") from None
    if content is None:
        return {}
    records = content.get("stages", {}) if isinstance(content, dict) and content.get("schema") == SCHEMA else None
    if not isinstance(records, dict) or not all(map(_is_record, records.values())):
        raise ValueError(f"{path}: is damaged, expected what DVC writes: {remedy}")
    return records


def _is_record(value: Any) -> bool:
    if not (isinstance(value, dict) and isinstance(value.get("params", {}), dict)):
        return False
    outs = value.get("outs")
    return isinstance(outs, list) and all(
        isinstance(out, dict) and isinstance(out.get("path"), str) and isinstance(out.get("md5"), str) for out in outs
    )


def write_lock(records: dict[str, Record]) -> None:
    """Write dvc.lock as DVC itself formats it."""
    write_whole(Path(LOCK), dump_as_dvc({"schema": SCHEMA, "stages": records}))
