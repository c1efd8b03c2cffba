"""How far a small binary network grows: `python benchmarks/growth.py [SETTING=VALUE ...]`.

The first stage of `early_growth` runs on `tiny_cnn` and the first images of each class of Fashion-MNIST, in one thread.
Printed is a Markdown table of the channels of each layer after each step and the largest change of a logit since the
start, with the settings given in the place of the defaults: `python benchmarks/growth.py rate=1.0 steps=8`.
"""

import argparse
import tempfile
from contextlib import suppress
from functools import partial
from math import log
from pathlib import Path

import torch
import yaml

from stages import plugins
from stages.datasets import fashion_mnist
from stages.datasets.tensors import as_input
from stages.defenses import none
from stages.models import tiny_cnn
from stages.quantization.brevitas_layers import BrevitasLayers
from stages.quantization.channel_groups import hidden_groups, with_channels
from stages.quantization.layer_formats import build_in_format
from stages.schemes import early_growth
from stages.training.checkpoint import Checkpoint
from stages.training.loop import Samples, Schedule, train

CLASSES, BATCH_SIZE, CALIBRATION = 10, 64, 512
SETTINGS = {"batch_size": BATCH_SIZE, "momentum": 0.9, "weight_decay": 5e-4, "crop_padding": 2, "horizontal_flip": True}


class Maker:
    """The `Make` of `stages/quantization/recipes.py`, without a float network."""

    model = partial(tiny_cnn.network, input_shape=fashion_mnist.INPUT_SHAPE, num_classes=CLASSES)

    def untrained(self, format, channels) -> torch.nn.Module:
        torch.manual_seed(0)
        layers = partial(BrevitasLayers, fashion_mnist.MEAN, fashion_mnist.STD)
        return build_in_format(with_channels(self.model, fashion_mnist.INPUT_SHAPE, channels), layers, format)

    def groups(self):
        return hidden_groups(self.model, fashion_mnist.INPUT_SHAPE)


class Grown(Exception):
    """The first stage is over."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="of early_growth")
    parser.add_argument("--images", type=int, default=3000, help="to train on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    given = {name: yaml.safe_load(value) for name, _, value in (setting.partition("=") for setting in options.settings)}
    settings = plugins.settings("schemes", "early_growth", given)
    chance = settings["chance"] if "chance" in settings else plugins.default("schemes", "early_growth", "chance")
    start = log(chance / (1 - chance))
    samples = first_of_each_class(options.images)
    groups = [group.name for group in Maker().groups()]
    print(f"| step | {' | '.join(groups)} | loss | largest change of a logit |\n|---|{'---|' * (len(groups) + 2)}")
    with tempfile.TemporaryDirectory() as folder:

        def fine_tune(network, *, part="", **schedule):
            if not part:
                raise Grown
            checkpoint = Checkpoint(Path(folder) / part)
            history = train(
                network,
                none.loss,
                samples,
                first_of_each_class(CALIBRATION),
                Schedule(**SETTINGS, **schedule),
                seed=0,
                dtype=torch.float32,
                checkpoint=checkpoint,
                label=part,
            )
            masks = network.channel_masks
            moved = max((logits.detach() - start).abs().max().item() for logits in masks.logits if len(logits))
            counts = " | ".join(str(count) for count in masks.channels().values())
            print(f"| {part.removeprefix('growth')} | {counts} | {history[-1]['loss']:.2f} | {moved:.2f} |", flush=True)
            return history

        with suppress(Grown):
            early_growth.quantize(Maker(), [as_input(first_of_each_class(CALIBRATION).inputs)], fine_tune, **settings)


def first_of_each_class(count: int) -> Samples:
    """`count` training images in the order of the file, which goes from class to class."""
    train = fashion_mnist.load(None)["train"]
    chosen = torch.arange(count) * len(train) // count
    return Samples(torch.from_numpy(train.inputs)[chosen], torch.from_numpy(train.labels)[chosen])


if __name__ == "__main__":
    main()
