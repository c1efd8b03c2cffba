"""The plan: what params.yaml asks for, as jobs in topological order. It is the only DAG.

A stage is handed the task of its job, which says what the job is about, so that nobody takes names apart.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from stages import plugins
from stages.ledger.job import Job
from stages.params import FLOAT_SCHEME, Params

UNDEFENDED = "none"
CLEAN = "clean"  # the score of unperturbed inputs, named like an attack
JUDGEMENTS = ("score", "probe", "diagnose", "bitflip")  # the rules whose results the report gathers
SUFFIXES = (".json", ".safetensors")
RESULTS = "data/results"
FIGURES = ("accuracy_vs_epsilon", "distance", "examples", "heatmap", "pareto", "transfer")
WORST_CASE = f"{RESULTS}/worst_case.csv"

# Of a study that attacks the memory of its networks.
FAULT_FIGURES = ("accuracy_vs_flips", "flips_needed", "flipped_layers", "flipped_bits")
FAULT_TABLES = (f"{RESULTS}/bit_flips.csv", f"{RESULTS}/flips_needed.csv", f"{RESULTS}/flipped_bits.csv")

GROWTH_FIGURES = ("growth",)  # of a study with networks that grow while they train

CLAIMS = f"{RESULTS}/claims.csv"  # of a study that judges a paper's

# Of a study with networks that say how sure they are of a prediction.
UNCERTAINTY_FIGURES = ("attackers", "rejection")
UNCERTAINTY = f"{RESULTS}/uncertainty.csv"

# Of a study that exports its quantized networks.
EXPORT_TABLES = (f"{RESULTS}/exports.csv", f"{RESULTS}/export_disagreements.csv")

# Of a study that diagnoses its networks.
DIAGNOSTIC_FIGURES = ("attribution", "boundary_distance", "gradient_cosine", "quantization_shift")
DIAGNOSTICS = f"{RESULTS}/diagnostics.csv"


@dataclass(frozen=True)
class Variant:
    """A network that is trained, and attacked where the grid asks for it: dataset x model x scheme x defense x seed."""

    dataset: str
    model: str
    scheme: str
    defense: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.dataset}-{self.model}-{self.scheme}-{self.defense}-s{self.seed}"

    @property
    def parts(self) -> dict[str, str | int]:
        """Its five parts, as artifacts hold them."""
        return asdict(self)

    @property
    def is_float(self) -> bool:
        """Whether it is the float network itself."""
        return self.scheme == FLOAT_SCHEME

    @property
    def float_variant(self) -> "Variant":
        """The float network of the same defense, from which a quantized one is made."""
        return replace(self, scheme=FLOAT_SCHEME)

    @property
    def undefended(self) -> "Variant":
        """The network of the same number format without a defense."""
        return replace(self, defense=UNDEFENDED)

    @property
    def is_filtered(self) -> bool:
        """Whether its defense is a filter before another network."""
        return plugins.is_filter(self.defense)

    @property
    def rule(self) -> str:
        """The rule that makes its network."""
        if self.is_filtered:
            return "filter"
        if not self.is_float:
            return "quantize"
        return "train" if self.defense == UNDEFENDED else "defend"

    @property
    def network(self) -> str:
        """Its network's path without the suffix (`.safetensors`, `.json`)."""
        folder = {"train": "trained", "defend": "defended", "quantize": "quantized", "filter": "filtered"}[self.rule]
        return f"data/{folder}/{self.name}"

    @property
    def prepared(self) -> str:
        """Its dataset's path without the suffix."""
        return prepared(self.dataset)

    def adversarial(self, attack: str) -> str:
        """The path, without the suffix, of the set that an attack crafts on it."""
        return f"data/adversarial/{self.name}-{attack}"

    def probe(self, attack: str) -> str:
        """The path, without the suffix, of what an attack did when it was run again on it to be tested."""
        return f"data/probes/{self.name}-{attack}"

    @property
    def exported(self) -> str:
        """The path, without the suffix (`.onnx`, `.json`), of what it was exported to."""
        return f"data/exported/{self.name}"

    @property
    def diagnostics(self) -> str:
        """The path, without the suffix, of what quantization did to it."""
        return f"data/diagnostics/{self.name}"

    def faults(self, fault: str) -> str:
        """The path, without the suffix, of what an attack on its memory left of it."""
        return f"data/faults/{self.name}-{fault}"

    def flipped(self, fault: str) -> str:
        """The path, without the suffix, of the bits that an attack on its memory flipped."""
        return f"data/flipped/{self.name}-{fault}"

    def score(self, attack: str) -> str:
        """The path, without the suffix, of its scores under an attack, or "clean"."""
        return f"data/scores/{self.name}-{attack}"


@dataclass(frozen=True)
class Task:
    """A job and what it is about."""

    job: Job
    dataset: str | None = None  # None: the report, about all of them
    variant: Variant | None = None  # None: prepare and report
    attack: str | None = None  # an attack on inputs or on memory, "clean" for scores of clean inputs, None elsewhere
    plugin: str | None = None  # the file: of the attack (memory: in stages/faults/), the filter, the number format
    crafted_on: tuple[Variant, ...] = ()  # the variants whose sets are scored on it
    teachers: tuple[Variant, ...] = ()  # undefended float networks; the variant's starts from the best of them
    sources: tuple[Variant, ...] = ()  # undefended float networks of other models, attacked in its training
    behind: Variant | None = None  # the variant whose network a filter is put before
    reference: Variant | None = None  # the variant whose network a quantized one is to be as large as

    @property
    def is_clean(self) -> bool:
        """Whether it scores unperturbed inputs."""
        return self.attack == CLEAN


def prepared(dataset: str) -> str:
    """A prepared dataset's path without the suffix (`.safetensors`, `.json`)."""
    return f"data/prepared/{dataset}"


def variants(params: Params) -> list[Variant]:
    """The variants that the grid asks for: those that are attacked, scored and reported."""
    return [Variant(*cell) for cell in params.grid.cells()]


def networks(params: Params) -> list[Variant]:
    """The variants and all networks that they are made from, each after those that it is made from."""
    made: dict[Variant, None] = {}

    def make(variant: Variant) -> None:
        for parent in parents(params, variant):
            make(parent)
        made[variant] = None

    attacked = variants(params)
    for variant in [*(variant.float_variant for variant in attacked), *attacked]:
        make(variant)
    return list(made)


def parents(params: Params, variant: Variant) -> list[Variant]:
    """The networks that a variant's is made from."""
    floats = [] if variant.is_float else [variant.float_variant]
    if variant.is_filtered:
        return [behind(params, variant), *floats]
    other = reference(params, variant)
    return [*floats, *([other] if other else []), *teachers(params, variant), *sources(params, variant)]


def behind(params: Params, variant: Variant) -> Variant:
    """The variant whose network a filtered one's filter stands before."""
    return replace(variant, defense=params.behind(variant.defense))


def reference(params: Params, variant: Variant) -> Variant | None:
    """The variant of another number format whose network a quantized one is to be as large as, if it is."""
    scheme = params.reference_scheme(variant.scheme) if variant.rule == "quantize" else None
    return replace(variant, scheme=scheme) if scheme else None


def teachers(params: Params, variant: Variant) -> tuple[Variant, ...]:
    """The undefended float networks of which a variant's starts from the best on validation data; often there is none.

    A defense that learns from a teacher has the choice among those of all seeds that the grid asks for.
    """
    own = variant.float_variant.undefended
    if plugins.takes_teacher(variant.defense):
        undefended = (other.float_variant for other in variants(params) if other.defense == UNDEFENDED)
        candidates = {own, *(other for other in undefended if replace(other, seed=own.seed) == own)}
        return tuple(sorted(candidates, key=lambda other: other.seed))  # of equally accurate ones the first is taken
    starts = variant.is_float and params.retraining(variant.defense).get("start") == "undefended"
    return (own,) if starts else ()


def sources(params: Params, variant: Variant) -> tuple[Variant, ...]:
    """The undefended float networks of other models that a variant's defense attacks in training, if it does."""
    own = variant.float_variant.undefended
    return tuple(replace(own, model=model) for model in params.source_models(variant.defense))


def attacks_on(params: Params, variant: Variant) -> list[str]:
    """The attacks that are run on a variant."""
    return params.attacks_on(variant.defense, variant.scheme, variant.seed)


def surrogates(params: Params, target: Variant) -> list[Variant]:
    """The other variants of the same dataset, model and seed, so that adding a seed or a model changes no target.

    Related ones share the target's number format or its defense.
    """
    others = [
        variant
        for variant in variants(params)
        if variant != target and replace(variant, scheme=target.scheme, defense=target.defense) == target
    ]
    if params.evaluation.surrogates == "all":
        return others
    return [other for other in others if other.scheme == target.scheme or other.defense == target.defense]


def tasks(params: Params) -> list[Task]:
    """The tasks of all jobs, in the plan's order."""
    attacked = variants(params)
    crafted = [(variant, attack) for variant in attacked for attack in attacks_on(params, variant)]
    scored = [
        (variant, attack) for variant in attacked for attack in params.attacks if _is_scored(params, variant, attack)
    ]
    made = [
        *(_prepare(dataset) for dataset in dict.fromkeys(variant.dataset for variant in attacked)),
        *(_network(params, variant) for variant in networks(params)),
        *(_score_clean(params, variant) for variant in attacked),
        *(_attack(params, variant, attack) for variant, attack in crafted),
        *(_score(params, variant, attack) for variant, attack in scored),
        *(_probe(params, variant, attack) for variant, attack in crafted if _is_probed(params, attack)),
        *(_diagnose(params, variant) for variant in attacked if _is_diagnosed(params, variant)),
        *(_export(params, variant) for variant in _exported(params)),
        *(
            _bitflip(params, variant, fault)
            for variant in attacked
            if not variant.is_filtered
            for fault in params.faults
        ),
    ]
    report = _report(params, [task for task in made if task.job.rule in JUDGEMENTS])
    return [replace(task, job=replace(task.job, params=params.places(task.job.params))) for task in (*made, report)]


def dvc_plots(params: Params) -> list[dict[str, Any]]:
    """The `plots` of dvc.yaml: worst-case robust accuracy against epsilon, one line a variant."""
    columns = [variant.name for variant in variants(params)]
    return [
        {
            "worst_case": {
                "template": "simple",
                "title": "Worst-case robust accuracy",
                "x": {WORST_CASE: "epsilon"},
                "y": {WORST_CASE: columns},
                "x_label": "Epsilon",
                "y_label": "Robust accuracy",
            }
        }
    ]


def _files(*stems: str) -> tuple[str, ...]:
    return tuple(stem + suffix for stem in stems for suffix in SUFFIXES)


def _code(rule: str, **used: str | Iterable[str]) -> dict[str, Any]:
    """A job's code and its roots: the stage, and the plugins given as kind=name, or kind=names."""
    named = [(kind, name) for kind, given in used.items() for name in ([given] if isinstance(given, str) else given)]
    sources = [f"stages/{rule}.py", *(plugins.source(kind, name).as_posix() for kind, name in named)]
    return {"rule": rule, "code": "-".join([rule, *(name for _, name in named)]), "modules": tuple(sources)}


def _used(params: Params, variant: Variant) -> dict[str, Any]:
    """The plugins that a variant's classifier consists of: its model, and the filters before it, if any."""
    return {"models": variant.model} | ({"defenses": _defenses(params, variant)} if variant.is_filtered else {})


def _defenses(params: Params, variant: Variant) -> list[str]:
    """The files of a variant's defense: its own, and those of filters that it consists of."""
    return [plugins.file_name("defenses", name) for name in (variant.defense, *params.chained(variant.defense))]


def _prepare(dataset: str) -> Task:
    job = Job(
        item=dataset,
        inputs=(),
        params=("data.validation", "data.calibration"),
        outputs=_files(prepared(dataset)),
        **_code("prepare", datasets=dataset),
    )
    return Task(job, dataset)


def _network(params: Params, variant: Variant) -> Task:
    """Training a float network, with or without a defense, quantizing one, or putting a filter before one."""
    attacked = sources(params, variant)
    used = {"models": [variant.model, *(source.model for source in attacked)], "defenses": _defenses(params, variant)}
    settings, plugin = ["device", "precision", "threads"], None
    if variant.is_filtered:
        plugin = plugins.file_name("defenses", variant.defense)
    else:
        settings.append("training")
    if variant.defense in params.defenses:
        settings.append(f"defenses.{variant.defense}")
    if variant.rule == "quantize":
        used["schemes"] = plugin = params.scheme_plugin(variant.scheme)
        if variant.scheme in params.schemes:
            settings.append(f"schemes.{variant.scheme}")
    job = Job(
        item=variant.name,
        inputs=_files(variant.prepared, *(parent.network for parent in parents(params, variant))),
        params=tuple(settings),
        outputs=_files(variant.network),
        **_code(variant.rule, **used),
    )
    made_from = {"teachers": teachers(params, variant), "sources": attacked, "reference": reference(params, variant)}
    if variant.is_filtered:
        made_from["behind"] = behind(params, variant)
    return Task(job, variant.dataset, variant, plugin=plugin, **made_from)


def _score_clean(params: Params, variant: Variant) -> Task:
    job = Job(
        item=f"{variant.name}-{CLEAN}",
        inputs=_files(variant.prepared, variant.network),
        params=("device", "threads", *dict.fromkeys(["evaluation.samples", *params.keys_of_samples(variant.defense)])),
        outputs=(variant.score(CLEAN) + ".parquet",),
        **_code("score", **_used(params, variant)),
    )
    return Task(job, variant.dataset, variant, CLEAN)


def _attack(params: Params, variant: Variant, attack: str) -> Task:
    plugin = params.plugin(attack)
    evaluation = [*params.keys_of_samples(variant.defense, attack), "evaluation.grid", "evaluation.eot_samples"]
    if not plugins.is_minimal_norm(plugin):
        evaluation += params.keys_of_epsilons(variant.defense, attack)
    job = Job(
        item=f"{variant.name}-{attack}",
        inputs=_files(variant.prepared, variant.network),
        params=("device", "threads", *evaluation, f"attacks.{attack}"),
        outputs=_files(variant.adversarial(attack)),
        **_code("attack", attacks=plugin, **_used(params, variant)),
    )
    return Task(job, variant.dataset, variant, attack, plugin)


def _budgets(plugin: str) -> str:
    return f"evaluation.epsilons.{plugins.norm(plugin)}"


def _score(params: Params, variant: Variant, attack: str) -> Task:
    replayed = _replayed(params, variant, attack)
    own = [variant] if attack in attacks_on(params, variant) else []
    sets = [crafted_on.adversarial(attack) for crafted_on in (*own, *replayed)]
    plugin = params.plugin(attack)
    # What a minimal-norm attack found is judged at every budget here, an attack with budgets ran at each of them.
    settings = ["device", "threads", *([_budgets(plugin)] if plugins.is_minimal_norm(plugin) else [])]
    if params.is_limited(variant.defense):
        settings += params.keys_of_samples(variant.defense)
    job = Job(
        item=f"{variant.name}-{attack}",
        inputs=_files(variant.prepared, variant.network, *sets),
        params=tuple(settings),
        outputs=(variant.score(attack) + ".parquet",),
        **_code("score", **_used(params, variant)),
    )
    return Task(job, variant.dataset, variant, attack, plugin, (*own, *replayed))


def _replayed(params: Params, variant: Variant, attack: str) -> list[Variant]:
    """The variants whose sets of an attack are replayed on a variant: not those of fewer samples than others.

    By name, since the rows of scores stand in that order, and a grid's other order is no other result.
    """
    if attack not in params.evaluation.transfer:
        return []
    crafted_on = [other for other in surrogates(params, variant) if attack in attacks_on(params, other)]
    replayed = [other for other in crafted_on if not params.is_limited(other.defense)]
    return sorted(replayed, key=lambda other: other.name)


def _is_scored(params: Params, variant: Variant, attack: str) -> bool:
    return attack in attacks_on(params, variant) or bool(_replayed(params, variant, attack))


def _is_probed(params: Params, attack: str) -> bool:
    """Whether an attack is run again to be tested: where it has a budget to double, or a gradient that may mislead."""
    plugin = params.plugin(attack)
    threat = plugins.threat(plugin)
    return params.evaluation.extended and threat != "noise" and bool(plugins.budget(plugin) or threat == "white_box")


def _probe(params: Params, variant: Variant, attack: str) -> Task:
    plugin = params.plugin(attack)
    evaluation = ("grid", "eot_samples", f"headline_epsilon.{plugins.norm(plugin)}")
    job = Job(
        item=f"{variant.name}-{attack}",
        inputs=_files(variant.prepared, variant.network),
        params=(
            *("device", "threads", *params.keys_of_samples(variant.defense, attack)),
            *(*(f"evaluation.{key}" for key in evaluation), f"attacks.{attack}"),
        ),
        outputs=(variant.probe(attack) + ".parquet",),
        **_code("probe", attacks=plugin, **_used(params, variant)),
    )
    return Task(job, variant.dataset, variant, attack, plugin)


def _is_diagnosed(params: Params, variant: Variant) -> bool:
    """Whether what quantization did is measured: before a filter it is the undefended network's that was quantized."""
    return params.evaluation.diagnose > 0 and not variant.is_filtered


def _diagnose(params: Params, variant: Variant) -> Task:
    # Without a headline epsilon in linf, nothing is attacked with a budget.
    budget = ["evaluation.headline_epsilon.linf"] if "linf" in params.evaluation.headline_epsilon else []
    job = Job(
        item=variant.name,
        inputs=_files(*dict.fromkeys([variant.prepared, variant.float_variant.network, variant.network])),
        params=("device", "threads", "evaluation.diagnose", *budget),
        outputs=(variant.diagnostics + ".parquet",),
        **_code("diagnose", models=variant.model),
    )
    return Task(job, variant.dataset, variant)


def _exported(params: Params) -> list[Variant]:
    """The variants whose networks are exported: quantized ones, which no filter stands before."""
    asked = params.export is not None and params.export.onnx
    return [variant for variant in variants(params) if asked and variant.rule == "quantize"]


def _export(params: Params, variant: Variant) -> Task:
    job = Job(
        item=variant.name,
        inputs=_files(variant.prepared, variant.network),
        params=("device", "threads", "export"),
        outputs=(variant.exported + ".json", variant.exported + ".onnx"),
        **_code("export", models=variant.model),
    )
    return Task(job, variant.dataset, variant)


def _bitflip(params: Params, variant: Variant, fault: str) -> Task:
    """An attack on the memory of a network; the memory behind a filter is the undefended network's."""
    plugin, checksums = params.fault_plugin(fault), params.evaluation.checksums
    evaluation = ["evaluation.flips", *(["evaluation.checksums"] if checksums is not None else [])]
    job = Job(
        item=f"{variant.name}-{fault}",
        inputs=_files(variant.prepared, variant.network),
        params=("device", "threads", *params.keys_of_samples(variant.defense), *evaluation, f"faults.{fault}"),
        outputs=(variant.faults(fault) + ".parquet", variant.flipped(fault) + ".parquet"),
        **_code("bitflip", faults=plugin, models=variant.model),
    )
    return Task(job, variant.dataset, variant, fault, plugin)


def _report(params: Params, judgements: list[Task]) -> Task:
    shown = _shown(params)
    inputs = [
        *(output for task in judgements for output in task.job.outputs),
        *(variant.network + ".json" for variant in variants(params)),
        *(variant.exported + ".json" for variant in _exported(params)),
        *_files(*(variant.adversarial(attack) for variant, attack in shown)),
        *_files(*dict.fromkeys(variant.prepared for variant, _ in shown)),
    ]
    diagnosed = params.evaluation.diagnose > 0
    uncertain = any(plugins.constants("defenses", name).get("UNCERTAINTY") for name in params.grid_defenses)
    figures = [
        *FIGURES,
        *(DIAGNOSTIC_FIGURES if diagnosed else ()),
        *(UNCERTAINTY_FIGURES if uncertain else ()),
        *(FAULT_FIGURES if params.faults else ()),
        *(GROWTH_FIGURES if any(_grows(params, variant) for variant in variants(params)) else ()),
    ]
    claims = [params.report.claims] if params.report.claims else []
    asked = [
        *([DIAGNOSTICS] if diagnosed else []),
        *([UNCERTAINTY] if uncertain else []),
        *(FAULT_TABLES if params.faults else ()),
        *(EXPORT_TABLES if _exported(params) else ()),
        *([CLAIMS] if claims else []),
    ]
    tables = [f"{RESULTS}/results.csv", f"{RESULTS}/variants.csv", WORST_CASE, *asked]
    job = Job(
        item="all",
        inputs=tuple(inputs),
        params=_reported(params),
        outputs=(f"{RESULTS}/report.html",),
        tracked=(*tables, *(f"{RESULTS}/figures/{figure}.svg" for figure in figures)),
        metrics=(f"{RESULTS}/metrics.json",),
        **_code("report", claims=claims),
    )
    return Task(job)


def _grows(params: Params, variant: Variant) -> bool:
    """Whether a variant's network gets channels while it trains: its number format says so, by its constant GROWS."""
    constants = {} if variant.is_float else plugins.constants("schemes", params.scheme_plugin(variant.scheme))
    return bool(constants.get("GROWS"))


def _shown(params: Params) -> list[tuple[Variant, str]]:
    """The sets whose images the report shows: one attack's on the undefended variants of one dataset and model.

    Of an iterative white-box attack, or else of one that sees as much of the network as any.
    """
    first = variants(params)[0]
    comparable = [variant for variant in (first, *surrogates(params, first)) if not params.is_limited(variant.defense)]
    shown = [variant for variant in comparable if variant.defense == UNDEFENDED] or comparable
    used = {name: params.plugin(name) for name in params.attacks if _is_shown(params, shown, name)}
    if not used:
        return []
    by_sight = sorted(used, key=lambda name: plugins.THREATS.index(plugins.threat(used[name])))
    budgeted = [name for name in by_sight if not plugins.is_minimal_norm(used[name])]
    white_box = [name for name in budgeted if plugins.threat(used[name]) == "white_box"]
    iterative = [name for name in white_box if plugins.constant("attacks", used[name], "ITERATIVE")]
    attack = (iterative or budgeted or by_sight)[0]
    return [(variant, attack) for variant in shown]


def _is_shown(params: Params, shown: list[Variant], attack: str) -> bool:
    """Whether an attack has a set at its headline epsilon on all variants that are shown."""
    headline = params.evaluation.headline_epsilon.get(plugins.norm(params.plugin(attack)))
    return all(
        attack in attacks_on(params, variant) and params.reaches(variant.defense, attack, headline) for variant in shown
    )


def _reported(params: Params) -> tuple[str, ...]:
    """All settings, since the report prints them, but for where data was read, jobs were run and results were found."""
    keys = [key for key in params.values if key not in ("data", "resources", "ledger")]
    return (*keys, "data.validation", "data.calibration")
