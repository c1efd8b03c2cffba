"""Quantizes a trained float network with Brevitas and freezes it into integers and scales."""

from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from stages.artifacts.datasets import load_dataset
from stages.artifacts.network_files import describe, save_network
from stages.artifacts.networks import build, load_network
from stages.datasets.arrays import Dataset, Split, evaluation_samples
from stages.datasets.tensors import as_input
from stages.models.footprint import footprint
from stages.quantization.brevitas_layers import BrevitasLayers
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

    def make(format: Format) -> torch.nn.Module:
        torch.manual_seed(seed_of(variant.name, "initialisation"))
        network = build(describe(variant, dataset, format), BrevitasLayers)
        copy_float_weights(float_network, network)
        return network.to(device)  # after loading, which replaces parameters of Brevitas

    calibration = samples(calibration_images(dataset, getattr(scheme, "CALIBRATION", "train")), device)
    quantized = scheme.quantize(
        make,
        [as_input(inputs) for inputs in calibration.inputs.split(BATCH_SIZE)],
        partial(train_variant, task=task, dataset=dataset, params=params, outputs=outputs, device=device),
        **params.settings_of_scheme(variant.scheme),
    )
    description = describe(variant, dataset, quantized.format)
    frozen = freeze(quantized.network.cpu(), build(description), dataset.input_shape)

    description["footprint"] = asdict(footprint(float_network, dataset.input_shape, quantized.format))
    description["layers"] = layer_table(frozen)
    description["history"] = quantized.history
    save_network(outputs, variant.network, frozen, description)


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
