"""Puts a filter before a network that was trained without it, and fits what the filter learns."""

from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import torch

from stages.artifacts.classifiers import build_filter, compose, load_classifier
from stages.artifacts.datasets import load_dataset
from stages.artifacts.network_files import save_network
from stages.artifacts.networks import load_network
from stages.datasets.tensors import as_input
from stages.defenses.filtered import set_threshold
from stages.models.footprint import Footprint
from stages.randomness import reseed
from stages.runtime import configure, training_dtype
from stages.seeds import seed_of
from stages.train import samples
from stages.training.checkpoint import Checkpoint

FALSE_POSITIVES = 0.05  # of clean validation samples, what a detector takes for adversarial


def run(task, params, outputs) -> None:
    """Runs a filter job: of a float network, what the filter learns is fitted; others get that of the float network.

    The threshold of a detector is each network's own, from clean validation data.
    """
    device = configure(params)
    variant = task.variant
    plugin = import_module(f"stages.defenses.{task.plugin}")
    settings = params.settings_of_defense(variant.defense)
    dataset = load_dataset(Path(f"{variant.prepared}.safetensors"))
    network, description = load_network(Path(task.behind.network))
    description["variant"] = variant.parts
    description["filter"] = {"defense": task.plugin, "settings": settings}
    description["history"] = []

    torch.manual_seed(seed_of(variant.name, "initialisation"))
    filter = build_filter(description)
    filtered = compose(network, filter, description)
    description["footprint"] = asdict(filtered.footprint(Footprint(**description["footprint"])))
    if (operations := filtered.operations()) is not None:
        description["filter"]["operations"] = operations
    filtered.requires_grad_(False).to(device, memory_format=torch.channels_last).eval()
    if not variant.is_float:
        fitted = load_classifier(Path(variant.float_variant.network), device)
        filter.load_state_dict(fitted.filter.state_dict())
    elif hasattr(plugin, "fit"):
        description["history"] = plugin.fit(
            filter,
            samples(dataset.train, device),
            samples(dataset.val, device),
            seed=seed_of(variant.name, "training"),
            dtype=training_dtype(params, device),
            checkpoint=Checkpoint(outputs.checkpoint),
            label=task.job.name,
            **settings,
        )
    reseed(filtered, seed_of(variant.name, "threshold"))
    set_threshold(filtered, as_input(samples(dataset.val, device).inputs), FALSE_POSITIVES)
    save_network(outputs, variant.network, filtered, description)
