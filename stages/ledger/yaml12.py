"""YAML 1.2 as DVC reads and writes it: 1e-3 is a number, and `on` is a word.

DVC uses ruamel.yaml, whose reader takes 3 ms a job of dvc.lock. PyYAML's, which is written in C, takes a tenth of that,
once it is told which words of YAML 1.2 are no strings.
"""

import io
import json
import re
from pathlib import Path
from typing import Any, ClassVar

import yaml


class Loader(yaml.CSafeLoader):
    """PyYAML's loader with the plain scalars of YAML 1.2, as ruamel.yaml takes them."""

    yaml_implicit_resolvers: ClassVar[dict[str, list]] = {}  # none of YAML 1.1


def _integer(loader: Loader, node: yaml.ScalarNode) -> int:
    text = node.value.replace("_", "")
    digits = text.lstrip("+-")
    base = {"0b": 2, "0o": 8, "0x": 16}.get(digits[:2], 10)
    return int(text, base)


def _float(loader: Loader, node: yaml.ScalarNode) -> float:
    text = node.value.replace("_", "").lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


SCALARS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "float": (
        r"[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|[-+]?\.[0-9_]+(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    "int": (r"[-+]?0b[0-1_]+|[-+]?0o[0-7_]+|[-+]?0x[0-9a-fA-F_]+|[-+]?[0-9][0-9_]*", "-+0123456789"),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
}
for _kind, (_pattern, _first) in SCALARS.items():
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), list(_first))
Loader.add_constructor("tag:yaml.org,2002:int", _integer)
Loader.add_constructor("tag:yaml.org,2002:float", _float)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text; ValueError where it is none."""
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"is no YAML text: {' '.join(str(error).split())}") from None


def read_yaml(path: Path) -> Any:
    """The value of a YAML file; ValueError, with its name, where it is none."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def dump_as_dvc(content: dict[str, Any]) -> str:
    """A text byte for byte as DVC formats it, so that its own runs change only the lines that changed."""
    from ruamel.yaml import YAML  # 0.1 s, and only who writes needs it

    formatter = YAML()
    formatter.default_flow_style = False
    text = io.StringIO()
    formatter.dump(json.loads(json.dumps(content)), text)  # a copy: what is in it twice would become an alias
    return text.getvalue()
