"""dvc.yaml and dvc.lock: the plan and its results in DVC's words."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML

from stages.ledger.files import write_whole
from stages.ledger.job import Job
from stages.ledger.runcache import Record, read_yaml

PARAMS = "params.yaml"
CODE = "data/code.json"
DEFINITIONS = "dvc.yaml"
LOCK = "dvc.lock"
LINE = 1 << 20  # long enough that no text is folded
HEADER = "# Generated from params.yaml by `python -m stages plan`: change that file, not this one.\n"


def definitions(jobs: Sequence[Job], plots: list[dict[str, Any]]) -> str:
    """The text of dvc.yaml: one stage a job, and `plots` as DVC's top-level plots."""
    content = {"stages": {job.name: _stage(job) for job in jobs}}
    if plots:
        content["plots"] = plots
    return HEADER + yaml.dump(content, Dumper=yaml.CSafeDumper, sort_keys=False, width=LINE)


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
    """The records of dvc.lock by job name; none where there is no such file."""
    path = Path(LOCK)
    return (read_yaml(path) or {}).get("stages", {}) if path.is_file() else {}


def write_lock(records: dict[str, Record]) -> None:
    """Write dvc.lock as DVC itself formats it, so that its own runs change only what changed."""
    formatter = YAML()
    formatter.default_flow_style = False
    text = io.StringIO()
    formatter.dump({"schema": "2.0", "stages": records}, text)
    write_whole(Path(LOCK), text.getvalue())
