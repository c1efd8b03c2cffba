"""params.yaml: what is asked. Everything in it is checked before any job starts, and every fault is named at once.

All keys are required, apart from the settings of plugins, whose defaults stand in the plugins' signatures, from the
augmentation of sound, which is off, from `faults` and what is asked of them, from `export`, and from `extended`: what
replaces the others where `evaluation.extended` is true, as a JSON merge patch (RFC 7396).
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from stages import plugins
from stages.consistency import AS_LARGE_AS, BEFORE, EOT, impossible
from stages.knobs import Count, Fraction, NonNegative, NonNegativeInt, Positive, parse_fraction
from stages.norms import NORMS

FLOAT_SCHEME = "fp32"  # the float network itself, hence no file of schemes/
PLUGIN = "attack"  # the setting of an attack that names its file, where the attack has another name
SCHEME = "scheme"  # the same of a number format
FILE_KEYS = {"attacks": PLUGIN, "faults": PLUGIN, "schemes": SCHEME}
DRAWS = "draws"  # the setting of an attack on memory that says how often it is run
EXTENDED = "extended"  # the section of what an extended evaluation asks for instead
RETRAINING = "training"  # the setting of a defense that says how it trains, where it does so in its own way


# By section, the settings that are the plan's and not the plugin's.
SPECIAL = {"attacks": (PLUGIN, EOT), "faults": (PLUGIN,), "defenses": (BEFORE,), "schemes": (SCHEME,)}


class ParamsError(ValueError):
    """What is wrong with params.yaml, one sentence a line."""


def scheme_names(entries: Sequence[str] = ()) -> list[str]:
    """The number formats a variant can have: fp32, the files of schemes/, and entries of `schemes` that name one."""
    return list(dict.fromkeys([FLOAT_SCHEME, *plugins.names("schemes"), *entries]))


def _known(kind: str, *, or_none: bool = False):
    def check(name: str, info: ValidationInfo) -> str:
        known = scheme_names((info.context or {}).get("schemes", ())) if kind == "schemes" else plugins.names(kind)
        if plugins.file_name(kind, name) not in known and not (or_none and name == ""):
            raise PydanticCustomError(
                "unknown_plugin", "{reason}", {"reason": f"is unknown{plugins.nearest(name, known)}"}
            )
        return name

    return AfterValidator(check)


def _unique(values: list) -> list:
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise PydanticCustomError("repeated", "{reason}", {"reason": f"should name {repeated[0]!r} only once"})
    return values


def _empty_section(value: Any) -> Any:
    return {} if value is None else value


def _as_list(value: Any) -> Any:
    """One name for a list of it, an empty one for none."""
    return [value] * bool(value) if isinstance(value, str) else value


DatasetName = Annotated[str, _known("datasets")]
ModelName = Annotated[str, _known("models")]
SchemeName = Annotated[str, _known("schemes")]
DefenseName = Annotated[str, _known("defenses")]
ClaimsName = Annotated[str, _known("claims", or_none=True)]
Knobs = Annotated[dict[str, Any], BeforeValidator(_empty_section)]
UNIQUE = AfterValidator(_unique)
SOME = Field(min_length=1)
Norm = Literal[NORMS]
Budget = Annotated[float, BeforeValidator(parse_fraction), Field(ge=0, strict=True, allow_inf_nan=False)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Study(Section):
    title: str
    question: str


class Data(Section):
    mirror: str
    validation: Count
    calibration: Count


class Addition(Section):
    """Variants beside the grid's product; an axis that is not named takes all values that the grid lists for it."""

    dataset: DatasetName | None = None
    model: ModelName | None = None
    scheme: SchemeName | None = None
    defense: DefenseName | None = None
    seed: NonNegativeInt | None = None


class Grid(Section):
    datasets: Annotated[list[DatasetName], SOME, UNIQUE]
    models: Annotated[list[ModelName], SOME, UNIQUE]
    schemes: Annotated[list[SchemeName], SOME, UNIQUE]
    defenses: Annotated[list[DefenseName], SOME, UNIQUE]
    seeds: Annotated[list[NonNegativeInt], SOME, UNIQUE]
    also: list[Addition]

    def cells(self) -> list[tuple[str, str, str, str, int]]:
        """All (dataset, model, scheme, defense, seed) asked for, each once."""
        axes = {axis: getattr(self, f"{axis}s") for axis in Addition.model_fields}
        blocks = [axes]
        for addition in self.also:
            blocks.append(axes | {axis: [value] for axis, value in addition if value is not None})
        return list(dict.fromkeys(cell for block in blocks for cell in product(*block.values())))


class Augmentation(Section):
    crop_padding: NonNegativeInt
    horizontal_flip: bool
    time_shift: NonNegativeInt = 0  # of sound, ms
    background_noise: Fraction = 0.0


class Training(Section):
    epochs: Count
    batch_size: Count
    learning_rate: Positive
    momentum: Fraction
    weight_decay: NonNegative
    augmentation: Augmentation


class Retraining(Section):
    """What a defense trains with instead of `training`, and which network it starts from."""

    start: Literal["scratch", "undefended"] = "scratch"
    epochs: Count | None = None
    batch_size: Count | None = None
    learning_rate: Positive | None = None


class AttackLimit(Section):
    """How much is asked of an attack that takes long, and on which networks; what is left out is as for all."""

    samples: Count | None = None
    epsilons: Annotated[list[Budget], SOME] | None = None
    schemes: Annotated[list[SchemeName], SOME, UNIQUE] | None = None
    seeds: Annotated[list[NonNegativeInt], SOME, UNIQUE] | None = None

    def includes(self, scheme: str, seed: int) -> bool:
        """Whether the attack is run on networks of that number format and seed."""
        return (self.schemes is None or scheme in self.schemes) and (self.seeds is None or seed in self.seeds)


class DefenseLimit(Section):
    """How much is asked of a defense that takes long to run; what is left out is as for all."""

    samples: Count | None = None
    attacks: Annotated[list[str], UNIQUE] | None = None
    epsilons: dict[Norm, Annotated[list[Budget], SOME]] | None = None


class Limits(Section):
    attacks: dict[str, AttackLimit] = {}
    defenses: dict[DefenseName, DefenseLimit] = {}


class Checksums(Section):
    """A defense of the memory under whose eyes faults are evaluated, too."""

    group_size: Count


class Evaluation(Section):
    epsilons: Annotated[dict[Norm, Annotated[list[Budget], SOME]], SOME]
    headline_epsilon: dict[Norm, Budget]
    samples: Count
    grid: Literal["digital", "pre_quantizer"]
    eot_samples: Count
    extended: bool
    diagnose: NonNegativeInt
    transfer: Annotated[list[str], UNIQUE]
    surrogates: Literal["all", "related"]
    limits: Limits
    flips: Annotated[list[Count], SOME, UNIQUE] | None = None  # numbers of bits, ascending; asked for by faults
    checksums: Checksums | None = None


class Export(Section):
    """Whether quantized networks are exported, and on how many test images that is checked: all, if not told."""

    onnx: bool
    samples: Count | None = None


class Report(Section):
    quality_targets: dict[DatasetName, dict[ModelName, Fraction]]
    examples: Count
    claims: ClaimsName  # empty: none


class Override(Section):
    """What the jobs of one rule ask for instead; what is left out is as for all rules."""

    memory: Count | None = None
    runtime: Count | None = None
    gpus: NonNegativeInt | None = None


class Overrides(Section):
    """One for each rule of the plan."""

    prepare: Override = Override()
    train: Override = Override()
    defend: Override = Override()
    quantize: Override = Override()
    filter: Override = Override()
    attack: Override = Override()
    probe: Override = Override()
    diagnose: Override = Override()
    bitflip: Override = Override()
    export: Override = Override()
    score: Override = Override()
    report: Override = Override()


class Resources(Section):
    """What a job asks of a cluster: memory in MB, run time in minutes, GPUs. No result depends on it."""

    memory: Count
    runtime: Count
    gpus: NonNegativeInt
    rules: Overrides

    def of(self, rule: str) -> "Resources":
        """The same with the values that a rule's jobs ask for."""
        override = getattr(self.rules, rule)
        return self.model_copy(update=override.model_dump(exclude_none=True))


class Ledger(Section):
    """Where results are looked for beside the cache: names of remotes in DVC's settings, asked in this order."""

    remote: Annotated[list[str], BeforeValidator(_as_list), UNIQUE]


class Params(Section):
    """A validated params.yaml."""

    study: Study
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "fp32", "bf16"]
    threads: Count
    resources: Resources
    ledger: Ledger
    data: Data
    grid: Grid
    training: Training
    schemes: dict[str, Knobs]
    defenses: dict[str, Knobs]
    attacks: Annotated[dict[str, Knobs], SOME]
    faults: dict[str, Knobs] = {}
    evaluation: Evaluation
    export: Export | None = None
    report: Report
    _written: dict[str, Any] = PrivateAttr()
    _asked: dict[str, Any] = PrivateAttr()

    @cached_property
    def values(self) -> dict[str, Any]:
        """The settings as nested dicts with the keys that the file writes.

        Epsilons are numbers, null sections {}, remotes a list.
        """
        return self.model_dump(exclude_unset=True)

    def settings_of(self, attack: str) -> dict[str, Any]:
        """What an entry of `attacks` sets of its attack's settings."""
        return {name: value for name, value in self.attacks[attack].items() if name not in (PLUGIN, EOT)}

    def eot_samples(self, attack: str) -> int:
        """How many draws of a random network each gradient of an attack averages."""
        return self.attacks[attack].get(EOT, self.evaluation.eot_samples)

    def settings_of_fault(self, fault: str) -> dict[str, Any]:
        """What an entry of `faults` sets of its attack's settings."""
        return {name: value for name, value in self.faults[fault].items() if name not in (PLUGIN, DRAWS)}

    def draws(self, fault: str) -> int:
        """How often an attack on memory is run: its file says how often, unless the entry does."""
        return self.faults[fault].get(DRAWS, plugins.constant("faults", self.fault_plugin(fault), "DRAWS"))

    def fault_plugin(self, fault: str) -> str:
        """The file of stages/faults/ that an entry of `faults` runs: the one of its name, or what it says."""
        return self.faults[fault].get(PLUGIN, fault)

    def settings_of_defense(self, defense: str) -> dict[str, Any]:
        """What `defenses` sets of a defense's own settings."""
        return {
            name: value for name, value in self.defenses.get(defense, {}).items() if name not in (RETRAINING, BEFORE)
        }

    def behind(self, defense: str) -> str:
        """The defense of the network that a filter stands before: none, unless the filter says another one."""
        return self.defenses.get(defense, {}).get(BEFORE, "none")

    def filters(self, defense: str) -> tuple[str, ...]:
        """The filters that a defense consists of; a shield without any only asks the network several times."""
        if not plugins.is_filter(defense):
            return ()
        return self.chained(defense) if self.is_chain(defense) else (plugins.file_name("defenses", defense),)

    def is_chain(self, defense: str) -> bool:
        """Whether a defense consists of filters that its settings name."""
        return "filters" in plugins.knobs("defenses", defense).model_fields

    def chained(self, defense: str) -> tuple[str, ...]:
        """The filters that a defense consists of, where its settings name some."""
        if not self.is_chain(defense):
            return ()
        given = self.defenses.get(defense, {}).get("filters", plugins.default("defenses", defense, "filters"))
        return tuple(entry if isinstance(entry, str) else next(iter(entry)) for entry in given)

    def retraining(self, defense: str) -> dict[str, Any]:
        """What `defenses` says of how a defense trains: keys of `Retraining`, those that the file writes."""
        return self.defenses.get(defense, {}).get(RETRAINING, {})

    def source_models(self, defense: str) -> tuple[str, ...]:
        """The models of the undefended networks that a defense takes adversarial examples from, if it does."""
        if not plugins.takes_sources(defense):
            return ()
        return tuple(self.defenses.get(defense, {}).get("models", plugins.default("defenses", defense, "models")))

    def keys_of_samples(self, defense: str, attack: str | None = None) -> list[str]:
        """The settings that decide how many samples are attacked: limits, or else what holds for all."""
        return self._limits(defense, attack, "samples", "samples") or ["evaluation.samples"]

    def keys_of_epsilons(self, defense: str, attack: str) -> list[str]:
        """The settings that decide the budgets of an attack: limits, or else what holds for all."""
        norm = plugins.norm(self.plugin(attack))
        return self._limits(defense, attack, f"epsilons.{norm}", "epsilons") or [f"evaluation.epsilons.{norm}"]

    def _limits(self, defense: str, attack: str | None, of_defense: str, of_attack: str) -> list[str]:
        limits = self.values["evaluation"]["limits"]
        found = []
        for kind, name, key in (("defenses", defense, of_defense), ("attacks", attack, of_attack)):
            section = limits.get(kind, {}).get(name, {})
            for part in key.split("."):
                section = (section or {}).get(part)
            if section is not None:
                found.append(f"evaluation.limits.{kind}.{name}.{key}")
        return found

    def samples(self, defense: str, attack: str | None = None) -> int:
        """How many test samples of a network with this defense are attacked, or else scored with a gradient."""
        evaluation = self.evaluation
        limits = [evaluation.limits.defenses.get(defense), evaluation.limits.attacks.get(attack)]
        return min([evaluation.samples, *(limit.samples for limit in limits if limit and limit.samples)])

    def is_limited(self, defense: str) -> bool:
        """Whether fewer samples than of others are attacked of networks with this defense."""
        limit = self.evaluation.limits.defenses.get(defense)
        return limit is not None and limit.samples is not None

    def attacks_on(self, defense: str, scheme: str, seed: int) -> list[str]:
        """The attacks that are run on networks with this defense, number format and seed."""
        limits = self.evaluation.limits
        of_defense = limits.defenses.get(defense)
        asked = list(self.attacks) if of_defense is None or of_defense.attacks is None else of_defense.attacks
        of_attacks = {attack: limits.attacks.get(attack) for attack in asked}
        return [attack for attack, limit in of_attacks.items() if limit is None or limit.includes(scheme, seed)]

    def epsilons(self, defense: str, attack: str) -> list[float]:
        """The budgets at which an attack is run on networks with this defense."""
        norm, limits = plugins.norm(self.plugin(attack)), self.evaluation.limits
        of_attack, of_defense = limits.attacks.get(attack), limits.defenses.get(defense)
        given = [of_attack and of_attack.epsilons, of_defense and (of_defense.epsilons or {}).get(norm)]
        return [epsilon for epsilon in self.evaluation.epsilons[norm] if all(epsilon in some for some in given if some)]

    def reaches(self, defense: str, attack: str, epsilon: float) -> bool:
        """Whether an attack on networks with this defense has a result at an epsilon of its norm."""
        return plugins.is_minimal_norm(self.plugin(attack)) or epsilon in self.epsilons(defense, attack)

    @property
    def grid_defenses(self) -> list[str]:
        """The defenses that the grid asks for."""
        return list(dict.fromkeys(defense for *_, defense, _ in self.grid.cells()))

    def plugin(self, attack: str) -> str:
        """The file of stages/attacks/ that an entry of `attacks` runs: the one of its name, or what it says."""
        return self.attacks[attack].get(PLUGIN, attack)

    def scheme_plugin(self, scheme: str) -> str:
        """The file of stages/schemes/ that makes a number format: the one of its name, or what `schemes` says."""
        return self.schemes.get(scheme, {}).get(SCHEME, scheme)

    def settings_of_scheme(self, scheme: str) -> dict[str, Any]:
        """What `schemes` sets of a number format's settings."""
        return {name: value for name, value in self.schemes.get(scheme, {}).items() if name != SCHEME}

    def reference_scheme(self, scheme: str) -> str | None:
        """The number format whose networks those of a scheme are to be as large as, if `schemes` names one."""
        settings = self.settings_of_scheme(scheme)
        return settings.get(AS_LARGE_AS) or None if plugins.takes_reference(self.scheme_plugin(scheme)) else None

    @property
    def written(self) -> dict[str, Any]:
        """The file's content as YAML reads it, which is what DVC hashes."""
        return self._written

    @property
    def asked(self) -> dict[str, Any]:
        """The same with what an extended evaluation replaces: what was checked, as it is written."""
        return self._asked

    def places(self, keys: Sequence[str]) -> tuple[str, ...]:
        """Where the file says what dotted keys are: there and, in an extended evaluation, in what replaces them."""
        if not self.evaluation.extended:
            return tuple(keys)
        return tuple(place for key in keys for place in self._places(key))

    def _places(self, key: str) -> tuple[str, ...]:
        replacement = f"{EXTENDED}.{key}"
        if not _is_in(self._written, replacement):
            return (key,)
        return (key, replacement) if _is_in(self._written, key) else (replacement,)


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check a params.yaml.

    Raises:
        ParamsError: the file is missing, is no YAML (with the line), or holds faults: all of them, one sentence a line.
    """
    written = _read(path)
    plain = {key: value for key, value in written.items() if key != EXTENDED}
    changes = written.get(EXTENDED) or {}
    params, faults = _checked(plain)
    if not isinstance(changes, dict):
        faults.append(f"{EXTENDED}: {changes!r} should be a mapping of keys to values")
    elif params is not None and changes:  # checked whether or not it is asked for
        changed, found = _checked(_merged(plain, {**changes, "evaluation": _with_probes(changes.get("evaluation"))}))
        faults += [f"{fault} (with what {EXTENDED} replaces)" for fault in found if fault not in faults]
        params = changed if params.evaluation.extended else params
    if faults:
        raise ParamsError("\n".join(f"{path}: {fault}" for fault in faults))
    params._written = written
    return params


def _with_probes(evaluation: Any) -> Any:
    return {**(evaluation or {}), "extended": True} if isinstance(evaluation, dict | None) else evaluation


def _checked(asked: dict[str, Any]) -> tuple[Params | None, list[str]]:
    """The settings, None where they have not even their form, and what is wrong with them."""
    faults: list[str] = []
    params = None
    try:
        params = Params.model_validate(asked, context={"schemes": _named_schemes(asked.get("schemes"))})
    except ValidationError as error:
        faults += _sentences(error, Params)
    knobs = _check_knobs(asked, faults)
    if params is not None and not faults:
        params = params.model_copy(update=knobs)
        params._asked = asked
        faults += impossible(params)
    return params, faults


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A JSON merge patch: mappings are merged key by key, null takes a key away, all else replaces what was there."""
    merged = {**values}
    for key, change in changes.items():
        if change is None:
            merged.pop(key, None)
        elif isinstance(change, dict):
            before = merged.get(key)
            merged[key] = _merged(before if isinstance(before, dict) else {}, change)
        else:
            merged[key] = change
    return merged


def _is_in(values: Any, dotted: str) -> bool:
    for key in dotted.split("."):
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True


def _read(path: Path) -> dict[str, Any]:
    """YAML 1.2 by the parser that DVC uses, so that both see the same values; it refuses duplicate keys."""
    try:
        written = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file, expected the settings of a study.") from None
    except MarkedYAMLError as error:
        raise ParamsError(f"{path}: line {error.problem_mark.line + 1}: {error.problem}.") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: is no YAML text: {' '.join(str(error).split())}.") from None
    if not isinstance(written, dict):
        raise ParamsError(f"{path}: line 1: holds {written!r}, expected a mapping of settings.")
    return written


def _check_knobs(written: dict[str, Any], faults: list[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """The checked settings of all plugins that the file names, by folder; faults are appended."""
    checked = {}
    for kind in ("schemes", "defenses", "attacks", "faults"):
        section = written.get(kind)
        if kind == "faults" and kind not in written:  # it may be left out, and then is no setting of a job
            continue
        checked[kind] = {}
        for name, given in section.items() if isinstance(section, dict) else ():
            if not isinstance(name, str):  # refused with the form
                continue
            special = SPECIAL[kind] if isinstance(given, dict) else ()
            alias = {key: given[key] for key in special if key in given}
            key = FILE_KEYS.get(kind)
            plugin, known = alias.get(key, name), plugins.names(kind)
            if plugins.file_name(kind, plugin) not in known:
                unknown = f"{kind}.{name}.{key}: {plugin!r}" if key in alias else f"{kind}.{name}:"
                faults.append(f"{unknown} is unknown{plugins.nearest(plugin, known)}")
            elif given is None or isinstance(given, dict):
                knobs = {key: value for key, value in (given or {}).items() if key not in alias}
                retraining = {}
                if kind == "faults" and DRAWS in knobs:
                    alias |= _check_draws(knobs.pop(DRAWS), (kind, name, DRAWS), faults)
                if kind == "defenses" and RETRAINING in knobs and not plugins.is_filter(plugin):
                    retraining = _check_retraining(knobs.pop(RETRAINING), (kind, name, RETRAINING), faults)
                try:
                    checked[kind][name] = alias | plugins.settings(kind, plugin, knobs) | retraining
                except ValidationError as error:
                    faults += _sentences(error, plugins.knobs(kind, plugin), (kind, name))
    return checked


def _named_schemes(section: Any) -> list[str]:
    """The entries of `schemes` that say which file they run."""
    entries = section.items() if isinstance(section, dict) else ()
    return [name for name, given in entries if isinstance(name, str) and isinstance(given, dict) and SCHEME in given]


def _check_draws(given: Any, location: tuple, faults: list[str]) -> dict[str, int]:
    """How often an attack on memory is run, under its key, or nothing where there is a fault, which is appended."""
    if isinstance(given, int) and not isinstance(given, bool) and given >= 1:
        return {DRAWS: given}
    faults.append(f"{'.'.join(location)}: {given!r} should be a whole number of at least 1")
    return {}


def _check_retraining(given: Any, location: tuple, faults: list[str]) -> dict[str, dict[str, Any]]:
    """What a defense says of its training under its key, or nothing where there is a fault, which is appended."""
    try:
        return {RETRAINING: Retraining.model_validate({} if given is None else given).model_dump(exclude_unset=True)}
    except ValidationError as error:
        faults += _sentences(error, Retraining, location)
        return {}


def _sentences(error: ValidationError, model: type[BaseModel], prefix: tuple = ()) -> Iterator[str]:
    for fault in error.errors():
        key = ".".join(str(part) for part in (*prefix, *fault["loc"]) if part != "[key]")
        if fault["type"] == "extra_forbidden":
            yield f"{key}: unknown key{plugins.nearest(fault['loc'][-1], _keys(model, fault['loc'][:-1]))}"
        elif fault["type"] == "missing":
            yield f"{key}: is missing, expected a value"
        elif fault["type"] in ("model_type", "dict_type"):
            yield f"{key}: {fault['input']!r} should be a mapping of keys to values"
        else:
            yield f"{key}: {fault['input']!r} {fault['msg'].removeprefix('Input ').replace('List ', 'list ')}"


def _keys(model: type[BaseModel], location: tuple) -> list[str]:
    """The keys that the model knows at a location such as ("grid", "also", 0)."""
    is_name = False  # a key that the file's author chose, or else the name of a field
    for part in location:
        if isinstance(part, str) and not is_name:
            annotation = model.model_fields[part].annotation
            model, is_name = _section_type(annotation), get_origin(annotation) is dict
        else:
            is_name = False
    return list(model.model_fields)


def _section_type(annotation: Any) -> Any:
    return next((kind for kind in get_args(annotation) if isinstance(kind, type)), annotation)
