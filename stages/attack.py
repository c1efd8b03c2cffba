"""Crafts adversarial inputs: one variant, one attack, all epsilons."""

import importlib
import inspect
import sys
from dataclasses import fields
from math import inf, sqrt
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from stages.artifacts.adversarial import AdversarialSet, save_adversarial_set
from stages.artifacts.classifiers import load_classifier
from stages.artifacts.datasets import load_dataset
from stages.attacks.attacked import Attacked
from stages.attacks.grid import to_digital
from stages.attacks.result import AttackResult, judged
from stages.attacks.signal_to_noise import ball
from stages.classifier import Classifier
from stages.datasets.arrays import evaluation_samples
from stages.datasets.levels import levels_of
from stages.datasets.tensors import as_input
from stages.defenses.filtered import Filtered
from stages.norms import EPSILON_TOLERANCE, FULL_RANGES, has_budgets
from stages.randomness import reseed
from stages.runtime import configure
from stages.seeds import seed_of

# A random attack draws batch by batch, so that its draws, not its strength, depend on this number.
BATCH_SIZE = 100


def run(task, params, outputs) -> None:
    """Attack the evaluated test samples of the task's variant, and write the adversarial set.

    Iterative attacks also run at the norm's full range. On the digital grid, success and distances are those of the
    rounded inputs.
    """
    device = configure(params)
    evaluation = params.values["evaluation"]
    plugin = importlib.import_module(f"stages.attacks.{task.plugin}")
    test = load_dataset(Path(f"{task.variant.prepared}.safetensors")).test
    samples = evaluation_samples(test.labels, params.samples(task.variant.defense, task.attack))
    minimal = is_minimal_norm(plugin)
    epsilons = [inf] if minimal else attacked_epsilons(params.epsilons(task.variant.defense, task.attack), plugin)
    digital = evaluation["grid"] == "digital"
    classifier = load_classifier(Path(task.variant.network), device)
    threat, eot_samples = threat_of(plugin, classifier, params.eot_samples(task.attack))
    result = craft(
        plugin,
        Attacked(classifier, digital=digital, eot_samples=eot_samples),
        as_input(torch.from_numpy(test.inputs[samples]).to(device)),
        torch.from_numpy(test.labels[samples]).to(device),
        epsilons=epsilons,
        knobs=params.settings_of(task.attack),
        digital=digital,
        name=task.job.item,
    )
    arrays = {field.name: getattr(result, field.name).cpu().numpy() for field in fields(result)}
    adversarial_set = AdversarialSet(
        variant=task.variant.parts,
        attack=task.attack,
        norm=plugin.NORM,
        minimal_norm=minimal,
        threat=threat,
        eot_samples=eot_samples,
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
    """The epsilons of the study, and for an iterative attack that of any input, where success shows that it works."""
    return [*epsilons, *([FULL_RANGES[plugin.NORM]] if plugin.ITERATIVE else [])]


def is_minimal_norm(plugin: ModuleType) -> bool:
    """Whether an attack looks for the nearest adversarial input, and so takes no epsilons."""
    return not has_budgets(inspect.signature(plugin.attack).parameters)


def threat_of(plugin: ModuleType, classifier: Classifier, eot_samples: int) -> tuple[str, int]:
    """What the attacker sees, and how many draws its gradients average: one where the classifier is not random.

    An attacker who averages over a random classifier's draws, or goes round a filter that is not random, is adaptive.
    Without gradients there is nothing to average.
    """
    if plugin.THREAT != "white_box":
        return plugin.THREAT, 0
    draws = eot_samples if classifier.stochastic else 1
    adaptive = draws > 1 if classifier.stochastic else isinstance(classifier, Filtered)
    return "adaptive" if adaptive else plugin.THREAT, draws


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
    """The attack's result [E, N] on inputs [N, C, H, W], batch by batch; random parts are seeded by `name`.

    An infinite epsilon is a ball that holds all inputs, or what a minimal-norm attack finds.
    """
    starts = range(0, len(inputs), BATCH_SIZE)
    interval = 0.5 if sys.stderr.isatty() else 20
    with tqdm(total=len(epsilons) * len(starts), desc=name, unit="batch", mininterval=interval) as progress:
        rows = []
        for epsilon in epsilons:
            batches = []
            for start in starts:
                batch = inputs[start : start + BATCH_SIZE], labels[start : start + BATCH_SIZE]
                seed = seed_of(name, f"attack from sample {start}")
                batches.append(
                    craft_batch(plugin, classifier, *batch, epsilon=epsilon, knobs=knobs, digital=digital, seed=seed)
                )
                progress.update()
            rows.append(_joined(batches, dim=1))
    return _joined(rows, dim=0)


def craft_batch(
    plugin: ModuleType,
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    knobs: dict[str, Any],
    digital: bool,
    seed: int,
) -> AttackResult:
    """The attack's result [1, N] on one batch [N, C, H, W] at one epsilon; where digital, of the rounded inputs."""
    unlimited = {"linf": 1, "l2": sqrt(inputs[0].numel())}.get(plugin.NORM, inputs[0].numel())  # of [0, 1]^D
    asked = {"epsilons": torch.tensor([min(epsilon, unlimited)], dtype=torch.float64)}
    budget = {} if is_minimal_norm(plugin) else asked
    generator = torch.Generator().manual_seed(seed)
    reseed(classifier, seed_of(str(seed), "attacked classifier"))
    result = plugin.attack(classifier, inputs, labels, **budget, generator=generator, **knobs)
    norm, radii = ball(plugin.NORM, epsilon, inputs)
    _check_ball(plugin, result, norm, radii)
    if not digital:
        return result
    rounded = to_digital(result.inputs, inputs, radii, norm, levels_of(inputs.shape[1:]))
    effort = {"queries": result.queries, "backwards": result.backwards}
    return judged(classifier, rounded, inputs, labels, norm=norm, **effort)


def _check_ball(plugin: ModuleType, result: AttackResult, norm: str, radii: float | Tensor) -> None:
    """Raises ValueError where an attack left [0, 1] or its ball: what it then finds counts for nothing."""
    lowest, highest = result.inputs.min(), result.inputs.max()
    if not (lowest >= 0 and highest <= 1):
        raise ValueError(f"{plugin.__name__}: inputs from {lowest:.6g} to {highest:.6g}, expected values in [0, 1]")
    allowed = torch.as_tensor(radii, device=result.distance.device).expand_as(result.distance)
    outside = ~(result.distance <= allowed + EPSILON_TOLERANCE)
    if outside.any():
        farthest, epsilon = result.distance[outside].max(), allowed[outside].max()
        raise ValueError(f"{plugin.__name__}: a perturbation of {norm} {farthest:.6g}, expected at most {epsilon:.6g}")


def _joined(results: list[AttackResult], dim: int) -> AttackResult:
    """One result of several: along 0 the epsilons, along 1 the samples."""
    names = [field.name for field in fields(AttackResult)]
    return AttackResult(**{name: torch.cat([getattr(result, name) for result in results], dim) for name in names})
