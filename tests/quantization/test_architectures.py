"""Networks with depthwise convolutions, or with max-pooling, dropout and no batch norm, in all three layer sets."""

from dataclasses import asdict
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stages.artifacts.network_files import save_network
from stages.artifacts.networks import build, load_network
from stages.models.layers import Dropout
from stages.quantization.attribution import PARTS, parts
from stages.quantization.brevitas_layers import BrevitasLayers
from stages.quantization.formats import Format
from stages.quantization.freeze import freeze, layer_table
from stages.quantization.frozen_layers import Codes, FrozenLayers
from stages.quantize import copy_float_weights

SHAPES = {"mobilenetv1_025": (3, 32, 32), "coffee_cnn": (3, 140, 140), "dscnn": (3, 49, 10)}
CLASSES = 4
MEAN, STD = (128 / 255, 127 / 255, 100 / 255), 0.25
EVERY = [(model, scheme) for model in SHAPES for scheme in ("int8", "int16x8")]


def blurred_noise(count, seed, shape):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 7, 7, generator=generator)
    return F.interpolate(coarse, shape[1:], mode="bilinear").mul(255).round().div(255)


def description(model, scheme):
    format = scheme and asdict(import_module(f"stages.schemes.{scheme}").FORMAT)
    shape = SHAPES[model]
    described = {"model": model, "format": format, "input_shape": shape, "classes": ["a"] * CLASSES}
    return described | {"mean": MEAN, "std": STD}


@cache
def float_network(model):
    """Random weights, and statistics of batch norm from random images, so that all layers have something to say."""
    torch.manual_seed(0)
    network = build(description(model, None))
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the plain mean
            nn.init.ones_(layer.bias)  # most ReLUs are open: a deep random network else amplifies any error
    with torch.no_grad():
        network.train()(blurred_noise(32, 0, SHAPES[model]))
    return network.eval()


@cache
def quantized(model, scheme):
    """The network in Brevitas' layers and frozen."""
    plugin = import_module(f"stages.schemes.{scheme}")
    torch.set_num_threads(1)

    def make(_):
        network = build(description(model, scheme), BrevitasLayers)
        copy_float_weights(float_network(model), network)
        return network

    network, *_ = plugin.quantize(make, list(blurred_noise(32, 0, SHAPES[model]).split(16)), None)
    return network.eval(), freeze(network, build(description(model, scheme)), SHAPES[model])


@pytest.fixture(params=EVERY, ids="-".join)
def case(request):
    return request.param


@torch.no_grad()
def logits(network, inputs, batch_size=16):
    return torch.cat([network(batch) for batch in inputs.split(batch_size)])


def distance(found, expected):
    """Relative to how much logits differ from image to image."""
    return ((found - expected).norm() / (expected - expected.mean(0)).norm()).item()


def test_the_frozen_network_is_brevitas_and_near_the_float_one(case):
    model, scheme = case
    inputs = blurred_noise(48, 1, SHAPES[model])
    brevitas, frozen = quantized(model, scheme)
    expected, found = logits(brevitas, inputs), logits(frozen, inputs)
    assert distance(found, expected) < {"int8": 0.02, "int16x8": 0.001}[scheme]
    assert torch.equal(found.argmax(1), expected.argmax(1))
    assert distance(found, logits(float_network(model), inputs)) < 0.2
    assert expected.std(0).min() > 0.05  # images make a difference


def test_logits_do_not_depend_on_batch_or_layout_bit_for_bit(case):
    model, scheme = case
    _, frozen = quantized(model, scheme)
    inputs = blurred_noise(8, 2, SHAPES[model])
    expected = logits(frozen, inputs)
    assert torch.equal(logits(frozen, inputs, 1), expected)
    assert torch.equal(logits(frozen, inputs.contiguous(memory_format=torch.channels_last)), expected)


def test_gradients_are_those_of_brevitas_and_do_not_depend_on_layout(case):
    model, scheme = case
    inputs = blurred_noise(8, 3, SHAPES[model])

    def gradients(network, inputs):
        leaf = inputs.clone().requires_grad_()
        return torch.autograd.grad(network(leaf)[:, 0].sum(), leaf)[0].flatten(1)

    brevitas, frozen = quantized(model, scheme)
    expected, found = gradients(brevitas, inputs), gradients(frozen, inputs)
    turned = gradients(frozen, inputs.contiguous(memory_format=torch.channels_last))
    assert (expected.norm(dim=1) > 0).all()
    assert F.cosine_similarity(expected, found).median() > 0.99
    assert F.cosine_similarity(turned, found).min() > 0.9999


def test_what_is_saved_is_what_is_loaded(case, tmp_path):
    model, scheme = case
    _, frozen = quantized(model, scheme)
    inputs = blurred_noise(8, 2, SHAPES[model])
    for name, network, described in [
        ("float", float_network(model), description(model, None)),
        ("frozen", frozen, description(model, scheme)),
    ]:
        save_network(SimpleNamespace(path=lambda file: tmp_path / file), name, network, described)
        loaded, _ = load_network(Path(tmp_path, name))
        assert torch.equal(logits(loaded, inputs), logits(network, inputs))


def test_the_table_names_every_layer_with_weights_and_every_quantizer(case):
    model, scheme = case
    kinds = [entry["kind"] for entry in layer_table(quantized(model, scheme)[1])]
    expected = {
        "mobilenetv1_025": {"convolution": 27, "linear": 1, "quantizer": 28},
        "coffee_cnn": {"convolution": 4, "linear": 3, "quantizer": 6},
        "dscnn": {"convolution": 9, "linear": 1, "quantizer": 10},
    }
    assert {kind: kinds.count(kind) for kind in set(kinds)} == expected[model]


def test_each_part_alone_is_a_network_and_all_but_the_finest_differ(case):
    model, scheme = case
    inputs = blurred_noise(8, 2, SHAPES[model])
    made = parts(quantized(model, scheme)[1], float_network(model), blurred_noise(16, 0, SHAPES[model]))
    assert tuple(made) == PARTS
    answers = {part: logits(network, inputs) for part, network in made.items()}
    for part in ("input", "weights", "activations", "all"):
        assert distance(answers[part], answers["none"]) < 0.5
    assert distance(answers["weights"], answers["none"]) > 1e-3
    # Images lie on the grid: their rounding changes nothing.
    assert distance(answers["input"], answers["none"]) < 1e-4


def test_only_training_drops_anything():
    network = float_network("coffee_cnn")
    dropouts = [layer for layer in network.modules() if isinstance(layer, Dropout)]
    assert [layer.probability for layer in dropouts] == [0.2, 0.5]
    brevitas, frozen = quantized("coffee_cnn", "int8")
    assert len([layer for layer in brevitas.modules() if isinstance(layer, Dropout)]) == 2
    inputs = blurred_noise(4, 2, SHAPES["coffee_cnn"])
    assert torch.equal(logits(frozen.train(), inputs), logits(frozen.eval(), inputs))
    assert not any("dropout" in name for name in frozen.state_dict())
    for trained in (network, brevitas):
        assert not torch.equal(logits(trained.train(), inputs), logits(trained.eval(), inputs))


def test_pooling_and_flattening_move_codes_and_change_none():
    layers = FrozenLayers(MEAN, STD, Format(8, 8))
    codes = Codes(torch.arange(32.0).view(1, 2, 4, 4) * 7 % 32, torch.tensor(0.1), 31)
    pooled = layers.max_pool(2)(codes)
    assert torch.equal(pooled.values, F.max_pool2d(codes.values, 2))
    assert torch.equal(layers.flatten()(pooled).integers, pooled.integers.reshape(1, 8))
    assert layers.flatten()(pooled)[1:] == codes[1:]
