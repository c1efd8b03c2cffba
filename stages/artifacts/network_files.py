"""Networks as files: the tensors as safetensors, and beside them JSON that says what they are; float ones whole.

Trainings of float networks read and write no others, so that no change of quantized layers is one of their code.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from stages.models.layers import FloatLayers
from stages.quantization.formats import Format


def model_of(description: dict) -> Callable[[Any], nn.Module]:
    """What makes the described network, untrained, of a layer set."""
    return partial(
        import_module(f"stages.models.{description['model']}").network,
        input_shape=tuple(description["input_shape"]),
        num_classes=len(description["classes"]),
    )


def build_float(description: dict) -> nn.Module:
    """An untrained float network of the described model."""
    return model_of(description)(FloatLayers(description["mean"], description["std"]))


def describe(variant, dataset, format: Format | None) -> dict:
    """What the network of a variant is, before its history and footprint are known."""
    return {
        "variant": asdict(variant),
        "model": variant.model,
        "format": format and differing(format),
        "input_shape": list(dataset.input_shape),
        "classes": list(dataset.classes),
        "mean": list(dataset.mean),
        "std": dataset.std,
    }


def differing(format: Format) -> dict[str, Any]:
    """The widths of a format but for those that all formats have unless they say otherwise."""
    return {name: bits for name, bits in asdict(format).items() if bits != getattr(Format, name, None)}


def save_network(outputs, stem: str, network: nn.Module, description: dict) -> None:
    """Writes the network's tensors (contiguous, on the CPU) and its description to a job's outputs of that stem."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, outputs.path(f"{stem}.safetensors"))
    outputs.path(f"{stem}.json").write_text(json.dumps(description, indent=1) + "\n")


def load_description(path: Path) -> dict:
    """The JSON beside a network's tensors."""
    return json.loads(Path(path).with_suffix(".json").read_text())


def load_float(path: Path) -> tuple[nn.Module, dict]:
    """The float network of a `.safetensors` file, in evaluation mode, and its description.

    Raises ValueError if tensors and description do not fit.
    """
    description = load_description(path)
    network = build_float(description)
    load_tensors(path, network, description)
    return network.eval(), description


def load_tensors(path: Path, module: nn.Module, description: dict) -> None:
    """Loads what `save_network` wrote into a module that was built from its description.

    Raises ValueError if they do not fit.
    """
    try:
        module.load_state_dict(load_file(Path(path).with_suffix(".safetensors")))
    except SafetensorError as error:
        raise ValueError(f"{path}.safetensors: is damaged, expected the tensors of a network: {error}") from error
    except RuntimeError as error:
        raise ValueError(f"{path}: tensors do not fit the {description['model']} of its JSON file: {error}") from error
