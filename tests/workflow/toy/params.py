from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from stages.ledger.yaml12 import read_yaml

RESOURCES = {"memory": 200, "runtime": 2, "gpus": 0, "rules": {}}


@dataclass(frozen=True)
class Resources:
    values: dict[str, Any]

    def of(self, rule: str) -> SimpleNamespace:
        return SimpleNamespace(**self.values | self.values["rules"].get(rule, {}))


@dataclass(frozen=True)
class Params:
    written: dict[str, Any]
    values: dict[str, Any]
    threads: int
    resources: Resources
    ledger: SimpleNamespace


def load_params(path: Path = Path("params.yaml")) -> Params:
    written = read_yaml(path)
    if not isinstance(written["scale"], int):
        raise ValueError(f"{path}: scale: {written['scale']!r} should be a number.")
    resources = Resources(RESOURCES | written.get("resources", {}))
    ledger = SimpleNamespace(remote=[name for name in [written.get("ledger", {}).get("remote")] if name])
    return Params(written, written, written["threads"], resources, ledger)
