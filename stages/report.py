"""Report: the result table, the headline numbers, the figures and the page that shows them, from scores alone."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from stages.artifacts.adversarial import AdversarialSet, load_adversarial_set
from stages.artifacts.datasets import load_dataset
from stages.metrics.results import (
    EPSILON_TOLERANCE,
    csv_text,
    metrics,
    results,
    variants_table,
    worst_case_table,
)
from stages.reporting import examples
from stages.reporting.figures import FIGURES, groups, svg
from stages.reporting.page import page

NETWORK_FOLDERS = ("trained", "defended", "quantized")


def run(task, params, outputs) -> None:
    """Write every product of the report job.

    Raises:
        ValueError: the plan asks for a product that the report does not make, or an adversarial set lacks the headline
            epsilon.
    """
    job = task.job
    settings = _used(job, params)
    headline = settings["evaluation"]["headline_epsilon"]
    scores = pd.concat([pd.read_parquet(file) for file in _inputs(job, "scores", ".parquet")], ignore_index=True)
    networks = [json.loads(file.read_text()) for folder in NETWORK_FOLDERS for file in _inputs(job, folder, ".json")]
    strip = _strip(job, scores, headline, settings["report"]["examples"])
    texts = _texts(scores, networks, strip, headline, settings)
    for product in job.products:
        name = Path(product).name
        if name not in texts:
            raise ValueError(
                f"the plan's report: {product}: not made by it, expected one of {', '.join(sorted(texts))}"
            )
        outputs.path(product).write_text(texts[name], encoding="utf-8")


def _texts(
    scores: pd.DataFrame, networks: list[dict], strip: list[examples.Row], headline: float, settings: dict
) -> dict[str, str]:
    """What each product holds, by file name."""
    table = results(scores, settings["report"]["quality_targets"])
    variants = variants_table(networks)
    drawn = groups(table, variants, headline)
    figures = {
        f"{name}.svg": svg([(group.title, figure(group)) for group in drawn], "Nothing to draw.")
        for name, figure in FIGURES.items()
    }
    return figures | {
        "examples.svg": svg([("", examples.chart(strip))], "No adversarial images to show."),
        "results.csv": csv_text(table),
        "variants.csv": csv_text(variants),
        "worst_case.csv": csv_text(worst_case_table(table)),
        "metrics.json": json.dumps(metrics(table, headline), indent=2) + "\n",
        "report.html": page(table, drawn, strip, settings["study"], headline, settings),
    }


def _used(job, params) -> dict:
    """The settings that the job depends on and so may show, nested as in params.yaml."""
    used = {}
    for key in job.params:
        *sections, last = key.split(".")
        source, target = params.values, used
        for section in sections:
            source, target = source[section], target.setdefault(section, {})
        target[last] = source[last]
    return used


def _inputs(job, folder: str, suffix: str) -> list[Path]:
    return [Path(file) for file in job.inputs if Path(file).parent.name == folder and Path(file).suffix == suffix]


def _strip(job, scores: pd.DataFrame, headline: float, count: int) -> list[examples.Row]:
    """The images of the adversarial sets among the inputs, all of one dataset, model and seed."""
    files = _inputs(job, "adversarial", ".safetensors")
    if not files:
        return []
    sets = []
    for file in files:
        adversarial = load_adversarial_set(file)
        sets.append(_at(adversarial, headline, file))
        variant = adversarial.variant
    shared = (scores[["dataset", "model", "seed"]] == [variant["dataset"], variant["model"], variant["seed"]]).all(
        axis=1
    )
    (prepared,) = (file for file in _inputs(job, "prepared", ".safetensors") if file.stem == variant["dataset"])
    dataset = load_dataset(prepared)
    return examples.strip(sets, dataset.test.inputs, dataset.test.labels, dataset.classes, scores[shared], count)


def _at(adversarial: AdversarialSet, headline: float, file: Path) -> examples.ShownSet:
    (matching,) = np.nonzero(np.isclose(adversarial.epsilons, headline, rtol=0, atol=EPSILON_TOLERANCE))
    if not len(matching):
        raise ValueError(
            f"{file}: epsilons: {adversarial.epsilons}, expected the headline epsilon {headline:.6g} there"
        )
    return examples.ShownSet(
        scheme=adversarial.variant["scheme"],
        defense=adversarial.variant["defense"],
        attack=adversarial.attack,
        epsilon=headline,
        samples=adversarial.samples,
        inputs=adversarial.inputs[matching[0]],
    )
