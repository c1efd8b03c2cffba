"""Networks that are made with the help of others: teachers, sources, and filters before undefended networks."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stages import train
from stages.artifacts.adversarial import load_adversarial_set
from stages.artifacts.classifiers import load_classifier
from stages.artifacts.datasets import load_dataset, save_dataset
from stages.artifacts.network_files import load_description
from stages.artifacts.networks import load_network
from stages.datasets.arrays import Split
from stages.datasets.tensors import as_input
from stages.defenses.filtered import Filtered
from stages.plan import networks
from tests.test_network_stages import SHAPE, Project

NAME = "fashion_mnist-tiny_cnn-{}-{}-s{}"
SMALL = {"width": 8, "blocks": 1, "epochs": 1}  # a density model


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A study with some defenses, and all their networks made; the study and the bytes of each network."""

    def make(**changes):
        project = Project(tmp_path, monkeypatch, **changes)
        made = {}
        for variant in networks(project.params):
            made[variant.name] = project.run(variant.rule, variant.name)
        return project, made

    threads = torch.get_num_threads()
    yield make
    torch.set_num_threads(threads)


def grid(schemes, defenses, **axes):
    return {"schemes": schemes, "defenses": defenses, "also": []} | axes


def test_the_teacher_is_the_most_accurate_on_validation_data(made):
    project, _ = made(grid=grid(["fp32"], ["none"], seeds=[0, 1]), training={"epochs": 1})
    trained = [task.variant for task in project.tasks.values() if task.job.rule == "train"]
    for variant, accuracy in zip(trained, (0.25, 0.75), strict=True):
        description = load_description(Path(variant.network))
        description["history"][-1]["validation"] = accuracy
        Path(f"{variant.network}.json").write_text(json.dumps(description))
    expected, _ = load_network(Path(trained[1].network))
    for teachers in (trained, trained[::-1]):
        chosen = train.best(teachers)
        assert all(torch.equal(mine, its) for mine, its in zip(chosen.parameters(), expected.parameters(), strict=True))


def test_training_starts_from_the_teacher(made, monkeypatch):
    seen = {}

    def spy(network, *arguments, **settings):
        seen["start"] = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        seen["loss"] = arguments[0]
        return [{"epoch": 1, "loss": 0.0, "validation": 0.0}]

    project, _ = made(grid=grid(["fp32"], ["none", "distillation"]))
    monkeypatch.setattr(train, "train", spy)
    project.run("defend", NAME.format("fp32", "distillation", 0))
    teacher, _ = load_network(Path("data/trained", NAME.format("fp32", "none", 0)))
    assert all(torch.equal(seen["start"][name], tensor) for name, tensor in teacher.state_dict().items())
    handed = seen["loss"].keywords["teacher"]
    assert not handed.training
    torch.testing.assert_close(handed(torch.ones(1, *SHAPE)), teacher(torch.ones(1, *SHAPE)))
    assert not any(parameter.requires_grad for parameter in handed.parameters())


def test_all_defenses_that_need_other_networks_train_also_quantized(made):
    schemes = {"w4a4": {"epochs": 1}}
    defenses = {"ensemble_at": {"models": ["resnet8"], "training": {"start": "undefended", "epochs": 1}}}
    _, networks = made(
        grid=grid(["w4a4"], ["distillation", "ensemble_at"]), defenses=defenses, training={"epochs": 2}, schemes=schemes
    )
    assert NAME.format("fp32", "none", 0) in networks and "fashion_mnist-resnet8-fp32-none-s0" in networks
    own = load_description(Path("data/defended", NAME.format("fp32", "ensemble_at", 0)))
    assert len(own["history"]) == 1
    assert len(load_description(Path("data/defended", NAME.format("fp32", "distillation", 0)))["history"]) == 2
    assert len(load_description(Path("data/quantized", NAME.format("w4a4", "ensemble_at", 0)))["history"]) == 1


def test_filters_are_fitted_once_and_put_before_every_number_format(made):
    project, networks = made(
        grid=grid(["fp32", "int8"], ["feature_squeezing", "pixel_defend"]),
        defenses={"pixel_defend": SMALL, "feature_squeezing": {"bits": 3}},
        training={"epochs": 1},
    )
    images = as_input(torch.randint(0, 255, (4, *SHAPE), dtype=torch.uint8))
    for defense in ("feature_squeezing", "pixel_defend"):
        filters = {}
        for scheme in ("fp32", "int8"):
            name = NAME.format(scheme, defense, 0)
            assert project.run("filter", name) == networks[name]
            classifier = load_classifier(Path("data/filtered", name))
            assert isinstance(classifier, Filtered) and not classifier.training
            folder = {"fp32": "trained", "int8": "quantized"}[scheme]
            undefended = load_classifier(Path("data", folder, NAME.format(scheme, "none", 0)))
            assert torch.equal(classifier(images), undefended(classifier.filter(images)))
            filters[scheme] = classifier.filter.state_dict()
            assert filters[scheme].pop("threshold").isfinite()
        assert all(torch.equal(tensor, filters["int8"][name]) for name, tensor in filters["fp32"].items())
    fitted = load_description(Path("data/filtered", NAME.format("fp32", "pixel_defend", 0)))
    assert len(fitted["history"]) == 1 and fitted["filter"] == {"defense": "pixel_defend", "settings": SMALL}
    assert fitted["variant"]["defense"] == "pixel_defend"


def test_a_filtered_network_costs_what_its_filter_costs_too(made):
    made(
        grid=grid(["fp32", "int8"], ["feature_squeezing", "pixel_defend"]),
        defenses={"pixel_defend": SMALL, "feature_squeezing": {}},
        training={"epochs": 1},
    )

    def cost(folder, scheme, defense):
        return load_description(Path("data", folder, NAME.format(scheme, defense, 0)))["footprint"]

    channels, height, width = SHAPE
    for scheme, folder in (("fp32", "trained"), ("int8", "quantized")):
        alone = cost(folder, scheme, "none")
        assert cost("filtered", scheme, "feature_squeezing") == alone
        path = Path("data/filtered", NAME.format(scheme, "pixel_defend", 0))
        stored = sum(tensor.numel() for tensor in load_classifier(path).filter.density.parameters())
        behind = cost("filtered", scheme, "pixel_defend")
        assert behind["parameters"] == alone["parameters"] + stored
        assert behind["weight_bytes"] == alone["weight_bytes"] + 4 * stored
        assert behind["macs"] > alone["macs"] + height * width * 8 * 8  # more than one of its layers
        # The image and two rows of a block's hidden values are more than the quantized network's activations.
        purification = 4 * (channels * height * width + 2 * width * SMALL["width"])
        assert behind["peak_activation_bytes"] == max(alone["peak_activation_bytes"], purification)
        assert (behind["peak_activation_bytes"] == purification) == (scheme == "int8")


def test_a_detector_reports_one_in_twenty_validation_images(made):
    project, _ = made(grid=grid(["fp32"], ["feature_squeezing"]), training={"epochs": 1})
    path = Path("data/prepared/fashion_mnist.safetensors")
    dataset = load_dataset(path)
    smooth = np.random.default_rng(1).integers(0, 256, (100, 1, 1, 1)) * np.ones((1, *SHAPE))
    smooth[:, :, 5, 5] += np.linspace(-20, 20, 100)[:, None]
    val = Split(smooth.clip(0, 255).astype(np.uint8), dataset.val.labels[:100])
    save_dataset(path, replace(dataset, val=val))
    name = NAME.format("fp32", "feature_squeezing", 0)
    project.run("filter", name)
    classifier = load_classifier(Path("data/filtered", name))
    assert classifier.detected(as_input(torch.from_numpy(val.inputs))).sum() == 5
    assert classifier.detected(as_input(torch.from_numpy(dataset.train.inputs))).float().mean() > 0.5


def test_attacks_on_filters_are_adaptive(made):
    project, _ = made(grid=grid(["int8"], ["feature_squeezing"]), training={"epochs": 1}, evaluation={"samples": 10})
    name = NAME.format("int8", "feature_squeezing", 0)
    project.run("attack", f"{name}-pgd")
    assert load_adversarial_set(Path(f"data/adversarial/{name}-pgd.safetensors")).threat == "adaptive"
