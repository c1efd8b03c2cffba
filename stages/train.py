"""Trains a float network from scratch: initialise, train with the defense's loss, save."""

from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path

import torch

from stages.artifacts.datasets import load_dataset
from stages.artifacts.networks import build, describe, save_network
from stages.models.footprint import footprint
from stages.runtime import configure, training_dtype
from stages.seeds import seed_of
from stages.training.checkpoint import Checkpoint
from stages.training.loop import Samples, Schedule, train


def run(task, params, outputs) -> None:
    """Runs a train or defend job."""
    device = configure(params)
    variant = task.variant
    dataset = load_dataset(Path(f"{variant.prepared}.safetensors"))
    description = describe(variant, dataset, format=None)

    torch.manual_seed(seed_of(variant.name, "initialisation"))
    network = build(description)
    description["footprint"] = asdict(footprint(network, dataset.input_shape))
    description["history"] = train_variant(network, task, dataset, params, outputs, device)
    save_network(outputs, variant.network, network, description)


def train_variant(network, task, dataset, params, outputs, device, **schedule) -> list[dict]:
    """Trains with the loss of the variant's defense; `schedule` overrides settings of params' `training`."""
    defense = import_module(f"stages.defenses.{task.variant.defense}")
    knobs = params.values["defenses"].get(task.variant.defense, {})
    robustness = getattr(defense, "robustness", None)
    settings = {**params.values["training"]}
    settings |= settings.pop("augmentation")
    return train(
        network,
        partial(defense.loss, **knobs),
        samples(dataset.train, device),
        samples(dataset.val, device),
        Schedule(**(settings | schedule)),
        seed=seed_of(task.variant.name, "training"),
        dtype=training_dtype(params, device),
        checkpoint=Checkpoint(outputs.checkpoint),
        robustness=robustness and partial(robustness, **knobs),
        label=task.job.name,
    )


def samples(split, device: torch.device) -> Samples:
    """A split as tensors on the device."""
    return Samples(torch.from_numpy(split.inputs).to(device), torch.from_numpy(split.labels).to(device))
