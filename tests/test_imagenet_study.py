"""The study of ResNet-18 on ImageNet, shrunk to a handful of small images and classes, through all of its stages."""

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from stages import plugins
from stages.artifacts.network_files import load_description
from stages.datasets import imagenet
from stages.params import load_params
from stages.plan import tasks

SETTINGS = Path(__file__).parents[1] / "studies/early_growth_imagenet/params.yaml"
SHAPE = (3, 32, 32)
CLASSES = imagenet.CLASSES[:2]
COUNTS = {"train": 10, "test": 6}  # of each class


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of the finished study."""
    folder = tmp_path_factory.mktemp("imagenet")
    write_images(folder / "mirror/imagenet")
    written = yaml.safe_load(SETTINGS.read_text())
    written["data"] = {"mirror": str(folder / "mirror"), "validation": 4, "calibration": 8}
    written["training"] |= {"epochs": 1, "batch_size": 8}
    written["training"]["augmentation"]["crop_padding"] = 2
    written["precision"] = "fp32"
    for scheme in ("binary", "early_growth"):
        written["schemes"][scheme] |= {"epochs": 1}
    # Half of the further channels are there from the start, as one step of two passes opens none.
    written["schemes"]["early_growth"] |= {"steps": 1, "largest": 1.1, "chance": 0.49, "rate": 1000.0}
    searched = written["faults"]["bit_flip_weights"]
    written["faults"] = {"bit_flip_weights": searched | {"draws": 1, "each": 2, "tries": 1}}
    written["evaluation"] |= {"samples": 4, "flips": [1, 2]}
    written["attacks"]["pgd"]["steps"] = 1
    (folder / "params.yaml").write_text(yaml.safe_dump(written))
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        small = {"INPUT_SHAPE": SHAPE, "CLASSES": CLASSES}
        for name, value in small.items():
            patch.setattr(imagenet, name, value)
        known = plugins.constants
        patch.setattr(
            plugins, "constants", lambda kind, name: known(kind, name) | (small if name == "imagenet" else {})
        )
        params = load_params()
        for task in tasks(params):
            for product in task.job.products:
                Path(product).parent.mkdir(parents=True, exist_ok=True)
            outputs = SimpleNamespace(path=Path, checkpoint=Path(".checkpoints", f"{task.job.item}.safetensors"))
            import_module(f"stages.{task.job.rule}").run(task, params, outputs)
    torch.set_num_threads(threads)
    return folder


def write_images(folder):
    generator = np.random.default_rng(0)
    for split, count in COUNTS.items():
        for label, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                image = generator.integers(0, 128, (*SHAPE[1:], 3)) + 127 * label
                Image.fromarray(image.astype(np.uint8)).save(folder / split / name / f"{number}.png")


def network(study, scheme):
    folder = "trained" if scheme == "fp32" else "quantized"
    return load_description(study / f"data/{folder}/imagenet-resnet18-{scheme}-none-s0")


def test_resnet18_is_quantized_made_binary_and_grown(study):
    float_bytes = network(study, "fp32")["footprint"]["weight_bytes"]
    assert 0.24 * float_bytes < network(study, "int8")["footprint"]["weight_bytes"] < 0.27 * float_bytes
    assert network(study, "binary")["footprint"]["weight_bytes"] < 0.04 * float_bytes
    grown = network(study, "early_growth")
    assert grown["channels"].keys() == grown["history"][0]["channels"].keys()
    assert sum(grown["channels"].values()) > sum(grown["history"][0]["channels"].values())


def test_every_network_has_its_clean_accuracy_its_bytes_and_what_flips_left(study):
    flips = pd.read_csv(study / "data/results/bit_flips.csv")
    assert set(flips["scheme"]) == {"int8", "binary", "early_growth"}
    assert set(flips["flips"]) >= {1, 2}
    claims = pd.read_csv(study / "data/results/claims.csv")
    judged = claims[claims["claim"].str.startswith("resnet18 on imagenet: ")]
    assert len(judged) == len(claims) == 58
    assert judged["claim"].str.contains("after 5,000 flips").sum() == 2
    assert "resnet18" in (study / "data/results/report.html").read_text()
