"""Which layers share channels, found in every model, and networks with other numbers of them in all layer sets."""

from functools import partial
from importlib import import_module

import pytest
import torch
from torch import nn

from stages import plugins
from stages.artifacts.networks import build, groups_of
from stages.models.footprint import footprint
from stages.quantization.brevitas_layers import BrevitasLayers
from stages.quantization.channel_groups import hidden_groups, scaled, with_channels
from stages.quantization.freeze import freeze
from stages.quantization.recipes import post_training
from tests.quantization.small_networks import SHAPE, images

LEAST = {"coffee_cnn": (3, 140, 140), "dscnn": (1, 1, 16_000), "mobilenetv1_025": (3, 32, 32)}


def description(model, shape=SHAPE, **more):
    described = {"model": model, "format": None, "input_shape": shape, "classes": ["a"] * 10}
    return described | {"mean": [0.25] * shape[0], "std": 0.5} | more


def members(model):
    return {group.name: group.layers for group in groups_of(description(model, LEAST.get(model, SHAPE)))}


def test_both_summands_of_a_residual_sum_have_the_same_channels():
    assert members("resnet8") == {
        "convolution": ("convolution", "norm", "block1.convolution2", "block1.norm2"),
        "block1.convolution1": ("block1.convolution1", "block1.norm1"),
        "block2.convolution1": ("block2.convolution1", "block2.norm1"),
        "block2.convolution2": ("block2.convolution2", "block2.norm2", "block2.shortcut"),
        "block3.convolution1": ("block3.convolution1", "block3.norm1"),
        "block3.convolution2": ("block3.convolution2", "block3.norm2", "block3.shortcut"),
    }
    stage = [f"stage2.{block}.{layer}" for block in range(3) for layer in ("convolution2", "norm2")]
    assert set(members("resnet20")["stage2.0.convolution2"]) == {*stage, "stage2.0.shortcut"}
    assert len(members("resnet20")) == 3 + 9


def test_a_depthwise_convolution_has_the_channels_that_it_reads():
    found = members("mobilenetv1_025")
    assert found["convolution"] == ("convolution", "norm", "blocks.0.depthwise", "blocks.0.norm1")
    assert len(found) == 14
    assert members("dscnn")["blocks.3.pointwise"] == ("blocks.3.pointwise", "blocks.3.norm2")


def test_layers_in_a_row_have_their_own_and_a_channel_that_is_flattened_is_read_at_each_position():
    assert list(members("vgg_small")) == [f"stages.{stage}.convolution{one}" for stage in range(3) for one in (1, 2)]
    assert list(members("tiny_cnn")) == ["convolution1", "convolution2", "convolution3"]
    groups = {group.name: group for group in groups_of(description("coffee_cnn", (3, 224, 224)))}
    positions = build(description("coffee_cnn", (3, 224, 224))).linear1.in_features // 64
    assert positions > 1 and groups["convolution4"].readers == {"linear1": positions}
    assert groups["linear1"].readers == {"linear2": 1}


@pytest.mark.parametrize("model", plugins.names("models"))
def test_every_model_gets_wider_but_for_its_inputs_and_outputs(model):
    plain = description(model, LEAST.get(model, SHAPE))
    groups = groups_of(plain)
    networks = [build(plain), build(plain | {"channels": scaled(groups, 1.5)})]
    sizes = [
        {
            name: layer.weight.shape
            for name, layer in network.named_modules()
            if isinstance(layer, nn.Conv2d | nn.Linear)
        }
        for network in networks
    ]
    changed = {name for group in groups for name in group.layers}
    first, *_, last = sizes[0]
    assert sizes[0].keys() == sizes[1].keys()
    for name, before in sizes[0].items():
        assert sizes[1][name][0] == (1.5 * before[0] if name in changed else before[0])
    assert (first in changed) and (last not in changed) and sizes[1][first][1] == sizes[0][first][1]
    shape = plain["input_shape"]
    assert networks[1].eval()(torch.zeros(2, *shape)).shape == (2, 10)
    assert footprint(networks[1], shape).weight_bytes > 1.3 * footprint(networks[0], shape).weight_bytes


def test_numbers_of_channels_hold_in_float_in_brevitas_layers_and_frozen():
    channels = {"convolution": 5, "block1.convolution1": 3, "block3.convolution2": 70}
    described = description("resnet8", channels=channels, format={"weight_bits": 8, "activation_bits": 8})
    torch.manual_seed(0)
    inputs = images("test", 20)[0]
    network = post_training(lambda _: build(described, BrevitasLayers), None, [inputs]).network
    frozen = freeze(network, build(described), SHAPE)
    shapes = {name: tuple(tensor.shape) for name, tensor in build(described | {"format": None}).state_dict().items()}
    for made in (network, frozen):
        weights = {name: tuple(tensor.shape) for name, tensor in made.state_dict().items() if name in shapes}
        assert len(weights) > 20
        assert all(shapes[name] == shape for name, shape in weights.items())
    assert shapes["block1.convolution2.weight"] == (5, 3, 3, 3) and shapes["classifier.weight"] == (10, 70)
    with torch.no_grad():
        assert torch.equal(frozen(inputs).argmax(1), network(inputs).argmax(1))


def test_a_description_without_channels_makes_what_it_made():
    for more in ({}, {"channels": {}}, {"channels": {"convolution2": 16}}):
        torch.manual_seed(1)
        found = build(description("tiny_cnn", **more)).state_dict()
        torch.manual_seed(1)
        expected = import_module("stages.models.tiny_cnn").network
        layers = import_module("stages.models.layers").FloatLayers([0.25], 0.5)
        for name, tensor in expected(layers, SHAPE, 10).state_dict().items():
            assert torch.equal(found[name], tensor)


@pytest.mark.parametrize(
    ("channels", "sentence"),
    [
        ({"block1.convolution2": 8}, "channels.block1.convolution2: has those of 'convolution', expected that name"),
        ({"block1.convolutoin1": 8}, "is no group of channels, did you mean 'block1.convolution1'?"),
        ({"classifier": 8}, "channels.classifier: is no group of channels"),
        ({"convolution": 0}, "channels.convolution: 0, expected 1 or more"),
    ],
)
def test_channels_that_cannot_be_are_refused(channels, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(description("resnet8", channels=channels))


class Chain(nn.Module):
    """Two convolutions, and between them whatever is asked."""

    def __init__(self, layers, between, groups=1):
        super().__init__()
        self.input, self.first = layers.input(), layers.convolution(1, 4, 3)
        self.second, self.sum = layers.convolution(4, 8, 3, groups=groups), layers.sum()
        self.third = layers.convolution(4, 4, 3)
        self.between = between

    def forward(self, inputs):
        return self.between(self, self.first(self.input(inputs)))


@pytest.mark.parametrize(
    ("between", "groups", "sentence"),
    [
        (lambda network, hidden: network.second(torch.relu(hidden)), 1, "layer first: what the model does with"),
        (lambda network, hidden: network.second(hidden * 2), 1, "layer first: what the model does with"),
        (lambda network, hidden: network.second(hidden.mean(2)), 1, "layer first: what the model does with"),
        (lambda network, hidden: network.sum(hidden, network.second(hidden)), 1, "layer sum: adds 4 channels to 8"),
        (lambda network, hidden: network.second(hidden), 2, "layer second: 2 groups give 8 outputs of 4 inputs"),
        (lambda network, hidden: network.third(network.second(hidden)), 1, "layer third: takes 4 channels, expected 8"),
        (lambda network, hidden: network.third(network.third(hidden)), 1, "layer third: is passed twice, expected"),
    ],
)
def test_what_channels_cannot_be_followed_through_is_refused_with_the_layer(between, groups, sentence):
    with pytest.raises(ValueError, match=sentence):
        hidden_groups(partial(Chain, between=between, groups=groups), (1, 8, 8))


def test_a_model_that_names_its_arguments_gets_wider_too():
    class Named(nn.Module):
        def __init__(self, layers):
            super().__init__()
            self.first = layers.convolution(channels_in=1, channels_out=4, kernel_size=3, edge=True)
            self.input, self.last = layers.input(), layers.convolution(kernel_size=3, channels_out=2, channels_in=4)

        def forward(self, inputs):
            return self.last(self.first(self.input(inputs)))

    layers = import_module("stages.models.layers").FloatLayers([0.0], 1.0)
    network = with_channels(Named, (1, 8, 8), {"first": 6})(layers)
    assert network.last.weight.shape == (2, 6, 3, 3) and network.first.weight.shape == (6, 1, 3, 3)
