"""Small networks, trained on embedded images, quantized by Brevitas with every scheme and frozen."""

from functools import cache, partial
from importlib import import_module
from typing import NamedTuple

import torch
from torch import nn

from stages.datasets import fashion_mnist
from stages.datasets.tensors import as_input
from stages.models import resnet8, tiny_cnn
from stages.models.layers import FloatLayers
from stages.quantization.brevitas_layers import BrevitasLayers
from stages.quantization.formats import Format
from stages.quantization.freeze import freeze
from stages.quantization.frozen_layers import FrozenLayers
from stages.quantization.layer_formats import build_in_format

MEAN, STD, SHAPE = fashion_mnist.MEAN, fashion_mnist.STD, fashion_mnist.INPUT_SHAPE
MODELS = {"resnet8": resnet8, "tiny_cnn": tiny_cnn}

load = cache(fashion_mnist.load)  # decoding and hashing all images takes seconds


class Case(NamedTuple):
    """One network in float, in Brevitas' layers and frozen, what it was calibrated on, and its number format."""

    network: nn.Module
    brevitas: nn.Module
    frozen: nn.Module
    calibration: list[torch.Tensor]
    format: Format


def images(split: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` images of all classes and their labels."""
    arrays = load()[split]
    chosen = torch.arange(count) * len(arrays) // count
    return as_input(torch.from_numpy(arrays.inputs)[chosen]), torch.from_numpy(arrays.labels)[chosen]


def fit(network, epochs, learning_rate):
    inputs, labels = images("train", 1000)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(network.parameters(), lr=learning_rate, momentum=0.9)
    network.train()
    for chosen in order.repeat(epochs).split(50):
        loss = torch.nn.functional.cross_entropy(network(inputs[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    return []


def in_layers(model, layers) -> nn.Module:
    """The model's network in a layer set, in evaluation mode."""
    return model.network(layers, SHAPE, 10).eval()


def in_format(model, layer_set, format: Format) -> nn.Module:
    """The model's network in a format, from a layer set, in evaluation mode."""
    return build_in_format(lambda layers: in_layers(model, layers), partial(layer_set, MEAN, STD), format)


def untrained(model_name: str) -> nn.Module:
    """The model's float network, which leaves the same random state behind each time."""
    torch.set_num_threads(1)  # on which training depends; other tests may have left another number
    torch.manual_seed(0)
    return in_layers(MODELS[model_name], FloatLayers(MEAN, STD))


@cache
def trained(model_name: str) -> dict[str, torch.Tensor]:
    """What the model's float network learned; trained once."""
    network = untrained(model_name)
    fit(network, epochs=3, learning_rate=0.05)
    return network.state_dict()


@cache
def quantized_case(model_name: str, scheme_name: str) -> Case:
    """A small trained network of a model, quantized with a scheme as it is set by default; made once."""
    training = {} if scheme_name in ("int8", "int16x8") else {"epochs": 1, "learning_rate": 0.01}
    return make_case(model_name, scheme_name, **training)


def make_case(model_name: str, scheme_name: str, **knobs) -> Case:
    """The same with other settings."""
    model, scheme = MODELS[model_name], import_module(f"stages.schemes.{scheme_name}")
    learned = trained(model_name)
    network = untrained(model_name)
    network.load_state_dict(learned)

    def make(format: Format) -> nn.Module:
        quantized = in_format(model, BrevitasLayers, format)
        quantized.load_state_dict(network.state_dict(), strict=False)
        return quantized

    calibration = list(images("train", 200)[0].split(100))
    quantized, format, *_ = scheme.quantize(make, calibration, fit, **knobs)
    frozen = freeze(quantized, in_format(model, FrozenLayers, format), SHAPE)
    return Case(network, quantized.eval(), frozen, calibration, format)
