"""Crafts adversarial inputs: one variant, one attack, all epsilons."""

import importlib
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from stages.artifacts.adversarial import AdversarialSet, save_adversarial_set
from stages.artifacts.datasets import load_dataset
from stages.artifacts.networks import load_classifier
from stages.attacks.grid import to_digital
from stages.attacks.result import AttackResult, judged
from stages.classifier import Classifier
from stages.datasets.arrays import evaluation_samples
from stages.datasets.tensors import as_input
from stages.knobs import FULL_RANGE
from stages.runtime import configure
from stages.seeds import seed_of

# A random attack draws batch by batch, so that its draws, not its strength, depend on this number.
BATCH_SIZE = 100


def run(task, params, outputs) -> None:
    """Attack the evaluated test samples of the task's variant, and write the adversarial set.

    Iterative attacks also run at epsilon 1. On the digital grid, success and distances are those of the rounded inputs.
    """
    device = configure(params)
    evaluation = params.values["evaluation"]
    plugin = importlib.import_module(f"stages.attacks.{task.attack}")
    test = load_dataset(Path(f"{task.variant.prepared}.safetensors")).test
    samples = evaluation_samples(test.labels, evaluation["samples"])
    epsilons = attacked_epsilons(evaluation["epsilons"], plugin)
    result = craft(
        plugin,
        load_classifier(Path(task.variant.network), device),
        as_input(torch.from_numpy(test.inputs[samples]).to(device)),
        torch.from_numpy(test.labels[samples]).to(device),
        epsilons=epsilons,
        knobs=params.values["attacks"][task.attack],
        digital=evaluation["grid"] == "digital",
        name=task.job.item,
    )
    arrays = {field.name: getattr(result, field.name).cpu().numpy() for field in fields(result)}
    adversarial_set = AdversarialSet(
        variant=task.variant.parts,
        attack=task.attack,
        norm=plugin.NORM,
        threat=plugin.THREAT,
        grid=evaluation["grid"],
        epsilons=epsilons,
        forwards=arrays["queries"].mean(1).tolist(),
        backwards=arrays.pop("backwards").mean(1).tolist(),
        labels=test.labels[samples],
        samples=samples,
        **arrays,
    )
    stem = task.variant.adversarial(task.attack)
    save_adversarial_set(outputs.path(f"{stem}.safetensors"), adversarial_set, outputs.path(f"{stem}.json"))


def attacked_epsilons(epsilons: list[float], plugin: ModuleType) -> list[float]:
    """The epsilons of the study, and 1 for an iterative attack, whose success there shows that its gradients work."""
    return [*epsilons, *([FULL_RANGE] if plugin.ITERATIVE and FULL_RANGE not in epsilons else [])]


def craft(
    plugin: ModuleType,
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    epsilons: list[float],
    knobs: dict[str, Any],
    digital: bool,
    name: str,
) -> AttackResult:
    """The attack's result [E, N] on inputs [N, C, H, W], batch by batch; random parts are seeded by `name`."""

    def attack_batch(epsilon: float, start: int) -> AttackResult:
        originals, targets = inputs[start : start + BATCH_SIZE], labels[start : start + BATCH_SIZE]
        generator = torch.Generator().manual_seed(seed_of(name, f"attack from sample {start}"))
        asked = torch.tensor([epsilon], dtype=torch.float64)
        result = plugin.attack(classifier, originals, targets, epsilons=asked, generator=generator, **knobs)
        if not digital:
            return result
        rounded = to_digital(result.inputs, originals, epsilon)
        return judged(
            classifier,
            rounded,
            originals,
            targets,
            norm=plugin.NORM,
            queries=result.queries,
            backwards=result.backwards,
        )

    starts = range(0, len(inputs), BATCH_SIZE)
    interval = 0.5 if sys.stderr.isatty() else 20
    with tqdm(total=len(epsilons) * len(starts), desc=name, unit="batch", mininterval=interval) as progress:
        rows = []
        for epsilon in epsilons:
            batches = []
            for start in starts:
                batches.append(attack_batch(epsilon, start))
                progress.update()
            rows.append(_joined(batches, dim=1))
    return _joined(rows, dim=0)


def _joined(results: list[AttackResult], dim: int) -> AttackResult:
    """One result of several: along 0 the epsilons, along 1 the samples."""
    names = [field.name for field in fields(AttackResult)]
    return AttackResult(**{name: torch.cat([getattr(result, name) for result in results], dim) for name in names})
