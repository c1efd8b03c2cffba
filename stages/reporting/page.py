"""The report: one HTML file that needs nothing else."""

from collections import Counter
from collections.abc import Sequence
from math import isfinite
from pathlib import Path

import pandas as pd
import vl_convert
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from stages.claims.claim import NO, UNDECIDED, YES, Claim, shown
from stages.metrics.flags import MEANINGS
from stages.metrics.results import split_flags, variant_names
from stages.reporting import attackers, diagnostics, faults, growth, uncertainty
from stages.reporting.diagnostics import Diagnosed
from stages.reporting.examples import Row
from stages.reporting.exports import Exports
from stages.reporting.faults import Attacked
from stages.reporting.figures import (
    FIGURES,
    THEMES,
    Group,
    configuration,
    description,
    is_unbounded,
    series_names,
    specification,
    surrogate_labels,
)
from stages.reporting.findings import findings
from stages.reporting.growth import Grown
from stages.reporting.sizes import epsilon_label
from stages.reporting.uncertainty import Uncertain

HATCHED = '<span class="hatched" aria-hidden="true"></span>'
HOLLOW = '<span class="hollow" aria-hidden="true"></span>'

# Per figure: its link, its title, how to read it, and what stands there without it.
SECTIONS = {
    "heatmap": (
        "Heat map",
        "Which defense and number format withstand attack",
        f"Accuracy on attacked and on clean samples, each number in percent. {HATCHED} Hatched cells are flagged: do "
        "not trust their numbers, which may be far too high. A cell with an <i>n</i> is over so many samples, another "
        "number than most cells of its panel, and compares with these only roughly.",
        "No variant was evaluated at the headline epsilon.",
    ),
    "accuracy_vs_epsilon": (
        "Accuracy and epsilon",
        "How accuracy falls with the attacker's budget",
        "Epsilon is the attacker's budget: in Linf the most that any input value may change. Bands are 95 % intervals. "
        f"{HOLLOW} Hollow marks are flagged.",
        "No attack was run.",
    ),
    "distance": (
        "Distance",
        "How near adversarial inputs lie",
        "Distance from correctly classified samples to the nearest adversarial input that any attack found, where "
        "minimal-norm attacks were run: the mark is the median, the bar runs from the lower to the upper quartile. "
        "Samples for which none was found count as infinitely far, so a median may be missing. A bar that ends in an "
        f"arrow goes on, maybe infinitely. True distances may be smaller, never larger. {HOLLOW} Hollow marks are "
        "flagged.",
        "No minimal-norm attack was run.",
    ),
    "transfer": (
        "Transfer",
        "What attacks crafted on one network do to another",
        "Accuracy in percent of each target (column) on samples crafted on each surrogate (row) at {budgets}. "
        "The framed diagonal is the attack on the network itself; a column whose lowest number lies elsewhere suggests "
        f"that this attack misjudged the network. {HATCHED} Hatched cells are flagged.",
        "No attack was transferred between variants.",
    ),
    "pareto": (
        "Size",
        "What robustness costs in memory",
        "Accuracy against the bytes of the weights, on a logarithmic scale. The dashed line joins the variants without "
        f"a flag that no smaller one matches. {HOLLOW} Hollow marks are flagged.",
        "No variant was evaluated at the headline epsilon.",
    ),
}

# The same for what is diagnosed beside.
DIAGNOSTIC_SECTIONS = {
    "attribution": (
        "Attribution",
        "Which part of quantization it is",
        "The same network with one part alone quantized: the grid of its inputs, its weights, its activations, or all. "
        "Bars are accuracy under PGD with ten steps on real-valued changes, lines clean accuracy. Of a network trained "
        "with quantization, the weights alone hold the training as well as the rounding.",
        "No budget in Linf was asked for.",
    ),
    "gradient_cosine": (
        "Gradients",
        "How far quantization turns the gradients",
        "The cosine between the input gradients of the float and of the quantized network, over samples: the curve is "
        "the share of samples at or below a cosine, its mark the median. Where it is low, an attacker who follows the "
        "gradient of one of them climbs little on the other.",
        "No variant is quantized.",
    ),
    "boundary_distance": (
        "Boundary",
        "How far the decision boundary moved",
        "Distance to the nearest error found, median and quartiles, of the float and of the quantized network, for "
        "real-valued changes. A larger distance can also mean that gradients mislead the search.",
        "No variant is quantized.",
    ),
    "quantization_shift": (
        "Shift",
        "What quantization changes by itself",
        "How many samples change their class, and how far their logits move, from the float to the quantized network, "
        "on samples with uniform noise.",
        "No variant is quantized.",
    ),
}

# And of networks that say how sure they are.
ATTACKERS_SECTIONS = {
    "attackers": (
        "Attackers",
        "From the weakest attacker to the strongest",
        "Accuracy that each attacker leaves at {budgets}. What replayed examples or gradients of single draws alone "
        "say of a random network is no robustness: look at the last bars. Pale bars are flagged.",
        "No attack was run at the headline epsilon.",
    ),
}
UNCERTAINTY_SECTIONS = {
    "rejection": (
        "Rejection",
        "What rejecting uncertain inputs is worth",
        "Accuracy of the samples that are accepted, when those whose prediction has the largest entropy over all "
        "passes are rejected, clean and at {budgets}. Where a curve falls, the errors are surer than what is right, as "
        "an attacker makes them who knows of the rejection.",
        "No network says how sure it is.",
    ),
}

GLOSSARY = {
    "Variant": "A trained network: dataset, model, scheme, defense and seed.",
    "Scheme": "The network's number format: fp32 is the float network, int8 has 8-bit weights and activations "
    "(int8_calibrated_on_test, a control, with ranges from samples that it is evaluated on), int16x8 "
    "has 8-bit weights and 16-bit activations, w4a4 has 4-bit ones of both, w1a1 has single bits, qat has the widths "
    "that it is given, mixed chooses those of each layer, and early_growth is a binary network whose layers grew "
    "channels; the weights of first and last layers keep 8 bits unless a format says otherwise.",
    "Defense": "How the network was trained to withstand attacks, or which filter changes its inputs; none is plain "
    "training without a filter.",
    "Norm": "How the size of a change is measured. Linf is the largest change of any input value, L2 the Euclidean "
    "length of the change, L1 the sum of the changes of all values, L0 how many values change at all. Values are in 0 "
    "to 1, and each channel of a pixel is one. Numbers of different norms do not compare.",
    "Epsilon": "The attacker's budget: the largest size, in the attack's norm, that a change of the input may have.",
    "SNR": "Signal-to-noise ratio, for clips of sound: how much stronger the clip is than what was added to it, in dB, "
    "which is 20 times the logarithm of the ratio of their Euclidean lengths. The budget is the larger the smaller the "
    "ratio is; at 40 dB the change has a hundredth of the clip's length.",
    "Epsilon any": "Any input was allowed. For attacks with budgets that is a check, which one that works passes with "
    "an accuracy near 0; for minimal-norm attacks it is what they found, however far. No attacker's budget, so these "
    "cells are in no curve and no worst case.",
    "Minimal-norm attack": "An attack without a budget that looks for the nearest adversarial input. At an epsilon it "
    "counts as successful where what it found is that near; elsewhere the sample is as it was.",
    "Distance": "The size of the change in the attack's norm. The distance to the nearest adversarial input that was "
    "found is an upper bound: a better attack may find a nearer one.",
    "Robust accuracy": "The share of all evaluated samples that are still classified correctly under attack; a sample "
    "that is wrong when clean counts as not robust.",
    "Worst case": "A sample counts only if it withstands every attack of one norm and epsilon.",
    "White box": "The attacker computes gradients of the attacked network itself.",
    "Adaptive": "White box against a defense whose own gradients would mislead: a filter of inputs is differentiated "
    "as a smooth stand-in of it (BPDA), a random network by gradients that average several draws (EOT).",
    "BPDA": "Backward pass differentiable approximation: values are those of the filter itself, gradients those of a "
    "smooth function near it, such as the identity.",
    "EOT": "Expectation over transformation: how many draws of a random network an attacker's gradient averages; 1 "
    "means that nothing is averaged, 0 that the attack uses no gradients.",
    "Black box": "The attacker sees the outputs of the attacked network and nothing else of it.",
    "Transfer": "The attack was crafted on another network, the surrogate, and replayed on the target.",
    "Noise": "Random changes of the same size: no attacker, the control.",
    "Forwards, backwards": "Passes through the network that an attack takes for one sample, and passes back for "
    "gradients. A black-box attack's forwards are its queries; a worst case has the sum of its attacks.",
    "95 % interval": "Wilson's interval over samples for one seed, Student's t-interval over several seeds.",
    "Digital": "Adversarial images are 8-bit images, so that epsilon in Linf is a multiple of 1/255; sound: 16 bits.",
    "Pre-quantizer": "The change is real-valued and made before the sensor rounds.",
    "Detected": "The share of inputs that a defense's detector rejects; in clean rows, wrongly.",
    "Accuracy with detector": "Samples that are accepted and classified correctly when they are clean, and rejected "
    "or classified correctly when they are attacked. Of the attacks, pgd_evading alone also tries to pass a "
    "detector; the others go for a wrong class.",
    "Flag": "A reason why a number must not be trusted, found by the evaluation itself.",
}

ANSWERS = {YES: "holds", NO: "does not hold", UNDECIDED: "undecided"}

# Columns of the table, those that appear on demand, and those that stand above it where all rows agree.
TEXT_COLUMNS = ["dataset", "model", "scheme", "defense", "seed", "threat", "attack", "surrogate", "norm"]
EXTRA_COLUMNS = {
    "detected": ("Detected", "percent"),
    "accuracy_with_detector": ("Accuracy with detector", "percent"),
    "mean_l0": ("Mean L0", "count"),
    "mean_l1": ("Mean L1", "distance"),
    "mean_l2": ("Mean L2", "distance"),
    "mean_linf": ("Mean Linf", "distance"),
    "forwards": ("Forwards", "number"),
    "backwards": ("Backwards", "number"),
    "eot_samples": ("EOT", "number"),
}
CONSTANT_COLUMNS = ["dataset", "model", "seed", "norm", "grid", "flips"]


def page(
    results: pd.DataFrame,
    groups: list[Group],
    diagnosed: list[Diagnosed],
    strip: list[Row],
    study: dict[str, str],
    settings: dict,
    claims: list[Claim] | None = None,
    uncertain: Sequence[Uncertain] = (),
    faulted: Sequence[Attacked] = (),
    exports: Exports | None = None,
    grown: Sequence[Grown] = (),
) -> str:
    """The report as HTML, the same bytes for the same arguments.

    `diagnosed` is empty where the study does not diagnose its networks, `uncertain` where no network says how sure it
    is, `faulted` where their memory is not attacked, `grown` where none has grown, and then the page has none of their
    sections. Without `exports` there is no section of exported networks.
    `study` has the `title` and the `question`; `settings` are printed. Without `claims` there is no section of them.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    charts, sections = _sections(groups, diagnosed, uncertain, faulted, grown)
    constants, table = table_columns(results)
    data = {
        "charts": charts,
        "themes": THEMES,
        "configurations": {theme: configuration(theme) for theme in THEMES},
        "rows": len(results),
        "table": table,
    }
    return environment.get_template("template.html").render(
        title=study["title"],
        question=study["question"],
        findings=findings(results, groups),
        sections=sections,
        claims=[_claim(claim) for claim in claims or ()],
        answers=_answers(claims or []),
        name_groups=len(groups) > 1,
        series=list(dict.fromkeys(name for group in groups for name in series_names(group))),
        strip=strip,
        exports=exports,
        constants=constants,
        flags=_flags(results),
        glossary=GLOSSARY | (faults.GLOSSARY if faulted else {}),
        settings=yaml.safe_dump(_readable(settings), sort_keys=False, allow_unicode=True, width=100),
        vega=Markup(vl_convert.javascript_bundle()),
        data=data,
    )


def _claim(claim: Claim) -> dict[str, str]:
    """What the table of claims shows of one; a missing number is a dash."""
    interval = [claim.ci_low, claim.ci_high]
    return {
        "claim": claim.claim,
        "paper": shown(claim.paper) or "–",
        "ours": _number(claim.ours),
        "interval": "–" if None in interval else " to ".join(map(_number, interval)),
        "holds": ANSWERS[claim.holds],
        "note": claim.note,
    }


def _number(value: float | None) -> str:
    """Three digits, or all before the point."""
    if value is None or not isfinite(value):
        return "–" if value is None or value != value else "-∞" if value < 0 else "∞"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _answers(claims: list[Claim]) -> str:
    """How many claims have each answer."""
    counts = Counter(claim.holds for claim in claims)
    named = ", ".join(f"{told}: {counts[answer]}" for answer, told in ANSWERS.items())
    return f"Claims: {len(claims)}; {named}."


def _sections(
    groups: list[Group],
    diagnosed: list[Diagnosed],
    uncertain: Sequence[Uncertain],
    faulted: Sequence[Attacked],
    grown: Sequence[Grown],
) -> tuple[list[dict], list[dict]]:
    """The charts' specifications, and the sections that refer to them by number."""
    charts, sections = [], []
    budgets = " and ".join(dict.fromkeys(group.budget for group in groups))
    drawn = {name: (SECTIONS[name], groups, FIGURES[name], description) for name in SECTIONS}
    if diagnosed:
        for name, section in DIAGNOSTIC_SECTIONS.items():
            drawn[name] = (section, diagnosed, diagnostics.FIGURES[name], diagnostics.description)
    if uncertain:
        for name, section in ATTACKERS_SECTIONS.items():
            drawn[name] = (section, groups, attackers.FIGURES[name], attackers.description)
        for name, section in UNCERTAINTY_SECTIONS.items():
            drawn[name] = (section, uncertain, uncertainty.FIGURES[name], uncertainty.description)
    if faulted:
        for name, section in faults.SECTIONS.items():
            drawn[name] = (section, faulted, faults.FIGURES[name], faults.description)
    if grown:
        for name, section in growth.SECTIONS.items():
            drawn[name] = (section, grown, growth.FIGURES[name], growth.description)
    for name, ((link, title, reading, nothing), subjects, figure, describe) in drawn.items():
        figures = []
        for subject in subjects:
            chart = figure(subject)
            if chart is not None:
                figures.append(
                    {
                        "index": len(charts),
                        "title": subject.title,
                        "description": describe(name, subject),
                        "series": series_names(subject) if name == "accuracy_vs_epsilon" else [],
                    }
                )
                charts.append(specification(chart))
        sections.append(
            {
                "name": name,
                "link": link,
                "title": title,
                "reading": Markup(reading).format(budgets=budgets),
                "nothing": nothing,
                "figures": figures,
            }
        )
    return charts, sections


def commands(results: pd.DataFrame) -> list[str]:
    """Per row the shell command, for the study's folder, that recomputes the cell whatever the cache holds.

    A row over several cells (worst case, all seeds) recomputes each of them.
    """
    network, budget = ["dataset", "model", "scheme", "defense"], ["norm", "epsilon"]
    table = results.assign(variant=variant_names(results), seed=results["seed"].astype(str))
    cells = table[(table["threat"] != "worst_case") & (table["seed"] != "all")]
    alike = dict(list(cells.groupby([*network, *budget])))

    def members(row: pd.Series) -> pd.DataFrame:
        found = alike[tuple(row[[*network, *budget]])]
        if row["threat"] == "worst_case":
            found = found[found["threat"] != "clean"]
        else:
            found = found[(found["threat"] == row["threat"]) & (found["attack"] == row["attack"])]
        if row["seed"] != "all":
            found = found[found["variant"] == row["variant"]]
            if row["threat"] == "transfer":
                found = found[found["surrogate"] == row["surrogate"]]
        return found

    return [_command(members(row)) for _, row in table.iterrows()]


def _command(cells: pd.DataFrame) -> str:
    in_memory = cells["threat"] == "bit_flip"
    flipped, cells = cells[in_memory], cells[~in_memory]
    attacked = cells[cells["threat"] != "clean"]
    crafted = attacked["surrogate"].where(attacked["surrogate"] != "", attacked["variant"]) + "-" + attacked["attack"]
    jobs = [
        *(f"attack {item}" for item in dict.fromkeys(crafted)),
        *(f"score {item}" for item in dict.fromkeys(cells["variant"] + "-" + cells["attack"])),
        *(f"bitflip {item}" for item in dict.fromkeys(flipped["variant"] + "-" + flipped["attack"])),
        "report all",
    ]
    return " && ".join(f"python -m stages {job} --recompute" for job in jobs)


def table_columns(results: pd.DataFrame) -> tuple[dict[str, str], list[dict]]:
    """What all rows share, and the columns of the table as its script wants them.

    A column has `key`, `label`, `kind` (how values are written), `values` (one a row, or the distinct ones where
    `codes` say which), and whether it is a `number`, an `extra` one, and has a `filter`.
    """
    constants, recompute = _constants(results), commands(results)
    # A surrogate shares dataset, model and seed with its target, whose row names them.
    results = results.assign(surrogate=surrogate_labels(results))
    text = [name for name in TEXT_COLUMNS if name not in constants]
    more_text = [name for name in ("grid",) if name not in constants]
    columns = [
        *(_coded(name, name.capitalize(), results[name].astype(str), filter=True) for name in text),
        _epsilons(results),
        *(_plain(name, name.capitalize(), "number", results[name]) for name in ("flips",) if name not in constants),
        _plain("accuracy", "Accuracy", "percent", results["accuracy"]),
        _interval(results),
        _coded("flags", "Flags", results["flags"], kind="flags", filter=True),
        _plain("n", "n", "number", results["n"]),
        *(_coded(name, name.capitalize(), results[name].astype(str), extra=True) for name in more_text),
        *(_plain(name, label, kind, results[name], extra=True) for name, (label, kind) in EXTRA_COLUMNS.items()),
        _coded("command", "Recompute", pd.Series(recompute), kind="command"),
    ]
    return constants, columns


def _constants(results: pd.DataFrame) -> dict[str, str]:
    """The columns with one value in all rows that have any; a clean row has neither norm nor grid."""
    distinct = {name: set(results[name].astype(str)) - {""} for name in CONSTANT_COLUMNS}
    return {name: values.pop() for name, values in distinct.items() if len(values) == 1}


def _coded(key: str, label: str, texts: pd.Series, kind: str = "text", **shown: bool) -> dict:
    codes, values = pd.factorize(texts)
    return {"key": key, "label": label, "kind": kind, "codes": codes.tolist(), "values": list(values), **shown}


def _epsilons(results: pd.DataFrame) -> dict:
    """Labels, and in `order` the number of each, none where any input was allowed: JSON has no infinity."""
    pairs = zip(results["epsilon"], results["norm"], strict=True)
    labels = pd.Series([epsilon_label(epsilon, norm) for epsilon, norm in pairs])
    column = _coded("epsilon", "Epsilon", labels, kind="epsilon", number=True, filter=True)
    numbers = results["epsilon"].where(~is_unbounded(results)).set_axis(labels)
    numbers = numbers[~numbers.index.duplicated()]
    return column | {"order": [None if pd.isna(number) else number for number in numbers]}


def _plain(key: str, label: str, kind: str, numbers: pd.Series, **shown: bool) -> dict:
    values = [None if pd.isna(number) else round(number, 9) for number in numbers.tolist()]
    return {"key": key, "label": label, "kind": kind, "values": values, "number": True, **shown}


def _interval(results: pd.DataFrame) -> dict:
    bounds = zip(results["ci_low"].round(6).tolist(), results["ci_high"].round(6).tolist(), strict=True)
    return {"key": "interval", "label": "95 % interval", "kind": "interval", "values": list(bounds), "number": True}


def _readable(settings, key: str = "", norm: str = "linf"):
    """The settings with epsilons as people write them; those of defenses and attacks are in Linf, if in any norm."""
    if isinstance(settings, dict):
        is_by_norm = "epsilon" in key
        return {name: _readable(value, *((key, name) if is_by_norm else (name,))) for name, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [_readable(value, key, norm) for value in settings]
    is_epsilon = "epsilon" in key and isinstance(settings, float) and norm == "linf" and 0 < settings < 1
    return epsilon_label(settings, norm) if is_epsilon else settings


def _flags(results: pd.DataFrame) -> list[dict]:
    """Every flag with its meaning and the number of cells that carry it, the frequent ones first."""
    raised = [flag for flags in results["flags"] for flag in split_flags(flags)]
    flags = [{"name": name, "meaning": meaning, "count": raised.count(name)} for name, meaning in MEANINGS.items()]
    return sorted(flags, key=lambda flag: -flag["count"])
