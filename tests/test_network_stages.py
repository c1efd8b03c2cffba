"""The stages that make networks, on a tiny dataset: what they write, twice the same, also after a kill."""

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from stages import plugins
from stages.artifacts.classifiers import load_classifier
from stages.artifacts.datasets import save_dataset
from stages.artifacts.network_files import load_description
from stages.artifacts.networks import load_network
from stages.datasets.arrays import Dataset, Split, calibration_samples
from stages.defenses import fast_at, jacobian, none
from stages.params import load_params
from stages.plan import tasks
from stages.quantize import calibration_images

ROOT = Path(__file__).parents[1]
SHAPE = (1, 16, 16)
FLOAT, DEFENDED = "fashion_mnist-tiny_cnn-fp32-none-s0", "fashion_mnist-tiny_cnn-fp32-fast_at-s0"
ALL = [
    ("train", FLOAT),
    ("defend", DEFENDED),
    ("defend", "fashion_mnist-tiny_cnn-fp32-jacobian-s0"),
    ("quantize", "fashion_mnist-tiny_cnn-int8-none-s0"),
    ("quantize", "fashion_mnist-tiny_cnn-w4a4-fast_at-s0"),
    ("quantize", "fashion_mnist-tiny_cnn-w1a1-none-s0"),
]
TRAINED = [job for job in ALL if "int8" not in job[1]]


class Killed(Exception):
    pass


class Project:
    """A study's working directory with a prepared dataset of 120 small images."""

    def __init__(self, folder: Path, monkeypatch, **changes):
        written = yaml.safe_load((ROOT / "studies/smoke/params.yaml").read_text())
        written["grid"] |= {"schemes": ["fp32", "int8", "w4a4", "w1a1"], "defenses": ["none", "fast_at", "jacobian"]}
        written["grid"]["also"] = []
        written["training"] |= {"epochs": 3, "batch_size": 20}
        written["schemes"] = {"int8": {}, "w4a4": {"epochs": 2}, "w1a1": {"epochs": 2}}
        written["precision"] = "fp32"
        written["export"] = {"onnx": False}  # of which there is nothing to export where all defenses are filters
        for section, values in changes.items():
            written[section] |= values
        (folder / "params.yaml").write_text(yaml.safe_dump(written))
        monkeypatch.chdir(folder)
        self.params = load_params()
        self.tasks = {(task.job.rule, task.job.item): task for task in tasks(self.params)}
        labels = np.arange(120) % 10
        images = np.random.default_rng(0).integers(0, 120, (120, *SHAPE)) + 12 * labels[:, None, None, None]
        split = Split(images.astype(np.uint8), labels.astype(np.int64))
        chosen = calibration_samples(split.labels, 40)
        classes = tuple("abcdefghij")
        Path("data/prepared").mkdir(parents=True)
        dataset = Dataset("fashion_mnist", SHAPE, classes, (100 / 255,), 0.25, split, split, split, chosen)
        save_dataset(Path("data/prepared/fashion_mnist.safetensors"), dataset)

    def run(self, rule, item):
        """Runs one job in place and returns the bytes of its products."""
        task = self.tasks[rule, item]
        for product in task.job.products:
            Path(product).parent.mkdir(parents=True, exist_ok=True)
        outputs = SimpleNamespace(path=Path, checkpoint=Path(".checkpoints", f"{item}.safetensors"))
        import_module(f"stages.{rule}").run(task, self.params, outputs)
        outputs.checkpoint.unlink(missing_ok=True)  # as the ledger does once the result is safe
        return [Path(product).read_bytes() for product in task.job.products]


@pytest.fixture
def project(tmp_path, monkeypatch):
    made = Project(tmp_path, monkeypatch)
    threads = torch.get_num_threads()
    yield made
    torch.set_num_threads(threads)


def test_every_network_is_written_twice_to_the_same_bytes_and_loads(project):
    for rule, item in ALL:
        first = project.run(rule, item)
        assert project.run(rule, item) == first, item
        path = Path(project.tasks[rule, item].variant.network)
        network, description = load_network(path)
        assert not network.training
        assert network(torch.rand(2, *SHAPE)).shape == (2, 10)
        assert description["variant"]["scheme"] == project.tasks[rule, item].variant.scheme
        assert (description["format"] is None) == ("fp32" in item)
        assert set(description["footprint"]) == {"parameters", "macs", "weight_bytes", "peak_activation_bytes"}


@pytest.mark.parametrize(("rule", "item"), TRAINED, ids=[item for _, item in TRAINED])
def test_a_killed_job_goes_on_to_the_same_bytes(project, monkeypatch, rule, item):
    for needed in (("train", FLOAT), ("defend", DEFENDED)):
        if rule == "quantize":
            project.run(*needed)
    undisturbed = project.run(rule, item)

    defense = {"none": none, "fast_at": fast_at, "jacobian": jacobian}[item.split("-")[3]]
    original, calls = defense.loss, []

    def deadly(*arguments, **knobs):
        calls.append(1)
        if len(calls) == 9:  # in the second epoch of six steps
            raise Killed
        return original(*arguments, **knobs)

    monkeypatch.setattr(defense, "loss", deadly)
    with pytest.raises(Killed):
        project.run(rule, item)
    assert Path(".checkpoints", f"{item}.safetensors").exists()
    calls.clear()
    calls.extend([1] * 9)
    steps = 6 * (2 if rule == "quantize" else 3)
    assert project.run(rule, item) == undisturbed
    assert len(calls) - 9 == steps - 6  # the first epoch was not run again


def test_a_quantized_network_starts_from_its_float_network_and_its_own_defense_trains_it(project):
    project.run("train", FLOAT)
    project.run("quantize", "fashion_mnist-tiny_cnn-int8-none-s0")
    float_network, _ = load_network(Path(f"data/trained/{FLOAT}"))
    frozen, _ = load_network(Path("data/quantized/fashion_mnist-tiny_cnn-int8-none-s0"))
    restored = frozen.convolution2.weight * frozen.convolution2.weight_scale.view(-1, 1, 1, 1)
    error = (restored - float_network.convolution2.weight).abs()
    assert (error <= frozen.convolution2.weight_scale.view(-1, 1, 1, 1) * 0.5001).all()

    project.run("defend", DEFENDED)
    project.run("quantize", "fashion_mnist-tiny_cnn-w4a4-fast_at-s0")
    history = load_description(Path("data/quantized/fashion_mnist-tiny_cnn-w4a4-fast_at-s0"))["history"]
    assert len(history) == 2
    assert all("robust_validation" in entry for entry in history)


def test_a_classifier_s_parameters_take_no_gradients(project):
    project.run("train", FLOAT)
    classifier = load_classifier(Path(f"data/trained/{FLOAT}"))
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    inputs = torch.rand(2, *SHAPE)
    assert torch.equal(classifier.gradient_view()(inputs), classifier(inputs))
    assert torch.equal(classifier.network.classifier(classifier.features(inputs)), classifier(inputs))


def test_tensors_that_do_not_fit_their_description_are_refused(project):
    project.run("train", FLOAT)
    description = Path(f"data/trained/{FLOAT}.json")
    description.write_text(description.read_text().replace('"model": "tiny_cnn"', '"model": "resnet8"'))
    with pytest.raises(ValueError, match="do not fit the resnet8"):
        load_network(Path(f"data/trained/{FLOAT}"))


def test_images_of_calibration_are_training_images_unless_the_scheme_is_the_control():
    train, test = (Split(np.full((20, 1, 4, 4), value, np.uint8), np.arange(20) % 2) for value in (1, 2))
    dataset = Dataset("made_up", (1, 4, 4), ("a", "b"), (0.0,), 1.0, train, train, test, np.arange(6))
    for split, value in (("train", 1), ("test", 2)):
        images = calibration_images(dataset, split)
        assert len(images) == 6 and (images.inputs == value).all()
    with pytest.raises(ValueError, match="CALIBRATION of the scheme is 'val', expected 'train' or 'test'"):
        calibration_images(dataset, "val")


@pytest.mark.parametrize("scheme", plugins.names("schemes"))
def test_no_scheme_but_the_control_sees_test_images(scheme):
    assert plugins.constants("schemes", scheme).get("CALIBRATION", "train") == (
        "test" if scheme == "int8_calibrated_on_test" else "train"
    )
