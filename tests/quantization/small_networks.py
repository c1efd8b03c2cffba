"""Small networks, quantized by Brevitas with every scheme and frozen."""

from functools import partial
from importlib import import_module
from typing import NamedTuple

import torch
from torch import nn

from stages.models import resnet8, tiny_cnn
from stages.models.layers import FloatLayers
from stages.quantization.brevitas_layers import BrevitasLayers
from stages.quantization.freeze import freeze
from stages.quantization.frozen_layers import FrozenLayers

MEAN, STD = (73 / 255,), 0.35
SHAPE = (1, 16, 16)
MODELS = {"resnet8": resnet8, "tiny_cnn": tiny_cnn}


class Case(NamedTuple):
    """One network in Brevitas' layers and the same one frozen; 200 images on the 8-bit grid."""

    brevitas: nn.Module
    frozen: nn.Module
    images: torch.Tensor
    labels: torch.Tensor


def images_of_classes(count, generator):
    """Noisy images of ten blurred patterns, on the 8-bit grid."""
    patterns = torch.rand(10, 1, 4, 4, generator=torch.Generator().manual_seed(7)).repeat_interleave(4, 2)
    patterns = patterns.repeat_interleave(4, 3)
    labels = torch.randint(10, (count,), generator=generator)
    noisy = patterns[labels] + 0.15 * torch.randn(count, *SHAPE, generator=generator)
    return (noisy.clamp(0, 1) * 255).round() / 255, labels


def fit(network, images, labels, epochs, learning_rate):
    optimizer = torch.optim.SGD(network.parameters(), lr=learning_rate, momentum=0.9)
    network.train()
    for _ in range(epochs):
        for inputs, targets in zip(images.split(50), labels.split(50), strict=True):
            loss = torch.nn.functional.cross_entropy(network(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    network.eval()
    return []


def quantized_case(model_name, scheme_name):
    """A small trained network of a model, quantized with a scheme."""
    model, scheme = MODELS[model_name], import_module(f"stages.schemes.{scheme_name}")
    torch.manual_seed(0)
    images, labels = images_of_classes(400, torch.Generator().manual_seed(0))
    network = model.network(FloatLayers(MEAN, STD), SHAPE, 10)
    fit(network, images, labels, epochs=2, learning_rate=0.05)
    quantized = model.network(BrevitasLayers(MEAN, STD, scheme.FORMAT), SHAPE, 10)
    quantized.load_state_dict(network.state_dict(), strict=False)
    knobs = {} if scheme.FORMAT.weight_bits == 8 else {"epochs": 1, "learning_rate": 0.01}
    scheme.quantize(quantized, list(images.split(100)), partial(fit, images=images, labels=labels), **knobs)
    frozen = freeze(quantized, model.network(FrozenLayers(MEAN, STD, scheme.FORMAT), SHAPE, 10), SHAPE)
    images, labels = images_of_classes(200, torch.Generator().manual_seed(1))
    return Case(quantized.eval(), frozen, images, labels)
