"""The stage that exports quantized networks, its place in the plan, and its settings."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
import yaml

from stages import export
from stages.artifacts.datasets import save_dataset
from stages.artifacts.network_files import describe, save_network
from stages.datasets.arrays import Dataset, Split, evaluation_samples
from stages.models.mfcc import CLIP, FEATURES
from stages.params import ParamsError, load_params
from stages.plan import Variant, tasks
from stages.quantization import agreement
from stages.quantization.formats import Format
from tests.plans import plan
from tests.quantization.random_networks import CLASSES, random_images, random_network

ROOT = Path(__file__).parents[1]
FORMAT = Format(8, 8)
SOUND = Variant("speech_commands_test_split", "dscnn", "int8", "none", 0)
IMAGES = Variant("fashion_mnist", "tiny_cnn", "int8", "none", 0)
INPUTS = 60


class Outputs:
    def path(self, product: str) -> Path:
        path = Path(product)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def write_settings(**given):
    written = yaml.safe_load((ROOT / "studies/smoke/params.yaml").read_text())
    written["grid"] |= {"models": ["tiny_cnn"], "schemes": ["fp32", "int8"], "defenses": ["none"], "also": []}
    written.pop("export")
    Path("params.yaml").write_text(yaml.safe_dump(written | given))
    return load_params()


def write_network(variant, shape, levels, classes=CLASSES):
    """A network with random integers and a dataset whose splits all are the given levels."""
    split = Split(levels, np.arange(len(levels)) % classes)
    names = tuple("abcd")
    network = random_network(variant.model, FORMAT, shape)
    mean, std = [code / 255 for code in network.input.zero_point.flatten().int().tolist()], 0.25
    dataset = Dataset(variant.dataset, shape, names, tuple(mean), std, split, split, split, np.arange(4))
    Path("data/prepared").mkdir(parents=True, exist_ok=True)
    save_dataset(Path(f"{variant.prepared}.safetensors"), dataset)
    save_network(Outputs(), variant.network, network, describe(variant, dataset, FORMAT))
    return network


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of one network that was never trained."""
    monkeypatch.chdir(tmp_path)
    params = write_settings(export={"onnx": True})
    shape = (1, 16, 16)
    levels = (random_images(shape, INPUTS) * 255).round().to(torch.uint8).numpy()
    write_network(IMAGES, shape, levels)
    return params


def run(params, variant=IMAGES):
    (task,) = (task for task in tasks(params) if task.job.rule == "export" and task.variant == variant)
    export.run(task, params, Outputs())
    facts, model = task.job.outputs
    return json.loads(Path(facts).read_text()), onnx.load(model)


def test_all_test_inputs_are_compared_where_the_settings_say_nothing_else(study):
    facts, model = run(study)
    assert facts["variant"] == IMAGES.parts
    assert (facts["n"], facts["agreement"], facts["disagreements"]) == (INPUTS, 1, [])
    assert facts["bytes"] == Path(f"{IMAGES.exported}.onnx").stat().st_size
    assert facts["opset"] == model.opset_import[0].version == 13


def test_the_file_says_what_its_input_is_and_how_wide_its_layers_are(study):
    _, model = run(study)
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert told["model"] == "tiny_cnn" and told["input"] == "inputs in [0,1]"
    assert json.loads(told["classes"]) == list("abcd")
    assert json.loads(told["bits"])["convolution1"] == 8


def test_a_job_run_twice_gives_the_same_bytes(study):
    run(study)
    files = [Path(f"{IMAGES.exported}{suffix}") for suffix in (".onnx", ".json")]
    first = [file.read_bytes() for file in files]
    run(study)
    assert [file.read_bytes() for file in files] == first


def test_each_disagreement_is_listed_by_the_number_of_its_test_input(study, monkeypatch):
    """As if the runtime took each class for the one before it where the first input is bright."""
    asked = write_settings(export={"onnx": True, "samples": 20})
    bright = []

    def wrong(self, inputs):
        logits = whole(self, inputs)
        chosen = inputs[:, 0, 0, 0] > 0.5
        bright.extend(chosen.tolist())
        return torch.where(chosen[:, None], logits.roll(-1, 1), logits)

    whole = agreement.RuntimeNetwork.__call__
    monkeypatch.setattr(agreement.RuntimeNetwork, "__call__", wrong)
    facts, _ = run(asked)
    samples = sorted(evaluation_samples(np.arange(INPUTS) % CLASSES, 20).tolist())
    listed = facts["disagreements"]
    assert [row["sample"] for row in listed] == [
        sample for sample, is_bright in zip(samples, bright, strict=True) if is_bright
    ]
    assert 0 < len(listed) < 20 == facts["n"]
    assert facts["agreement"] == pytest.approx(1 - len(listed) / 20)
    assert all(row["exported"] == (row["frozen"] - 1) % CLASSES for row in listed)
    assert all(row["frozen_margin"] == pytest.approx(row["exported_margin"], abs=1e-4) for row in listed)


def test_a_network_that_hears_takes_features_and_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = write_settings(export={"onnx": True})
    monkeypatch.setattr("stages.export.BATCH_SIZE", 3)
    clips = np.random.default_rng(0).integers(-3000, 3000, (8, *CLIP)).astype(np.int16)
    network = write_network(SOUND, CLIP, clips)
    export.run(SimpleNamespace(variant=SOUND), params, Outputs())
    facts, model = json.loads(Path(f"{SOUND.exported}.json").read_text()), onnx.load(f"{SOUND.exported}.onnx")
    assert facts["n"] == 8 and facts["agreement"] == 1
    (given,) = model.graph.input
    assert [dimension.dim_value for dimension in given.type.tensor_type.shape.dim[1:]] == list(FEATURES)
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert told["input"] == f"features in [0,1] of {type(network.front_end).__name__}, which is not part of the model"


@pytest.fixture
def default(tmp_path):
    def load(given=None, **grid):
        written = yaml.safe_load((ROOT / "params.yaml").read_text())
        written["grid"] |= grid
        if given is not None:
            written["export"] = given
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(written))
        return load_params(tmp_path / "params.yaml")

    return load


@pytest.mark.parametrize("given", [None, {"onnx": False}])
def test_nothing_is_exported_unless_the_study_asks_for_it(default, given):
    jobs = plan(default(given))
    assert not [job for job in jobs if job.rule == "export"]
    assert not [name for name in jobs[-1].products if "export" in name]
    assert ("export" in jobs[-1].params) == (given is not None)  # the report prints what was written


def test_quantized_networks_that_no_filter_stands_before_are_exported(default):
    params = default({"onnx": True, "samples": 100}, defenses=["none", "fast_at", "median"])
    jobs = [job for job in plan(params) if job.rule == "export"]
    names = {"int8-none", "w4a4-none", "w1a1-none", "int8-fast_at", "w4a4-fast_at"}
    assert {job.item for job in jobs} == {f"fashion_mnist-resnet8-{name}-s0" for name in names}
    for job in jobs:
        stems = ("data/prepared/fashion_mnist", f"data/quantized/{job.item}")
        assert job.inputs == tuple(stem + suffix for stem in stems for suffix in (".json", ".safetensors"))
        assert job.outputs == (f"data/exported/{job.item}.json", f"data/exported/{job.item}.onnx")
        assert job.params == ("device", "threads", "export")
        assert job.modules == ("stages/export.py", "stages/models/resnet8.py")
    report = plan(params)[-1]
    assert {job.outputs[0] for job in jobs} == {name for name in report.inputs if "exported" in name}
    assert {"data/results/exports.csv", "data/results/export_disagreements.csv"} <= set(report.tracked)


@pytest.mark.parametrize(
    ("given", "grid", "sentence"),
    [
        ({"onxn": True}, {}, "export.onxn: unknown key, did you mean 'onnx'?"),
        ({"onnx": "yes"}, {}, "export.onnx: 'yes' should be a valid boolean"),
        ({"samples": 10}, {}, "export.onnx: is missing, expected a value"),
        ({"onnx": True, "samples": 0}, {}, "export.samples: 0 should be greater than or equal to 1"),
        ({"onnx": True, "samples": 2001}, {}, "export.samples: 2001 should be at most 2000, the test images of 'fash"),
        ({"onnx": True}, {"schemes": ["fp32"], "also": []}, "export.onnx: true exports nothing, expected a quantized"),
    ],
)
def test_each_fault_is_one_sentence(default, given, grid, sentence):
    with pytest.raises(ParamsError, match=sentence.replace("?", r"\?")):
        default(given, **grid)
