"""What the plugin folders offer, read from the source without importing it, so that a wrong setting is refused at once.

A plugin is a file that defines its folder's function, a defense one of two. Its settings (knobs) are the keyword-only
parameters that the contract does not name; its constants are the upper-case names that it assigns literals, or
arithmetic on them, to.
"""

import ast
import operator
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, create_model

from stages import knobs as knob_types
from stages.norms import NORMS, has_budgets

STAGES = Path(__file__).parent


class PluginError(ValueError):
    """A plugin that does not keep its folder's contract, in one sentence."""


class Contract(NamedTuple):
    """The functions of which a folder's plugins define one, and their keyword-only parameters that are not settings."""

    functions: tuple[str, ...]
    arguments: frozenset[str] = frozenset()


CONTRACTS = {
    "datasets": Contract(("load",)),
    "models": Contract(("network",)),
    "schemes": Contract(("quantize",), frozenset({"reference"})),
    "defenses": Contract(("loss", "filter"), frozenset({"generator", "teacher", "sources"})),
    "attacks": Contract(("attack",), frozenset({"epsilons", "generator"})),
    "faults": Contract(("attack",), frozenset({"flips", "generator", "goal"})),
    "claims": Contract(("claims",)),
}

OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
}

# What the attacker of an attack sees: the network with its gradients, its logits alone, nothing.
THREATS = ("white_box", "black_box", "noise")

LABEL = "__"  # in a defense's name, between its file and what tells it from others of that file: `shield__early`

NAMED_TYPES = ("Count", "Epsilon", "Fraction", "NonNegative", "NonNegativeInt", "Positive")
ANNOTATIONS = {
    **{kind.__name__: kind for kind in (bool, dict, float, int, list, str)},
    "Literal": Literal,
    **{name: getattr(knob_types, name) for name in NAMED_TYPES},
}


def names(kind: str) -> list[str]:
    """The plugins of a folder of `stages/`, sorted: its files that define the folder's function."""
    files = sorted((STAGES / kind).glob("*.py"))
    return [file.stem for file in files if _function(kind, file) is not None]


def file_name(kind: str, name: str) -> str:
    """The file, without its suffix, that a name in params.yaml stands for."""
    return name.partition(LABEL)[0] if kind == "defenses" else name


def nearest(name: Any, known: list[str]) -> str:
    """The end of a sentence about an unknown name: which known one is meant, or which ones there are."""
    close = get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f", did you mean '{close[0]}'?" if close else f", expected one of: {', '.join(known)}"


def source(kind: str, name: str) -> Path:
    """The file of a plugin, such as `stages/attacks/pgd.py`, relative to the folder that holds `stages/`."""
    return Path("stages", kind, f"{file_name(kind, name)}.py")


def constants(kind: str, name: str) -> dict[str, Any]:
    """The upper-case constants of a plugin whose values are literals."""
    return _constants(_plugin_file(kind, name))


def constant(kind: str, name: str, constant_name: str) -> Any:
    """A constant that the contract demands of a plugin; PluginError where the file does not assign it a literal."""
    values = constants(kind, name)
    if constant_name not in values:
        raise PluginError(f"{source(kind, name)}: {constant_name} is missing, expected a constant assigned a literal.")
    return values[constant_name]


def threat(attack: str) -> str:
    """The THREAT of an attack; PluginError where it is none of `THREATS`."""
    found = constant("attacks", attack, "THREAT")
    if found not in THREATS:
        raise PluginError(f"{source('attacks', attack)}: THREAT is {found!r}, expected one of {', '.join(THREATS)}.")
    return found


def norm(attack: str) -> str:
    """The NORM of an attack; PluginError where it is none of `NORMS`."""
    found = constant("attacks", attack, "NORM")
    if found not in NORMS:
        raise PluginError(f"{source('attacks', attack)}: NORM is {found!r}, expected one of {', '.join(NORMS)}.")
    return found


def budget(attack: str) -> tuple[str, ...]:
    """The settings of an attack that twice the effort doubles, its BUDGET, or none.

    Raises PluginError where one of them is no setting of it.
    """
    named = constants("attacks", attack).get("BUDGET", ())
    unknown = [name for name in named if name not in knobs("attacks", attack).model_fields]
    if unknown:
        raise PluginError(f"{source('attacks', attack)}: BUDGET names {unknown[0]!r}, expected one of its settings.")
    return tuple(named)


def is_minimal_norm(attack: str) -> bool:
    """Whether an attack looks for the nearest adversarial input, and so takes no epsilons."""
    return not has_budgets(_arguments("attacks", attack))


def is_filter(defense: str) -> bool:
    """Whether a defense stands between the inputs and a network that was trained without it."""
    return _function("defenses", _plugin_file("defenses", defense)).name == "filter"


def is_fitted(defense: str) -> bool:
    """Whether a filter learns something from data."""
    return any(
        isinstance(node, ast.FunctionDef) and node.name == "fit" for node in _body(_plugin_file("defenses", defense))
    )


def filtered_inputs(filter: str) -> tuple[str, ...]:
    """What a filter is for, of `images` and `sound`: images, unless its file says otherwise."""
    return constants("defenses", filter).get("INPUTS", ("images",))


def takes_teacher(defense: str) -> bool:
    """Whether a defense learns from an undefended network of the same architecture, and starts from it."""
    return _takes("defenses", defense, "teacher")


def takes_sources(defense: str) -> bool:
    """Whether a defense takes adversarial examples from undefended networks of other architectures, its `models`."""
    return _takes("defenses", defense, "sources")


def takes_reference(scheme: str) -> bool:
    """Whether a number format may be told to be as large as another one's network, by `as_large_as`."""
    return _takes("schemes", scheme, "reference")


def default(kind: str, name: str, knob: str) -> Any:
    """The default of a setting of a plugin."""
    return knobs(kind, name).model_fields[knob].default


def knobs(kind: str, name: str) -> type[BaseModel]:
    """The settings of a plugin as a strict pydantic model that refuses any other key.

    Raises:
        PluginError: a setting is annotated with neither a builtin nor a type of `stages/knobs.py`, or its default is no
            literal.
    """
    file = _plugin_file(kind, name)
    arguments = _function(kind, file).args
    known = _constants(file)
    fields = {
        argument.arg: (
            _annotation(argument, file),
            ... if default is None else _default(argument, default, known, file),
        )
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if argument.arg not in CONTRACTS[kind].arguments
    }
    strict = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    return create_model(f"{kind}.{name}", __config__=strict, **fields)


def settings(kind: str, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The given settings of a plugin, checked, with epsilons as numbers; those not given stay out.

    Raises:
        pydantic.ValidationError: an unknown or missing key, a wrong type, or an impossible value.
    """
    return knobs(kind, name).model_validate(given).model_dump(exclude_unset=True)


def _takes(kind: str, name: str, argument: str) -> bool:
    return argument in _arguments(kind, name)


def _arguments(kind: str, name: str) -> list[str]:
    """The names of the keyword-only arguments of a plugin's function."""
    return [argument.arg for argument in _function(kind, _plugin_file(kind, name)).args.kwonlyargs]


def _plugin_file(kind: str, name: str) -> Path:
    file = STAGES / kind / f"{file_name(kind, name)}.py"
    if not file.is_file() or _function(kind, file) is None:
        raise PluginError(f"{source(kind, name)}: is no plugin, expected one of {', '.join(names(kind))}.")
    return file


@cache
def _parsed(file: Path, size: int, changed: int) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _body(file: Path) -> list[ast.stmt]:
    state = file.stat()  # a plan asks some ten thousand times, each job makes one, and a test may write the file anew
    try:
        return _parsed(file, state.st_size, state.st_mtime_ns).body
    except SyntaxError as error:
        raise PluginError(f"{_shown(file)}: line {error.lineno}: {error.msg}, expected Python source.") from error


def _function(kind: str, file: Path) -> ast.FunctionDef | None:
    wanted = CONTRACTS[kind].functions
    return next((node for node in _body(file) if isinstance(node, ast.FunctionDef) and node.name in wanted), None)


def _constants(file: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for node in _body(file):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name.isupper():
                pass
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value) if name.isupper():
                pass
            case _:
                continue
        with suppress(ValueError):
            values[name] = _literal(value, values)
    return values


def _literal(node: ast.expr, constants: dict[str, Any]) -> Any:
    """The value of a literal, of arithmetic on literals, or of a constant above it; ValueError for anything else."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Name() if node.id in constants:
            return constants[node.id]
        case ast.Tuple():
            return tuple(_literal(element, constants) for element in node.elts)
        case ast.List():
            return [_literal(element, constants) for element in node.elts]
        case ast.Dict() if all(node.keys):
            return {
                _literal(key, constants): _literal(value, constants)
                for key, value in zip(node.keys, node.values, strict=True)
            }
        case ast.UnaryOp() if type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](_literal(node.operand, constants))
        case ast.BinOp() if type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](_literal(node.left, constants), _literal(node.right, constants))
    raise ValueError(f"{ast.unparse(node)} is no literal")


def _default(argument: ast.arg, node: ast.expr, constants: dict[str, Any], file: Path) -> Any:
    try:
        return _literal(node, constants)
    except ValueError as error:
        raise PluginError(
            f"{_shown(file)}: the default of {argument.arg} is {ast.unparse(node)}, expected a literal."
        ) from error


def _annotation(argument: ast.arg, file: Path) -> Any:
    match argument.annotation:
        case None:
            written = "nothing"
        case ast.Constant(value=str(quoted)):
            written = quoted
        case annotation:
            written = ast.unparse(annotation)
    try:
        return eval(written, {"__builtins__": {}}, ANNOTATIONS)
    except (NameError, SyntaxError, TypeError, AttributeError) as error:
        raise PluginError(
            f"{_shown(file)}: {argument.arg} is annotated with {written}, expected one of {', '.join(ANNOTATIONS)}."
        ) from error


def _shown(file: Path) -> str:
    return file.relative_to(STAGES.parent).as_posix()
