"""Dropout in networks that were trained without it: exact in integers, unbiased, where it was asked for."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stages.defenses.dropout_passes import DropoutPasses, calls, multiply_accumulates
from stages.models import coffee_cnn
from stages.models.footprint import footprint
from stages.models.layers import FloatLayers
from stages.quantization.frozen_layers import Codes, FrozenLayers
from stages.schemes import int8
from tests.attacks.linear import LinearNetwork
from tests.quantization.small_networks import SHAPE, images, quantized_case

RATE = 0.25
LAYERS = {"resnet8": ["activation", "block1", "block2", "block3"], "tiny_cnn": [f"activation{n}" for n in (1, 2, 3)]}


def network(model="resnet8", scheme="int8"):
    return quantized_case(model, scheme).frozen


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Outputs:
    """What modules give out after the dropout's hooks, which ran before this one."""

    def __init__(self, network, *names):
        self.found = {}
        self.handles = [network.get_submodule(name).register_forward_pre_hook(self.keep(name)) for name in names]

    def keep(self, name):
        def hook(module, inputs):
            self.found[name] = inputs[0]

        return hook

    def __enter__(self):
        return self.found

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()


@pytest.mark.parametrize("scheme", ["int8", "w4a4", "w1a1"])
def test_a_dropped_activation_is_the_zero_point_and_the_rest_keep_their_integers(scheme):
    frozen, inputs = network("tiny_cnn", scheme), images("test", 8)[0]
    passes = DropoutPasses(frozen, ["activation2"], RATE, SHAPE)
    with Outputs(frozen, "convolution3") as plain:
        frozen(inputs)
    with Outputs(frozen, "convolution3") as dropped, passes.of(frozen, 3, generator()):
        frozen(inputs)
    before, after = plain["convolution3"], dropped["convolution3"]
    integers = before.integers.repeat(3, 1, 1, 1)
    kept = after.integers != 0
    assert torch.equal(after.integers[kept], integers[kept])
    draws = torch.rand(integers.shape, generator=generator()) >= RATE
    assert torch.equal(after.integers, torch.where(draws, integers, 0))
    assert after.largest == before.largest and after.scale == before.scale / (1 - RATE)


def test_sums_are_those_of_the_kept_integers_scaled_once():
    frozen, inputs = network("tiny_cnn", "w4a4"), images("test", 8)[0]
    passes, layer = DropoutPasses(frozen, ["activation2"], RATE, SHAPE), frozen.convolution3
    outputs = {}
    handle = layer.register_forward_hook(lambda module, given, output: outputs.update(given=given[0], output=output))
    try:
        with passes.of(frozen, 2, generator()):
            frozen(inputs)
    finally:
        handle.remove()
    codes = outputs["given"]
    sums = F.conv2d(codes.integers.long().double(), layer.weight.double(), None, layer.stride, layer.padding)
    assert torch.equal(sums, sums.round()) and sums.abs().max() < 2**24
    scale = layer.weight_scale * codes.scale
    expected = sums.float() * scale.view(-1, 1, 1) + layer.bias.view(-1, 1, 1)
    assert torch.equal(outputs["output"], expected)


def test_the_mean_over_many_passes_is_the_network_where_it_is_linear():
    values = torch.Size((1, 4, 4)).numel()
    linear = nn.Sequential(nn.Flatten(), nn.Linear(values, 3))
    inputs = torch.rand(2, 1, 4, 4, generator=generator(1))
    passes = DropoutPasses(linear, ["0"], 0.5, (1, 4, 4))
    with torch.no_grad(), passes.of(linear, 40_000, generator()):
        logits = linear(inputs).unflatten(0, (-1, 2))
    error = logits.std(0) / 200  # of the mean
    assert ((logits.mean(0) - linear(inputs)).abs() < 4 * error).all()
    assert (logits.std(0) > 10 * (logits.mean(0) - linear(inputs)).abs()).all()


@pytest.mark.parametrize("model", LAYERS)
@pytest.mark.parametrize("frozen", [True, False])
def test_layers_are_found_by_what_they_are(model, frozen):
    case = quantized_case(model, "int8")
    net = case.frozen if frozen else case.network
    assert DropoutPasses(net, ["last_hidden"], RATE, SHAPE).layers == ["pool"]
    assert DropoutPasses(net, ["activations"], RATE, SHAPE).layers == LAYERS[model]
    both = DropoutPasses(net, ["pool", LAYERS[model][1]], RATE, SHAPE)
    assert both.layers == [LAYERS[model][1], "pool"]


@pytest.mark.parametrize("layers", [FloatLayers((0.5,), 0.25), FrozenLayers((128 / 255,), 0.25, int8.FORMAT)])
def test_a_networks_own_dropout_is_no_second_place(layers):
    net = coffee_cnn.network(layers, (1, 140, 140), 4).eval()
    assert DropoutPasses(net, ["activations"], RATE, (1, 140, 140)).layers == [f"activation{n}" for n in range(1, 7)]
    assert DropoutPasses(net, ["last_hidden"], RATE, (1, 140, 140)).layers == ["activation6"]


def test_a_last_layer_that_reads_no_modules_output_has_no_place_before_it():
    linear = LinearNetwork(torch.ones(3, 16), torch.zeros(3))
    with pytest.raises(ValueError, match="'last_hidden' is no module's output in this network"):
        DropoutPasses(linear, ["last_hidden"], RATE, (1, 4, 4))


def test_nothing_before_the_first_layer_is_run_again():
    frozen, inputs = network(), images("test", 4)[0]
    rows = {}
    handles = [
        getattr(frozen, name).register_forward_pre_hook(lambda module, given, name=name: rows.update({name: given[0]}))
        for name in ("block2", "block3", "classifier")
    ]
    try:
        with DropoutPasses(frozen, ["block2"], RATE, SHAPE).of(frozen, 5, generator()):
            frozen(inputs)
    finally:
        for handle in handles:
            handle.remove()
    assert {name: len(codes.integers) for name, codes in rows.items()} == {"block2": 4, "block3": 20, "classifier": 20}


def test_the_network_is_as_it_was_outside():
    frozen, inputs = network(), images("test", 4)[0]
    before = frozen(inputs)
    with pytest.raises(KeyError), DropoutPasses(frozen, ["activations"], RATE, SHAPE).of(frozen, 2, generator()):
        assert len(frozen(inputs)) == 8
        raise KeyError
    assert torch.equal(frozen(inputs), before)


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        (["block1.activation1"], "'block1.activation1' is on one branch of several"),
        (["blok1"], "'blok1' is no layer of the network, expected one of: last_hidden, activations, input, "),
        ([], "names none, expected some where the rate is above 0"),
    ],
)
def test_impossible_layers_are_refused(layers, sentence):
    with pytest.raises(ValueError, match=sentence):
        DropoutPasses(network(), layers, RATE, SHAPE)


def test_a_layer_on_a_branch_may_follow_the_first():
    frozen, inputs = network(), images("test", 4)[0]
    passes = DropoutPasses(frozen, ["activation", "block1.activation1"], RATE, SHAPE)
    with passes.of(frozen, 3, generator()):
        assert frozen(inputs).shape == (12, 10)


def test_multiply_accumulates_are_those_of_the_footprint():
    case = quantized_case("resnet8", "int8")
    expected = footprint(case.network, SHAPE).macs
    for net in (case.network, case.frozen):
        assert multiply_accumulates(calls(net, torch.zeros(1, *SHAPE))) == expected
    assert isinstance(calls(case.frozen, torch.zeros(1, *SHAPE))[0].output, Codes)
