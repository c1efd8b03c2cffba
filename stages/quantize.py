"""Quantizes a trained float network with Brevitas and freezes it into integers and scales."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from stages.artifacts.datasets import load_dataset
from stages.artifacts.network_files import describe, load_description, save_network
from stages.artifacts.networks import build, groups_of, load_network
from stages.datasets.arrays import Dataset, Split, evaluation_samples
from stages.datasets.tensors import as_input
from stages.models.footprint import Footprint, footprint
from stages.quantization.brevitas_layers import BrevitasLayers
from stages.quantization.channel_groups import Group
from stages.quantization.formats import Format
from stages.quantization.freeze import freeze, layer_table
from stages.runtime import configure
from stages.seeds import seed_of
from stages.train import samples, train_variant

BATCH_SIZE = 128  # of calibration


def run(task, params, outputs) -> None:
    """Runs a quantize job."""
    device = configure(params)
    variant = task.variant
    scheme = import_module(f"stages.schemes.{task.plugin}")
    dataset = load_dataset(Path(f"{variant.prepared}.safetensors"))
    float_network, _ = load_network(Path(f"{variant.float_variant.network}.safetensors"))

    def fine_tune(network: torch.nn.Module, *, part: str = "", **schedule: Any) -> list[dict]:
        own = part_of(task, outputs, part) if part else (task, outputs)
        return train_variant(network, own[0], dataset, params, own[1], device, **schedule)

    calibration = samples(calibration_images(dataset, getattr(scheme, "CALIBRATION", "train")), device)
    settings = params.settings_of_scheme(variant.scheme)
    if task.reference is not None:
        settings["reference"] = load_description(Path(f"{task.reference.network}.safetensors"))
    quantized = scheme.quantize(
        Maker(variant, dataset, float_network, device),
        [as_input(inputs) for inputs in calibration.inputs.split(BATCH_SIZE)],
        fine_tune,
        **settings,
    )
    description = described(variant, dataset, quantized.format, quantized.channels)
    frozen = freeze(quantized.network.cpu(), build(description), dataset.input_shape)

    description["footprint"] = asdict(footprint_of(description, quantized.format))
    description["layers"] = layer_table(frozen)
    description["history"] = quantized.history
    save_network(outputs, variant.network, frozen, description)


class Maker:
    """Makes Brevitas networks of a variant's model: the `Make` of `stages/quantization/recipes.py`."""

    def __init__(self, variant, dataset: Dataset, float_network: torch.nn.Module, device: torch.device):
        self._variant, self._dataset, self._float, self._device = variant, dataset, float_network, device

    def __call__(self, format: Format) -> torch.nn.Module:
        """One in a format, with the float weights."""
        network = self._built(format, None)
        copy_float_weights(self._float, network)
        return network.to(self._device)  # after loading, which replaces parameters of Brevitas

    def untrained(self, format: Format, channels: Mapping[str, int]) -> torch.nn.Module:
        """One in a format, with random weights and these numbers of channels, by the names of groups."""
        return self._built(format, channels).to(self._device)

    def groups(self) -> tuple[Group, ...]:
        """The model's groups of channels."""
        return groups_of(describe(self._variant, self._dataset, format=None))

    def weight_bytes(self, format: Format, channels: Mapping[str, int]) -> int:
        """Those of one in a format with these numbers of channels."""
        return footprint_of(described(self._variant, self._dataset, format, channels), format).weight_bytes

    def _built(self, format: Format, channels: Mapping[str, int] | None) -> torch.nn.Module:
        torch.manual_seed(seed_of(self._variant.name, "initialisation"))
        return build(described(self._variant, self._dataset, format, channels), BrevitasLayers)


def described(variant, dataset: Dataset, format: Format, channels: Mapping[str, int] | None) -> dict:
    """What a quantized network is, with its numbers of channels if they are not the model's own."""
    description = describe(variant, dataset, format)
    if channels is None or channels == {group.name: group.channels for group in groups_of(description)}:
        return description
    return description | {"channels": dict(channels)}


def footprint_of(description: dict, format: Format) -> Footprint:
    """What the described network costs in a format."""
    return footprint(build(description | {"format": None}), description["input_shape"], format)


def part_of(task, outputs, part: str) -> tuple[Any, Any]:
    """The task and the outputs of one of a job's several trainings: it draws and keeps its checkpoint by itself."""
    variant = SimpleNamespace(name=f"{task.variant.name}-{part}", defense=task.variant.defense)
    checkpoint = outputs.checkpoint.with_name(f"{outputs.checkpoint.name}.{part}")
    return replace(task, variant=variant), SimpleNamespace(checkpoint=checkpoint)


def calibration_images(dataset: Dataset, split: str) -> Split:
    """The training images that are drawn for it, or as many of the test images, with their labels.

    Raises ValueError if the scheme's CALIBRATION is neither `train` nor `test`.
    """
    if split == "train":
        return dataset.train.take(np.asarray(dataset.calibration))
    if split == "test":
        return dataset.test.take(evaluation_samples(dataset.test.labels, len(dataset.calibration)))
    raise ValueError(f"CALIBRATION of the scheme is {split!r}, expected 'train' or 'test'")


def copy_float_weights(source: torch.nn.Module, target: torch.nn.Module) -> None:
    """Copies every tensor of the float network into the Brevitas network, which also has scales of its own."""
    missing = target.load_state_dict(source.state_dict(), strict=False)
    if missing.unexpected_keys:
        raise ValueError(f"the quantized network lacks {missing.unexpected_keys}, expected the float network's layers")
