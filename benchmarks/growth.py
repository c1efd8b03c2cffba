"""How far a small binary network grows: `python benchmarks/growth.py [SETTING=VALUE ...]`.

The first stage of `early_growth` runs on evenly spaced training images of a data set, in one thread. Printed is a
Markdown table of the channels of each layer after each step and of how far logits have moved since the start, the
lowest, the median and the highest, with the settings given in the place of the defaults:
`python benchmarks/growth.py rate=1.0 steps=8`. CIFAR-10 is read from the folder TINYROBUST_DATA_MIRROR, if that is set.
"""

import argparse
import os
import tempfile
from contextlib import suppress
from functools import partial
from math import log
from pathlib import Path

import torch
import yaml

from stages import plugins
from stages.datasets import cifar10, fashion_mnist
from stages.datasets.arrays import Split
from stages.datasets.tensors import as_input
from stages.defenses import none
from stages.models import resnet8, tiny_cnn
from stages.quantization.brevitas_layers import BrevitasLayers
from stages.quantization.channel_groups import hidden_groups, with_channels
from stages.quantization.layer_formats import build_in_format
from stages.schemes import early_growth
from stages.training.checkpoint import Checkpoint
from stages.training.loop import Samples, Schedule, train

CLASSES, BATCH_SIZE, CALIBRATION = 10, 64, 512
SUBJECTS = {"tiny_cnn": (tiny_cnn, fashion_mnist), "resnet8": (resnet8, cifar10)}
SETTINGS = {"batch_size": BATCH_SIZE, "momentum": 0.9, "crop_padding": 2, "horizontal_flip": True}


class Maker:
    """The `Make` of `stages/quantization/recipes.py`, without a float network."""

    def __init__(self, model, dataset):
        self.dataset = dataset
        self.model = partial(model.network, input_shape=dataset.INPUT_SHAPE, num_classes=CLASSES)

    def untrained(self, format, channels) -> torch.nn.Module:
        torch.manual_seed(0)
        layers = partial(BrevitasLayers, self.dataset.MEAN, self.dataset.STD)
        return build_in_format(with_channels(self.model, self.dataset.INPUT_SHAPE, channels), layers, format)

    def groups(self):
        return hidden_groups(self.model, self.dataset.INPUT_SHAPE)


class Grown(Exception):
    """The first stage is over."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="of early_growth")
    parser.add_argument(
        "--model", choices=SUBJECTS, default="tiny_cnn", help="tiny_cnn sees Fashion-MNIST, resnet8 CIFAR-10"
    )
    parser.add_argument("--images", type=int, default=3000, help="to train on")
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, dataset = SUBJECTS[options.model]
    maker, mirror = Maker(model, dataset), os.environ.get("TINYROBUST_DATA_MIRROR")
    images = dataset.load(Path(mirror) if mirror else None)["train"]
    given = {name: yaml.safe_load(value) for name, _, value in (setting.partition("=") for setting in options.settings)}
    settings = plugins.settings("schemes", "early_growth", given)
    chance = settings["chance"] if "chance" in settings else plugins.default("schemes", "early_growth", "chance")
    start = log(chance / (1 - chance))
    samples, few = evenly_spaced(images, options.images), evenly_spaced(images, CALIBRATION)
    groups = [group.name for group in maker.groups()]
    print(f"| step | {' | '.join(groups)} | loss | logits moved by |\n|---|{'---|' * (len(groups) + 2)}")
    with tempfile.TemporaryDirectory() as folder:

        def fine_tune(network, *, part="", **schedule):
            if not part:
                raise Grown
            checkpoint = Checkpoint(Path(folder) / part)
            history = train(
                network,
                none.loss,
                samples,
                few,
                Schedule(**SETTINGS, weight_decay=options.weight_decay, **schedule),
                seed=0,
                dtype=getattr(torch, options.precision),
                checkpoint=checkpoint,
                label=part,
            )
            masks = network.channel_masks
            moved = torch.cat([logits.detach() for logits in masks.logits]) - start
            spread = ", ".join(f"{value:.2f}" for value in (moved.min(), moved.median(), moved.max()))
            counts = " | ".join(str(count) for count in masks.channels().values())
            print(f"| {part.removeprefix('growth')} | {counts} | {history[-1]['loss']:.2f} | {spread} |", flush=True)
            return history

        with suppress(Grown):
            early_growth.quantize(maker, [as_input(few.inputs)], fine_tune, **settings)


def evenly_spaced(images: Split, count: int) -> Samples:
    """`count` training images, evenly spaced in the file: of one that goes from class to class as many of each."""
    chosen = torch.arange(count) * len(images) // count
    return Samples(torch.from_numpy(images.inputs)[chosen], torch.from_numpy(images.labels)[chosen])


if __name__ == "__main__":
    main()
