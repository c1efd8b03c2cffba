"""Networks with other numbers of channels, made by the stages: grown, or wider from the start."""

from pathlib import Path

import pytest
import torch

from stages.artifacts.classifiers import load_classifier
from stages.artifacts.network_files import load_description
from stages.artifacts.networks import load_network
from stages.defenses import none
from stages.models.footprint import footprint
from stages.quantization.frozen_layers import FrozenSign, FrozenWeights
from tests.test_network_stages import FLOAT, SHAPE, Killed, Project

GROWN, WIDE, SAME, SCRATCH, AS_LARGE = (
    f"fashion_mnist-tiny_cnn-{scheme}-none-s0" for scheme in ("early_growth", "wide", "same", "scratch", "as_large")
)
# Half of the further channels are there from the start, and their logits move by units in six passes.
GROWTH = {"largest": 1.5, "chance": 0.49, "rate": 3000.0, "steps": 4, "patience": 1, "tolerance": 0.0, "epochs": 2}
BINARY = {"scheme": "qat", "weights": 1, "activations": 1, "edges": 1, "epochs": 1}
BASE = {"convolution1": 8, "convolution2": 16, "convolution3": 32}


@pytest.fixture
def project(tmp_path, monkeypatch):
    schemes = {"early_growth": GROWTH, "wide": BINARY | {"channels": 1.5}, "same": BINARY}
    schemes |= {"scratch": BINARY | {"from_scratch": True}, "as_large": BINARY | {"as_large_as": "early_growth"}}
    grid = {"schemes": ["fp32", *schemes], "defenses": ["none"], "also": []}
    threads = torch.get_num_threads()
    made = Project(tmp_path, monkeypatch, grid=grid, schemes=schemes)
    made.run("train", FLOAT)
    yield made
    torch.set_num_threads(threads)


def grown_checkpoints():
    return sorted(path.name.rpartition(".")[2] for path in Path(".checkpoints").glob(f"{GROWN}*"))


def forget():
    for path in Path(".checkpoints").glob("*"):
        path.unlink()


def test_a_network_grows_and_what_has_grown_is_trained_from_scratch(project):
    project.run("quantize", GROWN)
    described = load_description(Path(f"data/quantized/{GROWN}"))
    start, *trained = described["history"]
    steps = [entry for entry in trained if "growth" in entry]
    assert start == {"growth": 0, "channels": BASE}
    assert [entry["growth"] for entry in steps] == list(range(1, len(steps) + 1)) and 1 < len(steps) <= 4
    assert [entry["epoch"] for entry in trained[len(steps) :]] == [1, 2]
    assert described["channels"] == steps[-1]["channels"] != BASE
    for name, count in BASE.items():
        assert count <= described["channels"][name] <= 1.5 * count
    network, _ = load_network(Path(f"data/quantized/{GROWN}"))
    grown = described["channels"]
    assert network.convolution3.weight.shape == (grown["convolution3"], grown["convolution2"], 3, 3)
    layers = [layer for layer in network.modules() if isinstance(layer, FrozenWeights)]
    assert all(layer.bits == 1 and set(layer.weight.unique().tolist()) == {-1, 1} for layer in layers)
    assert sum(isinstance(layer, FrozenSign) for layer in network.modules()) == 3
    assert not any("mask" in name for name in network.state_dict())
    weights = sum(layer.weight.numel() for layer in layers)
    channels = sum(described["channels"].values()) + 10
    assert weights / 8 <= described["footprint"]["weight_bytes"] - 8 * channels < weights / 8 + 4
    assert load_classifier(Path(f"data/quantized/{GROWN}"))(torch.rand(2, *SHAPE)).shape == (2, 10)


def test_growth_and_its_network_are_written_twice_to_the_same_bytes_also_after_a_kill_in_either_stage(
    project, monkeypatch
):
    undisturbed = project.run("quantize", GROWN)
    steps = max(entry.get("growth", 0) for entry in load_description(Path(f"data/quantized/{GROWN}"))["history"])
    forget()
    original, calls, killed = none.loss, [], []

    def deadly(*arguments, **knobs):
        calls.append(1)
        if len(calls) in killed:
            raise Killed
        return original(*arguments, **knobs)

    monkeypatch.setattr(none, "loss", deadly)
    # In the second step of growth, and in the second epoch of the grown network; an epoch has six passes.
    for death, left in ((8, ["growth1"]), (6 * (steps - 1) + 9, None)):
        calls.clear()
        killed[:] = [death]
        with pytest.raises(Killed):
            project.run("quantize", GROWN)
        if left:
            assert grown_checkpoints() == left
    assert grown_checkpoints() == sorted([*(f"growth{step + 1}" for step in range(steps)), "safetensors"])
    calls.clear()
    killed.clear()
    assert project.run("quantize", GROWN) == undisturbed
    assert len(calls) == 6  # the last epoch of the grown network


def test_a_wider_binary_network_is_a_row_like_any_other_and_trained_from_scratch(project):
    first = project.run("quantize", WIDE)
    forget()
    assert project.run("quantize", WIDE) == first
    project.run("quantize", SAME)
    project.run("quantize", SCRATCH)
    wide, described = load_network(Path(f"data/quantized/{WIDE}"))
    same, plain = load_network(Path(f"data/quantized/{SAME}"))
    assert described["channels"] == {"convolution1": 12, "convolution2": 24, "convolution3": 48}
    assert "channels" not in plain and plain.keys() == described.keys() - {"channels"}
    assert wide.classifier.weight.shape == (10, 48) and wide.convolution1.weight.shape == (12, 1, 3, 3)
    assert described["footprint"]["macs"] > 2 * plain["footprint"]["macs"]
    float_network, _ = load_network(Path(f"data/trained/{FLOAT}"))
    assert plain["footprint"]["macs"] == footprint(float_network, SHAPE).macs

    def agreement(network):
        return (network.convolution2.weight[:16, :8].sign() == float_network.convolution2.weight.sign()).float().mean()

    scratch, of_scratch = load_network(Path(f"data/quantized/{SCRATCH}"))
    assert of_scratch.keys() == plain.keys() and of_scratch["footprint"] == plain["footprint"]
    assert agreement(same) > 0.8 and agreement(wide) < 0.6 and agreement(scratch) < 0.6
    assert wide.pool.quantizer.scale != 1 and all(entry["loss"] < 5 for entry in described["history"])


def test_a_binary_network_as_large_as_the_grown_one_has_the_same_factor_in_each_layer(project):
    project.run("quantize", GROWN)
    project.run("quantize", AS_LARGE)
    grown, control = (load_description(Path(f"data/quantized/{name}")) for name in (GROWN, AS_LARGE))
    factors = [control["channels"][name] / count for name, count in BASE.items()]
    assert max(factors) - min(factors) <= 1 / min(BASE.values()) and min(factors) > 1
    sizes = [described["footprint"]["weight_bytes"] for described in (grown, control)]
    assert abs(sizes[1] - sizes[0]) < 0.1 * sizes[0]
    network, _ = load_network(Path(f"data/quantized/{AS_LARGE}"))
    assert network.classifier.weight.shape == (10, control["channels"]["convolution3"])
    assert [entry["epoch"] for entry in control["history"]] == [1]
