"""Faults between settings that are each fine on their own, one sentence each."""

import re
from collections.abc import Iterator
from itertools import pairwise
from math import inf
from typing import Any

from pydantic import ValidationError

from stages import plugins
from stages.datasets.levels import SILENCE, is_sound, levels_of
from stages.norms import EPSILON_TOLERANCE, FULL_RANGES, SNR, in_order, strength

ATTACK_NAME = re.compile(r"[a-z][a-z0-9_]*")
BEFORE = "before"  # the setting of a filter that names the defense of the network that it stands before
AS_LARGE_AS = "as_large_as"  # the setting of a number format that names another, whose networks give the size
EOT = "eot_samples"  # the setting of an attack that says over how many draws its gradients average, if not as for all
RESERVED = ("all", "clean", "nfiles", "size")  # items of the plan, and words of dvc.lock


def impossible(params: Any) -> Iterator[str]:
    """All such faults of a `stages.params.Params`."""
    for index, addition in enumerate(params.grid.also):
        if not addition.model_fields_set:
            yield f"grid.also.{index}: {{}} names no axis, expected one of: {', '.join(type(addition).model_fields)}"
    cells = params.grid.cells()
    for dataset, model in dict.fromkeys((dataset, model) for dataset, model, *_ in cells):
        yield from _misfit(dataset, model)
    for dataset, defense in dict.fromkeys((cell[0], cell[3]) for cell in cells):
        yield from _misfit_filter(params, dataset, defense)
    for dataset in dict.fromkeys(dataset for dataset, *_ in cells):
        yield from _impossible_counts(params, dataset)
    yield from _impossible_sources(params)
    yield from _impossible_filters(params)
    yield from _impossible_schemes(params)
    yield from _impossible_names(params)
    yield from _impossible_epsilons(params)
    yield from _impossible_transfer(params)
    yield from _impossible_limits(params)
    yield from _impossible_faults(params)
    yield from _impossible_export(params)


def _misfit(dataset: str, model: str) -> Iterator[str]:
    """A model whose MIN_SIZE (height, width), if any, exceeds the dataset's INPUT_SHAPE (channels, height, width)."""
    shape = plugins.constant("datasets", dataset, "INPUT_SHAPE")
    if len(shape) != 3:
        yield f"grid.datasets: {dataset!r} has inputs of shape {shape}, expected (channels, height, width)"
        return
    height, width = plugins.constants("models", model).get("MIN_SIZE", (1, 1))
    if shape[1] < height or shape[2] < width:
        yield (
            f"grid.models: {model!r} does not fit {dataset!r}, whose inputs are {shape[1]}x{shape[2]} pixels: "
            f"expected at least {height}x{width}"
        )


def _misfit_filter(params: Any, dataset: str, defense: str) -> Iterator[str]:
    """A defense with a filter of other inputs than the dataset's."""
    inputs = "sound" if is_sound(plugins.constant("datasets", dataset, "INPUT_SHAPE")) else "images"
    known = plugins.names("defenses")
    for name in params.filters(defense):
        if name in known and inputs not in plugins.filtered_inputs(name):
            filtered = " and ".join(plugins.filtered_inputs(name))
            part = "" if name == plugins.file_name("defenses", defense) else f" by {name!r}"
            yield (
                f"grid.defenses: {defense!r} filters {filtered}{part}, expected another defense on {dataset!r}, whose "
                f"inputs are {inputs}"
            )


def _impossible_sources(params: Any) -> Iterator[str]:
    """Networks that a defense starts from, and models whose networks it takes adversarial examples from."""
    if params.retraining("none").get("start") == "undefended":
        yield "defenses.none.training.start: 'undefended' is that network itself, expected 'scratch'"
    for defense in params.defenses:
        if params.retraining(defense).get("start") == "scratch" and plugins.takes_teacher(defense):
            yield f"defenses.{defense}.training.start: 'scratch' cannot be, since it starts from its teacher"
    known, cells = plugins.names("models"), params.grid.cells()
    for defense in params.grid_defenses:
        models = params.source_models(defense)
        if plugins.takes_sources(defense) and (not models or len(set(models)) < len(models)):
            yield f"defenses.{defense}.models: {list(models)} should name one model or more, each once"
        for name in models:
            key = f"defenses.{defense}.models: {name!r}"
            if name not in known:
                yield f"{key} is unknown{plugins.nearest(name, known)}"
                continue
            for dataset, model in dict.fromkeys(cell[:2] for cell in cells if cell[3] == defense):
                if model == name:
                    yield f"{key} is the model that it defends, expected others"
                yield from (
                    fault.replace("grid.models", f"defenses.{defense}.models") for fault in _misfit(dataset, name)
                )


def _impossible_filters(params: Any) -> Iterator[str]:
    """Defenses of one file with several settings, what a filter stands before, and filters of which one consists."""
    for name in dict.fromkeys([*params.grid_defenses, *params.defenses]):
        key, label = f"defenses.{name}", name.partition(plugins.LABEL)[2]
        if name != plugins.file_name("defenses", name) and not ATTACK_NAME.fullmatch(label or "_"):
            yield f"{key}: the label {label!r} should be lower-case letters, digits and '_', starting with a letter"
        if not plugins.is_filter(name):
            if label:
                yield f"{key}: {label!r} labels a defense that trains, expected a filter, or a file of that name"
            if BEFORE in params.defenses.get(name, {}):
                yield f"{key}.{BEFORE}: {name!r} is no filter, expected a filter to stand before a network"
            continue
        behind, known = params.behind(name), plugins.names("defenses")
        if behind not in known:
            yield f"{key}.{BEFORE}: {behind!r} is unknown{plugins.nearest(behind, known)}"
        elif plugins.is_filter(behind):
            yield f"{key}.{BEFORE}: {behind!r} is a filter, expected a defense that trains a network"
        yield from _impossible_chain(params, name, f"{key}.filters")


def _impossible_chain(params: Any, defense: str, key: str) -> Iterator[str]:
    """Filters that a defense consists of: unknown ones, those that are fitted, and impossible settings of them."""
    for index, entry in enumerate(params.settings_of_defense(defense).get("filters", ())):
        if not isinstance(entry, str) and not (isinstance(entry, dict) and len(entry) == 1):
            yield f"{key}.{index}: {entry!r} should be a filter's name, or {{name: {{setting: value}}}}"
            continue
        ((name, given),) = entry.items() if isinstance(entry, dict) else ((entry, {}),)
        known = [other for other in plugins.names("defenses") if plugins.is_filter(other)]
        known = [other for other in known if not plugins.is_fitted(other) and not params.is_chain(other)]
        if name not in known:
            yield f"{key}.{index}: {name!r} is no filter that could be part of one{plugins.nearest(name, known)}"
            continue
        try:
            plugins.settings("defenses", name, given or {})
        except ValidationError as error:
            for fault in error.errors():
                setting = ".".join(map(str, fault["loc"]))
                yield f"{key}.{index}.{name}.{setting}: {fault['input']!r} {fault['msg'].removeprefix('Input ')}"


def _impossible_schemes(params: Any) -> Iterator[str]:
    """Number formats with a name of their own, which is part of variants' names."""
    for name in params.schemes:
        plugin = params.scheme_plugin(name)
        if name == plugin:
            continue
        if not ATTACK_NAME.fullmatch(name):
            yield f"schemes.{name}: {name!r} should be lower-case letters, digits and '_', starting with a letter"
        elif name in (*plugins.names("schemes"), "fp32"):
            yield f"schemes.{name}: {name!r} is the name of another number format, expected a new name"
    for name in dict.fromkeys(cell[2] for cell in params.grid.cells()):
        if name in plugins.names("schemes") and name not in params.schemes and (missing := _required(name)):
            yield f"grid.schemes: {name!r} needs settings: expected schemes.{name} with {', '.join(missing)}"
    for name in params.schemes:
        yield from _impossible_size(params, name)


def _required(scheme: str) -> list[str]:
    """The settings that a number format's file needs to be given."""
    return [key for key, field in plugins.knobs("schemes", scheme).model_fields.items() if field.is_required()]


def _impossible_size(params: Any, scheme: str) -> Iterator[str]:
    """A number format that is to be as large as another."""
    other, key = params.reference_scheme(scheme), f"schemes.{scheme}.{AS_LARGE_AS}"
    if other is None:
        return
    known = dict.fromkeys([*params.schemes, *(name for name in plugins.names("schemes") if not _required(name))])
    if other not in known:
        yield f"{key}: {other!r} is unknown{plugins.nearest(other, list(known))}"
    elif params.reference_scheme(other):
        yield f"{key}: {other!r} is itself to be as large as another, expected one that is not"
    if "channels" in params.settings_of_scheme(scheme):
        yield f"{key}: {other!r} decides how many channels there are, expected no schemes.{scheme}.channels"


def _impossible_names(params: Any) -> Iterator[str]:
    """Names of attacks become parts of paths, of commands and of DVC's keys, and stand in every table."""
    for name in params.attacks:
        plugin = params.plugin(name)
        draws = params.attacks[name].get(EOT, 1)
        if type(draws) is not int or draws < 1:
            yield f"attacks.{name}.{EOT}: {draws!r} should be a whole number of draws, at least 1"
        elif EOT in params.attacks[name] and plugins.threat(plugin) != "white_box":
            yield f"attacks.{name}.{EOT}: {name!r} has no gradients to average, expected an attack with 'white_box'"
        if not ATTACK_NAME.fullmatch(name):
            yield f"attacks.{name}: {name!r} should be lower-case letters, digits and '_', starting with a letter"
        elif name in RESERVED:
            yield f"attacks.{name}: {name!r} has a meaning of its own, expected another name"
        elif name != plugin and name in plugins.names("attacks"):
            yield f"attacks.{name}.attack: {plugin!r} is another attack than {name!r}, expected another name for it"


def _impossible_epsilons(params: Any) -> Iterator[str]:
    budgets, headlines = params.evaluation.epsilons, params.evaluation.headline_epsilon
    norms = {name: plugins.norm(params.plugin(name)) for name in params.attacks}
    for name, norm in norms.items():
        if norm not in budgets:
            yield f"evaluation.epsilons: {list(budgets)} should also have {norm!r}, the norm of attacks.{name}"
    for norm in budgets:
        if norm not in norms.values():
            yield f"evaluation.epsilons.{norm}: no attack has this norm, expected those of attacks: {_listed(norms)}"
    if set(headlines) != set(budgets):
        expected = f"the norms of evaluation.epsilons: {', '.join(budgets)}"
        yield f"evaluation.headline_epsilon: {list(headlines)} should have {expected}"
    for norm, epsilons in budgets.items():
        yield from _impossible_budgets(params, norm, epsilons)


def _listed(norms: dict[str, str]) -> str:
    return ", ".join(sorted(set(norms.values())))


def _impossible_budgets(params: Any, norm: str, epsilons: list[float]) -> Iterator[str]:
    key, evaluation = f"evaluation.epsilons.{norm}", params.asked["evaluation"]
    written, headline = evaluation["epsilons"][norm], params.evaluation.headline_epsilon.get(norm)
    if epsilons != sorted(set(epsilons)):
        yield f"{key}: {written} should be ascending, each value once"
    elif any(after - before <= EPSILON_TOLERANCE for before, after in pairwise(epsilons)):
        yield f"{key}: {written} should be more than {EPSILON_TOLERANCE:g} apart, to be told apart in tables"
    if norm == "linf" and FULL_RANGES[norm] in epsilons:
        yield f"{key}: 1 should be left out, since iterative attacks run there by themselves as a check"
    if headline is not None and headline not in epsilons:
        yield (f"evaluation.headline_epsilon.{norm}: {evaluation['headline_epsilon'][norm]!r} should be one of {key}")
    if headline == 0 and params.evaluation.extended:
        yield f"evaluation.headline_epsilon.{norm}: 0 should be above 0, where evaluation.extended tests attacks"
    shapes = {name: plugins.constant("datasets", name, "INPUT_SHAPE") for name, *_ in params.grid.cells()}
    levels = min(map(levels_of, shapes.values()))
    for index, epsilon in enumerate(epsilons):
        if strength(epsilon, norm) > strength(FULL_RANGES[norm], norm):
            yield f"{key}.{index}: {written[index]!r} should be below 1, the largest change that an input can take"
        elif norm == "linf" and params.evaluation.grid == "digital" and round(epsilon * levels) / levels != epsilon:
            yield (
                f"{key}.{index}: {written[index]!r} should be a multiple of 1/{levels}, written like 8/{levels}, since "
                "evaluation.grid is 'digital'"
            )
        elif norm == SNR and epsilon == 0:
            yield f"{key}.{index}: 0 should be above 0, in dB, where the change is as loud as the clip"
    if norm == SNR:
        yield from (f"{key}: {name!r} is no sound, whose ratio it is" for name in shapes if not is_sound(shapes[name]))


def _impossible_counts(params: Any, dataset: str) -> Iterator[str]:
    """Sizes that the dataset cannot give, as far as it states its COUNTS (those of train and test, of its own val)."""
    known = plugins.constants("datasets", dataset)
    counts = known.get("COUNTS", {"train": inf, "test": inf})
    classes = len(known.get("CLASSES", [0]))
    has_validation = "val" in counts
    left = counts["train"] - (0 if has_validation else params.data.validation)
    most = (counts["val"], "its own") if has_validation else (counts["train"] - classes, "all but one for each class")
    shape = plugins.constant("datasets", dataset, "INPUT_SHAPE")
    side = min(shape[1:])
    padding = params.training.augmentation.crop_padding
    beside_validation = "the training images beside validation"
    batches = {"training": params.training.batch_size}
    batches |= {f"defenses.{name}.training": params.retraining(name).get("batch_size", 1) for name in params.defenses}
    limits = [
        ("data.validation", params.data.validation, classes, *most),
        ("data.calibration", params.data.calibration, 1, left, beside_validation),
        *((f"{key}.batch_size", size, 1, left, beside_validation) for key, size in batches.items()),
        ("evaluation.samples", params.evaluation.samples, 1, counts["test"], "the test images"),
        ("evaluation.diagnose", params.evaluation.diagnose, 0, counts["test"], "the test images"),
        ("training.augmentation.crop_padding", padding, 0, side // 2, "half the side"),
    ]
    for key, value, lowest, highest, what in limits:
        if value < lowest:
            yield f"{key}: {value} should be at least {lowest}, one for each class of {dataset!r}"
        if value > highest:
            yield f"{key}: {value} should be at most {max(highest, 0)}, {what} of {dataset!r}"
    augmentation = params.training.augmentation
    for key in () if is_sound(shape) else ("time_shift", "background_noise"):
        if value := getattr(augmentation, key):
            yield f"training.augmentation.{key}: {value} should be 0, since {dataset!r} is no sound"
    if augmentation.background_noise and SILENCE not in known.get("CLASSES", ()):
        value = augmentation.background_noise
        yield f"training.augmentation.background_noise: {value} needs a class {SILENCE!r}, which {dataset!r} lacks"
    if is_sound(shape) and augmentation.horizontal_flip:
        yield f"training.augmentation.horizontal_flip: true should be false, since {dataset!r} is sound"


def _impossible_transfer(params: Any) -> Iterator[str]:
    for index, name in enumerate(params.evaluation.transfer):
        key = f"evaluation.transfer.{index}: {name!r}"
        if name not in params.attacks:
            yield f"{key} is not listed in attacks{plugins.nearest(name, list(params.attacks))}"
        elif (threat := plugins.threat(params.plugin(name))) != "white_box":
            yield f"{key} has the threat {threat!r}, expected an attack with 'white_box', crafted on the surrogate"
        elif params.attacks[name].get("stop_when_broken"):
            yield f"{key} has stop_when_broken, expected an attack at full effort: sets that stop early do not transfer"


def _impossible_limits(params: Any) -> Iterator[str]:
    """Limits of what is not there, or that are none, or that leave nothing to report."""
    limits, budgets = params.evaluation.limits, params.evaluation.epsilons
    for kind, section in (("attacks", limits.attacks), ("defenses", limits.defenses)):
        for name, limit in section.items():
            if limit.samples and limit.samples > params.evaluation.samples:
                key = f"evaluation.limits.{kind}.{name}.samples"
                yield f"{key}: {limit.samples} should be at most {params.evaluation.samples}, evaluation.samples"
    unknown = []
    for name, limit in limits.attacks.items():
        key = f"evaluation.limits.attacks.{name}"
        yield from _not_in_grid(params, key, limit)
        if name not in params.attacks:
            unknown.append(f"{key}: {name!r} is not listed in attacks{plugins.nearest(name, list(params.attacks))}")
        elif limit.epsilons is not None and plugins.is_minimal_norm(params.plugin(name)):
            yield f"{key}.epsilons: {name!r} looks for the nearest adversarial inputs, expected an attack with budgets"
        elif limit.epsilons is not None:
            norm = plugins.norm(params.plugin(name))
            yield from _unknown_budgets(f"{key}.epsilons", limit.epsilons, norm, budgets.get(norm, []))
    for name, limit in limits.defenses.items():
        key = f"evaluation.limits.defenses.{name}"
        for attack in limit.attacks or ():
            if attack not in params.attacks:
                nearest = plugins.nearest(attack, list(params.attacks))
                unknown.append(f"{key}.attacks: {attack!r} is not listed in attacks{nearest}")
        for norm, epsilons in (limit.epsilons or {}).items():
            yield from _unknown_budgets(f"{key}.epsilons.{norm}", epsilons, norm, budgets.get(norm, []))
    if unknown:
        yield from unknown
    elif limits.attacks or limits.defenses:
        yield from _unattacked(params)


def _not_in_grid(params: Any, key: str, limit: Any) -> Iterator[str]:
    """Schemes and seeds that an attack is limited to, and no network has."""
    cells = params.grid.cells()
    for axis, index in (("schemes", 2), ("seeds", 4)):
        known = dict.fromkeys(cell[index] for cell in cells)
        for value in getattr(limit, axis) or ():
            if value not in known:
                yield f"{key}.{axis}: {value!r} is not in the grid, expected one of: {', '.join(map(str, known))}"


def _unknown_budgets(key: str, epsilons: list[float], norm: str, known: list[float]) -> Iterator[str]:
    for epsilon in epsilons:
        if epsilon not in known:
            yield f"{key}: {epsilon:.6g} should be one of evaluation.epsilons.{norm}"


def _unattacked(params: Any) -> Iterator[str]:
    """Defenses that limits leave without any attack at the headline epsilon, or an attack without any epsilon."""
    headline, epsilon = next(iter(in_order(params.evaluation.headline_epsilon).items()), (None, 0.0))
    told = set()
    cells = [tuple(cell[2:]) for cell in params.grid.cells()]
    first, _, lowest = cells[0]  # defenses that the grid does not ask for yet are judged as if it did of these
    for scheme, defense, seed in [*cells, *((first, defense, lowest) for defense in params.evaluation.limits.defenses)]:
        attacks = params.attacks_on(defense, scheme, seed)
        key = f"evaluation.limits.defenses.{defense}.epsilons"
        faults = [
            f"{key}: shares none with evaluation.limits.attacks.{attack}.epsilons, expected some"
            for attack in attacks
            if not params.epsilons(defense, attack)
        ]
        in_norm = [attack for attack in attacks if plugins.norm(params.plugin(attack)) == headline]
        if not any(params.reaches(defense, attack, epsilon) for attack in in_norm):
            faults.append(
                f"evaluation.limits: leaves no attack on {defense!r} at {headline} {epsilon:.6g}, expected one for the "
                "headline numbers (evaluation.headline_epsilon)"
            )
        yield from (fault for fault in faults if fault not in told)
        told |= set(faults)


def _impossible_faults(params: Any) -> Iterator[str]:
    """Names of attacks on memory, which stand beside those on inputs in every table; and numbers of flips."""
    for name in params.faults:
        plugin = params.fault_plugin(name)
        if not ATTACK_NAME.fullmatch(name):
            yield f"faults.{name}: {name!r} should be lower-case letters, digits and '_', starting with a letter"
        elif name in RESERVED or name in params.attacks:
            yield f"faults.{name}: {name!r} has a meaning of its own, expected another name"
        elif name != plugin and name in plugins.names("faults"):
            yield f"faults.{name}.attack: {plugin!r} is another attack than {name!r}, expected another name for it"
    flips = params.evaluation.flips
    if params.faults and flips is None:
        yield "evaluation.flips: is missing, expected the numbers of flips at which the attacks of faults are judged"
    elif flips is not None and flips != sorted(flips):
        yield f"evaluation.flips: {flips} should be ascending"
    for name in sorted({"flips", "checksums"} & params.evaluation.model_fields_set if not params.faults else ()):
        yield f"evaluation.{name}: is for attacks on memory, expected some in faults"


def _impossible_export(params: Any) -> Iterator[str]:
    """Exports of nothing, or more test images to compare than a dataset has."""
    if params.export is None or not params.export.onnx:
        return
    cells = params.grid.cells()
    if all(scheme == "fp32" or plugins.is_filter(defense) for _, _, scheme, defense, _ in cells):
        yield "export.onnx: true exports nothing, expected a quantized network in the grid that no filter stands before"
    for dataset in dict.fromkeys(dataset for dataset, *_ in cells):
        most = plugins.constants("datasets", dataset).get("COUNTS", {}).get("test", inf)
        if params.export.samples is not None and params.export.samples > most:
            yield f"export.samples: {params.export.samples} should be at most {most}, the test images of {dataset!r}"
