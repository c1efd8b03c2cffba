"""Trains a float network: initialise, or start from an undefended one, train with the defense's loss, save."""

import inspect
from dataclasses import asdict, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from stages.artifacts.datasets import load_dataset
from stages.artifacts.network_files import build_float, describe, load_description, load_float, save_network
from stages.datasets.arrays import Dataset
from stages.datasets.levels import SILENCE
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
    network = build_float(description)
    if task.teachers:
        network.load_state_dict(best(task.teachers).state_dict())
    description["footprint"] = asdict(footprint(network, dataset.input_shape))
    retraining = {key: value for key, value in params.retraining(variant.defense).items() if key != "start"}
    description["history"] = train_variant(network, task, dataset, params, outputs, device, **retraining)
    save_network(outputs, variant.network, network, description)


def train_variant(network, task, dataset, params, outputs, device, **schedule) -> list[dict]:
    """Trains with the loss of the variant's defense; `schedule` overrides settings of params' `training`."""
    defense = import_module(f"stages.defenses.{task.variant.defense}")
    knobs = params.settings_of_defense(task.variant.defense)
    robustness = getattr(defense, "robustness", None)
    settings = {**params.values["training"]}
    settings |= settings.pop("augmentation")
    return train(
        network,
        partial(defense.loss, **knobs, **companions(defense, task, device)),
        with_noise(samples(dataset.train, device), dataset),
        samples(dataset.val, device),
        Schedule(**(settings | schedule)),
        seed=seed_of(task.variant.name, "training"),
        dtype=training_dtype(params, device),
        checkpoint=Checkpoint(outputs.checkpoint),
        robustness=robustness and partial(robustness, **knobs),
        label=task.job.name,
    )


def companions(defense: ModuleType, task, device: torch.device) -> dict[str, Any]:
    """The undefended networks that the loss of a defense takes beside the one in training: teacher, sources."""
    takes = inspect.signature(defense.loss).parameters

    def ready(network: nn.Module) -> nn.Module:
        return network.requires_grad_(False).to(device, memory_format=torch.channels_last)

    given = {}
    if "teacher" in takes:
        given["teacher"] = ready(best(task.teachers))
    if "sources" in takes:
        given["sources"] = [ready(load_float(Path(source.network))[0]) for source in task.sources]
    return given


def best(teachers) -> nn.Module:
    """The network of the variant that was the most accurate on validation data at its training's end."""
    accuracies = [load_description(Path(teacher.network))["history"][-1]["validation"] for teacher in teachers]
    return load_float(Path(teachers[accuracies.index(max(accuracies))].network))[0]


def with_noise(train: Samples, dataset: Dataset) -> Samples:
    """Training samples with the dataset's own noise, if any: the training clips in which nobody speaks."""
    if SILENCE not in dataset.classes:
        return train
    return replace(train, noise=train.inputs[train.labels == dataset.classes.index(SILENCE)])


def samples(split, device: torch.device) -> Samples:
    """A split as tensors on the device."""
    return Samples(torch.from_numpy(split.inputs).to(device), torch.from_numpy(split.labels).to(device))
