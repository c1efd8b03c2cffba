"""Report: the result table, the headline numbers, the figures and the page that shows them, from scores alone."""

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd

from stages.artifacts.adversarial import AdversarialSet, load_adversarial_set
from stages.artifacts.datasets import load_dataset
from stages.claims.claim import Claim, claims_table
from stages.claims.evidence import Evidence
from stages.datasets.arrays import fractions
from stages.metrics.diagnostics import diagnostics_table
from stages.metrics.exports import disagreements_table, exports_table
from stages.metrics.faults import bit_flips_table, flipped_bits_table, flips_needed_table
from stages.metrics.results import (
    EPSILON_TOLERANCE,
    csv_text,
    metrics,
    results,
    variants_table,
    worst_case_table,
)
from stages.metrics.uncertainty import uncertainty_table
from stages.norms import in_order
from stages.reporting import attackers, diagnostics, examples, faults, growth, uncertainty
from stages.reporting.distances import distances
from stages.reporting.exports import Exports
from stages.reporting.figures import FIGURES, groups, svg
from stages.reporting.page import page

NETWORK_FOLDERS = ("trained", "defended", "quantized", "filtered")


def run(task, params, outputs) -> None:
    """Write every product of the report job.

    Raises:
        ValueError: the plan asks for a product that the report does not make, or an adversarial set of an attack with
            budgets lacks its norm's headline epsilon.
    """
    job = task.job
    settings = _used(job, params)
    headlines = in_order(settings["evaluation"]["headline_epsilon"])
    scores = _gathered(job, "scores")
    probes = _gathered(job, "probes")
    diagnosed = _gathered(job, "diagnostics")
    flips = _gathered(job, "faults"), _gathered(job, "flipped")
    networks = [json.loads(file.read_text()) for folder in NETWORK_FOLDERS for file in _inputs(job, folder, ".json")]
    exported = [json.loads(file.read_text()) for file in _inputs(job, "exported", ".json")]
    strip = _strip(job, scores, headlines, settings["report"]["examples"])
    texts = _texts(scores, probes, diagnosed, flips, networks, exported, strip, headlines, settings)
    for product in job.products:
        name = Path(product).name
        if name not in texts:
            raise ValueError(
                f"the plan's report: {product}: not made by it, expected one of {', '.join(sorted(texts))}"
            )
        outputs.path(product).write_text(texts[name], encoding="utf-8")


def _texts(
    scores: pd.DataFrame,
    probes: pd.DataFrame | None,
    diagnosed: pd.DataFrame | None,
    flips: tuple[pd.DataFrame | None, pd.DataFrame | None],
    networks: list[dict],
    exported: list[dict],
    strip: list[examples.Row],
    headlines: dict[str, float],
    settings: dict,
) -> dict[str, str]:
    """What each product holds, by file name. The headline numbers are those of the first of `headlines`."""
    norm = next(iter(headlines))
    left, flipped = flips
    table = results(scores, settings["report"]["quality_targets"], probes, left)
    variants = variants_table(networks)
    drawn = groups(table, variants, headlines, distances(scores, table))
    figures = {
        f"{name}.svg": svg([(group.title, figure(group)) for group in drawn], "Nothing to draw.")
        for name, figure in FIGURES.items()
    }
    subjects = [] if diagnosed is None else diagnostics.diagnosed(diagnosed, variants)
    figures |= {
        f"{name}.svg": svg([(subject.title, figure(subject)) for subject in subjects], "Nothing to draw.")
        for name, figure in diagnostics.FIGURES.items()
    }
    tables = {} if diagnosed is None else {"diagnostics.csv": csv_text(diagnostics_table(diagnosed))}
    curves = []
    if "confidence" in scores:
        curves = uncertainty.uncertain(scores, headlines)
        tables["uncertainty.csv"] = csv_text(uncertainty_table(scores, headlines))
        figures |= {
            f"{name}.svg": svg([(subject.title, figure(subject)) for subject in curves], "Nothing to draw.")
            for name, figure in uncertainty.FIGURES.items()
        }
        figures |= {
            f"{name}.svg": svg([(group.title, figure(group)) for group in drawn], "Nothing to draw.")
            for name, figure in attackers.FIGURES.items()
        }
    faulted = []
    if left is not None:
        by_flips, bits = bit_flips_table(left, table, variants), flipped_bits_table(flipped)
        needed = flips_needed_table(left, table, variants)
        faulted = faults.attacked(by_flips, needed, bits, variants)
        tables |= {"bit_flips.csv": csv_text(by_flips), "flipped_bits.csv": csv_text(bits)}
        tables["flips_needed.csv"] = csv_text(needed)
        figures |= {
            f"{name}.svg": svg([(group.title, figure(group)) for group in faulted], "Nothing to draw.")
            for name, figure in faults.FIGURES.items()
        }
    exports = None
    if exported:
        exports = Exports(exports_table(exported), disagreements_table(exported))
        tables["exports.csv"] = csv_text(exports.networks)
        tables["export_disagreements.csv"] = csv_text(exports.disagreements)
    grown = growth.grown(networks)
    if grown:
        figures |= {
            f"{name}.svg": svg([(group.title, figure(group)) for group in grown], "Nothing to draw.")
            for name, figure in growth.FIGURES.items()
        }
    judged = _judged(settings["report"]["claims"], Evidence(table, scores, diagnosed, variants, headlines, left))
    if judged is not None:
        tables["claims.csv"] = csv_text(claims_table(judged))
    return (
        figures
        | tables
        | {
            "examples.svg": svg([("", examples.chart(strip))], _no_examples(strip)),
            "results.csv": csv_text(table),
            "variants.csv": csv_text(variants),
            "worst_case.csv": csv_text(worst_case_table(table, norm)),
            "metrics.json": json.dumps(metrics(table, norm, headlines[norm]), indent=2) + "\n",
            "report.html": page(
                table, drawn, subjects, strip, settings["study"], settings, judged, curves, faulted, exports, grown
            ),
        }
    )


def _no_examples(strip: list[examples.Row]) -> str:
    """What stands in the place of the strip's chart where there is none."""
    return "The examples are sound: report.html plays them." if strip else "No adversarial images to show."


def _judged(claims: str, evidence: Evidence) -> list[Claim] | None:
    """The claims that a file of stages/claims/ judges, those with a number first; None where the study names none."""
    if not claims:
        return None
    return sorted(import_module(f"stages.claims.{claims}").claims(evidence), key=lambda claim: claim.ours is None)


def _gathered(job, folder: str) -> pd.DataFrame | None:
    """The rows of all Parquet files of one folder among the inputs; None where there is none."""
    frames = [pd.read_parquet(file) for file in _inputs(job, folder, ".parquet")]
    return pd.concat(frames, ignore_index=True) if frames else None


def _used(job, params) -> dict:
    """The settings that the job depends on and so may show, nested as in params.yaml."""
    used = {}
    for key in job.params:
        *sections, last = key.removeprefix("extended.").split(".")
        source, target = params.values, used
        for section in sections:
            source, target = source[section], target.setdefault(section, {})
        target[last] = source[last]
    return used


def _inputs(job, folder: str, suffix: str) -> list[Path]:
    return [Path(file) for file in job.inputs if Path(file).parent.name == folder and Path(file).suffix == suffix]


def _strip(job, scores: pd.DataFrame, headlines: dict[str, float], count: int) -> list[examples.Row]:
    """The images of the adversarial sets among the inputs, all of one dataset, model and seed."""
    files = _inputs(job, "adversarial", ".safetensors")
    if not files:
        return []
    loaded = {file: load_adversarial_set(file) for file in files}
    shared = {key: loaded[files[0]].variant[key] for key in ("dataset", "model", "seed")}
    (prepared,) = (file for file in _inputs(job, "prepared", ".safetensors") if file.stem == shared["dataset"])
    dataset = load_dataset(prepared)
    images, labels = dataset.test.inputs, dataset.test.labels
    sets = [_at(headlines[found.norm], found, images, file) for file, found in loaded.items()]
    mine = (scores[list(shared)] == list(shared.values())).all(axis=1)
    return examples.strip(sets, images, labels, dataset.classes, scores[mine], count)


def _at(headline: float, adversarial: AdversarialSet, images: np.ndarray, file: Path) -> examples.ShownSet:
    """The set at the headline epsilon; `images` are the test inputs, uint8 or int16 [N, C, H, W]."""
    if adversarial.minimal_norm:
        inputs = adversarial.within(headline, fractions(images[adversarial.samples], np.float32))
    else:
        (matching,) = np.nonzero(np.isclose(adversarial.epsilons, headline, rtol=0, atol=EPSILON_TOLERANCE))
        if not len(matching):
            raise ValueError(
                f"{file}: epsilons: {adversarial.epsilons}, expected the headline epsilon {headline:.6g} there"
            )
        inputs = adversarial.inputs[matching[0]]
    return examples.ShownSet(
        scheme=adversarial.variant["scheme"],
        defense=adversarial.variant["defense"],
        attack=adversarial.attack,
        norm=adversarial.norm,
        epsilon=headline,
        samples=adversarial.samples,
        inputs=inputs,
    )
