from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML


@dataclass(frozen=True)
class Params:
    written: dict[str, Any]
    values: dict[str, Any]
    threads: int


def load_params(path: Path = Path("params.yaml")) -> Params:
    written = YAML(typ="safe").load(path.read_text())
    if not isinstance(written["scale"], int):
        raise ValueError(f"{path}: scale: {written['scale']!r} should be a number.")
    return Params(written, written, written["threads"])
