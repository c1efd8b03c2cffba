"""Probes an attack: does twice its budget find more, and does it find an adversarial example that is known to exist?"""

import importlib
import inspect
import sys
from math import inf
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from stages.artifacts.classifiers import load_classifier
from stages.artifacts.datasets import load_dataset
from stages.artifacts.probes import save_probes
from stages.attack import BATCH_SIZE, craft_batch, is_minimal_norm, threat_of
from stages.attacks.attacked import Attacked
from stages.attacks.planted import last_layer, plant, two_classes
from stages.attacks.signal_to_noise import ball
from stages.classifier import Classifier
from stages.datasets.arrays import evaluation_samples
from stages.datasets.tensors import as_input
from stages.norms import EPSILON_TOLERANCE
from stages.randomness import reseed
from stages.runtime import configure
from stages.seeds import seed_of

PLANTED_SAMPLES = 64


def run(task, params, outputs) -> None:
    """Write the probes of one attack on the task's variant, at the headline epsilon of the attack's norm."""
    device = configure(params)
    evaluation = params.values["evaluation"]
    plugin = importlib.import_module(f"stages.attacks.{task.plugin}")
    test = load_dataset(Path(f"{task.variant.prepared}.safetensors")).test
    samples = evaluation_samples(test.labels, params.samples(task.variant.defense, task.attack))
    classifier = load_classifier(Path(task.variant.network), device)
    digital = evaluation["grid"] == "digital"
    _, eot_samples = threat_of(plugin, classifier, params.eot_samples(task.attack))
    attacked = Attacked(classifier, digital=digital, eot_samples=eot_samples)
    epsilon = evaluation["headline_epsilon"][plugin.NORM]
    knobs = params.settings_of(task.attack)
    setting = {"epsilon": epsilon, "digital": digital}
    inputs = as_input(torch.from_numpy(test.inputs[samples]).to(device))
    labels = torch.from_numpy(test.labels[samples]).to(device)
    # Named by the variant, so that all attacks of a norm are tested on the same planted examples.
    frames = [planted_rows(plugin, attacked, inputs[:PLANTED_SAMPLES], knobs, **setting, name=task.variant.name)]
    if hasattr(plugin, "BUDGET"):
        first = inputs[:BATCH_SIZE], labels[:BATCH_SIZE]
        frames.append(doubled_rows(plugin, attacked, *first, knobs, **setting, name=task.job.item))
    rows = pd.concat(frames)
    facts = {"attack": task.attack, "norm": plugin.NORM, "epsilon": epsilon}
    probes = rows.assign(sample=samples[rows.index], **task.variant.parts, **facts)
    save_probes(outputs.path(task.job.outputs[0]), probes)


def doubled_rows(
    plugin: ModuleType,
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    knobs: dict[str, Any],
    *,
    epsilon: float,
    digital: bool,
    name: str,
) -> pd.DataFrame:
    """Whether each input [N, ...] withstands the attack with twice its budget.

    They are the first batch of the attack job of this name, and the random parts are seeded as there.
    """
    seed = seed_of(name, "attack from sample 0")
    doubled = twice(plugin, knobs)
    broken = broken_within(plugin, classifier, inputs, labels, doubled, epsilon=epsilon, digital=digital, seed=seed)
    return pd.DataFrame({"probe": "doubled", "correct": (~broken).tolist()})


def twice(plugin: ModuleType, knobs: dict[str, Any]) -> dict[str, Any]:
    """An attack's settings with those that its BUDGET names doubled, the defaults of its signature included."""
    defaults = inspect.signature(plugin.attack).parameters
    return knobs | {name: 2 * knobs.get(name, defaults[name].default) for name in plugin.BUDGET}


def planted_rows(
    plugin: ModuleType,
    classifier: Classifier,
    inputs: Tensor,
    knobs: dict[str, Any],
    *,
    epsilon: float,
    digital: bool,
    name: str,
) -> pd.DataFrame:
    """Whether the attack missed the example that is planted around each input [N, ...], None where none is.

    Each input has a classifier of its own and so is attacked alone.
    """
    reseed(classifier, seed_of(name, "last layer"))
    last = last_layer(classifier, inputs)
    label = torch.zeros(1, dtype=torch.int64, device=inputs.device)
    interval = 0.5 if sys.stderr.isatty() else 20
    correct = []
    for place, original in enumerate(tqdm(inputs, desc=f"{name}: planted", unit="sample", mininterval=interval)):
        generator = torch.Generator().manual_seed(seed_of(name, f"plant around sample {place}"))
        reseed(classifier, seed_of(name, f"features around sample {place}"))
        norm, radius = ball(plugin.NORM, epsilon, original[None])
        within = {"norm": norm, "epsilon": float(radius), "digital": digital}
        readout = plant(classifier, original, **within, margin=last.margin, generator=generator)
        if readout is None:
            correct.append(None)
            continue
        seed = seed_of(name, f"planted in sample {place}")
        with two_classes(classifier, last.layer, readout):
            broken = broken_within(
                plugin, classifier, original[None], label, knobs, epsilon=epsilon, digital=digital, seed=seed
            )
        correct.append(not broken.item())
    return pd.DataFrame({"probe": "planted", "correct": pd.array(correct, dtype="boolean")})


def broken_within(
    plugin: ModuleType,
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    knobs: dict[str, Any],
    *,
    epsilon: float,
    digital: bool,
    seed: int,
) -> Tensor:
    """For which inputs [N, ...] the attack finds an error in the ball of radius epsilon: bool [N]."""
    asked = inf if is_minimal_norm(plugin) else epsilon
    found = craft_batch(plugin, classifier, inputs, labels, epsilon=asked, knobs=knobs, digital=digital, seed=seed)
    _, radii = ball(plugin.NORM, epsilon, inputs)
    return found.success[0] & (found.distance[0] <= radii + EPSILON_TOLERANCE)
