"""Exports a quantized network to ONNX, and compares what a runtime makes of it with the frozen network."""

import json
from pathlib import Path

import numpy as np
import torch

from stages.artifacts.datasets import load_dataset
from stages.artifacts.networks import load_network
from stages.datasets.arrays import evaluation_samples
from stages.datasets.tensors import as_input
from stages.quantization.agreement import RuntimeNetwork, disagreements
from stages.quantization.freeze import layer_table
from stages.quantization.onnx_qdq import front_end_of, to_onnx
from stages.runtime import configure

BATCH_SIZE = 500


def run(task, params, outputs) -> None:
    """Runs an export job: the ONNX file, and the test samples of which its prediction is not the frozen network's."""
    device = configure(params)
    variant = task.variant
    test = load_dataset(Path(f"{variant.prepared}.safetensors")).test
    network, description = load_network(Path(f"{variant.network}.safetensors"))
    network.requires_grad_(False).to(device)
    front_end = front_end_of(network)

    blank = torch.zeros(1, *description["input_shape"], device=device)
    model = to_onnx(network, front_end(blank).shape[1:], len(description["classes"]), metadata(network, description))
    written = model.SerializeToString(deterministic=True)
    runtime = RuntimeNetwork(written, params.values["threads"])

    count = params.values["export"].get("samples")
    samples = np.arange(len(test)) if count is None else np.sort(evaluation_samples(test.labels, count))
    frozen, exported = [], []
    for chosen in np.split(samples, range(BATCH_SIZE, len(samples), BATCH_SIZE)):
        inputs = as_input(torch.from_numpy(test.inputs[chosen]).to(device))
        frozen.append(network(inputs).cpu())
        exported.append(runtime(front_end(inputs)))
    different = disagreements(torch.cat(frozen), torch.cat(exported), samples)

    facts = {
        "variant": variant.parts,
        "opset": model.opset_import[0].version,
        "bytes": len(written),
        "n": len(samples),
        "agreement": 1 - len(different) / len(samples),
        "disagreements": different,
    }
    outputs.path(f"{variant.exported}.onnx").write_bytes(written)
    outputs.path(f"{variant.exported}.json").write_text(json.dumps(facts, indent=1) + "\n")


def metadata(network: torch.nn.Module, description: dict) -> dict[str, str]:
    """What the ONNX file says of itself: what its input is, its classes, and how wide its layers really are.

    The file's integers have 8 or 16 bits, whatever their layer's width.
    """
    front_end = front_end_of(network)
    whole = isinstance(front_end, torch.nn.Identity)
    made = "" if whole else f" of {type(front_end).__name__}, which is not part of the model"
    widths = {entry["layer"]: entry["bits"] for entry in layer_table(network)}
    return {
        "model": description["model"],
        "input": f"{'inputs' if whole else 'features'} in [0,1]{made}",
        "classes": json.dumps(description["classes"]),
        "bits": json.dumps(widths),
    }
