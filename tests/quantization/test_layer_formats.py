"""Formats of single layers, in all layer sets, and what they count for."""

import pytest
import torch

from stages.models import resnet8, tiny_cnn
from stages.models.footprint import footprint
from stages.models.layers import FloatLayers
from stages.quantization.brevitas_layers import BrevitasLayers
from stages.quantization.calibrate import settle_batch_norm
from stages.quantization.formats import Format
from stages.quantization.freeze import layer_table
from stages.quantization.frozen_layers import FrozenLayers, FrozenSign, check_exact
from tests.quantization.small_networks import MEAN, SHAPE, STD, images, in_format, in_layers, make_case

MAP = {
    "block1.convolution1": "ternary",
    "block1.activation1": 2,
    "block2.shortcut": 1,
    "block2.sum": 5,
    "pool": 6,
    "classifier": 3,
}


def test_each_layer_has_the_width_of_its_name_and_the_others_the_format_s():
    frozen = in_format(resnet8, FrozenLayers, Format(4, 4, layers=MAP))
    plain = {entry["layer"]: entry["bits"] for entry in layer_table(in_format(resnet8, FrozenLayers, Format(4, 4)))}
    found = {entry["layer"]: entry["bits"] for entry in layer_table(frozen)}
    expected = {
        "block1.convolution1": 2,
        "block1.activation1.quantizer": 2,
        "block2.shortcut": 1,
        "block2.sum.quantizer": 5,
        "pool.quantizer": 6,
        "classifier": 3,
    }
    assert found == plain | expected
    assert frozen.state_dict().keys() == in_layers(resnet8, FrozenLayers(MEAN, STD, Format(4, 4))).state_dict().keys()
    assert frozen.block3.sum.quantizer.bits == 8 and frozen.convolution.bits == 8
    check_exact(frozen, SHAPE)


def test_a_format_without_names_makes_what_the_layer_set_makes():
    torch.manual_seed(3)
    expected = in_layers(tiny_cnn, BrevitasLayers(MEAN, STD, Format(4, 4)))
    torch.manual_seed(3)
    found = in_format(tiny_cnn, BrevitasLayers, Format(4, 4))
    assert list(found.state_dict()) == list(expected.state_dict())
    assert all(torch.equal(found.state_dict()[name], tensor) for name, tensor in expected.state_dict().items())


def test_a_sign_among_other_activations_gives_the_pooled_features_a_sign():
    frozen = in_format(tiny_cnn, FrozenLayers, Format(4, 4, layers={"activation3": 1}))
    assert isinstance(frozen.activation3, FrozenSign) and not isinstance(frozen.activation2, FrozenSign)
    assert frozen.pool.quantizer.signed
    assert not in_format(tiny_cnn, FrozenLayers, Format(4, 4, layers={"activation3": 2})).pool.quantizer.signed
    assert not in_format(tiny_cnn, FrozenLayers, Format(4, 4, layers={"convolution3": 1})).pool.quantizer.signed


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ({"block1.convolutoin1": 4}, "no such layer with a width, did you mean 'block1.convolution1'"),
        ({"block1.norm1": 4}, r"layers.block1.norm1: the model has no such layer"),
        ({"zzz": 4}, r"expected one of: input, convolution, activation, block1.convolution1"),
        ({"block1.activation1": "ternary"}, r"layers.block1.activation1: 'ternary' is no width of this activation"),
        (
            {"block1.convolution1": 9},
            r"layers.block1.convolution1: 9 is no width of this convolution, expected one of: 1,",
        ),
        ({"block1.sum": 1}, r"layers.block1.sum: 1 is no width of this sum"),
        ({"input": 4}, r"layers.input: 4 is no width of this input, expected one of: 8, 16"),
    ],
)
def test_a_layer_or_a_width_that_cannot_be_is_refused(layers, sentence):
    with pytest.raises(ValueError, match=sentence):
        in_format(resnet8, FrozenLayers, Format(4, 4, layers=layers))


def test_the_bytes_of_each_layer_count_at_its_width():
    network = in_layers(tiny_cnn, FloatLayers(MEAN, STD))
    weights = [layer.weight.numel() for layer in (network.convolution1, network.convolution2, network.convolution3)]
    weights.append(network.classifier.weight.numel())
    format = Format(4, 4, edge_bits=6, layers={"convolution2": "ternary", "convolution3": 1, "classifier": 5})
    bits = [6, 2, 1, 5]
    expected = sum(-(-count * width // 8) for count, width in zip(weights, bits, strict=True)) + 8 * (8 + 16 + 32 + 10)
    assert footprint(network, SHAPE, format).weight_bytes == expected


def test_the_largest_activation_counts_at_its_width():
    network = in_layers(tiny_cnn, FloatLayers(MEAN, STD))
    # 28 * 28 inputs of 8 bits, and 8 channels of 14 * 14.
    for bits in (2, 7):
        format = Format(4, 4, layers={"activation1": bits})
        assert footprint(network, SHAPE, format).peak_activation_bytes == 28 * 28 + 8 * 14 * 14 * bits // 8
    wide = Format(4, 4, layers={"input": 16})
    assert footprint(network, SHAPE, wide).peak_activation_bytes == 2 * 28 * 28 + 8 * 14 * 14 // 2


CASES = {
    "w8a8": {"weights": 8, "activations": 8},
    "w4a8": {"weights": 4, "activations": 8},
    "w3a3": {"weights": 3, "activations": 3},
    "w2a2": {"weights": 2, "activations": 2},
    "ternary": {"weights": "ternary", "activations": 2},
    "stochastic_ternary": {"weights": "stochastic_ternary", "activations": 4},
    "stochastic_binary": {"weights": "stochastic_binary", "activations": 4},
    "map": {
        "weights": 6,
        "activations": 5,
        "edges": "ternary",
        "sums": 6,
        "layers": {"convolution2": 1, "activation1": 1, "activation2": 3, "classifier": 7},
    },
}


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_frozen_networks_of_every_width_are_those_that_were_trained(settings):
    case, (inputs, labels) = (
        make_case("tiny_cnn", "qat", epochs=2, learning_rate=0.01, **settings),
        images("test", 1000),
    )
    with torch.no_grad():
        expected, frozen = (network(inputs) for network in (case.brevitas, case.frozen))
    assert (expected.argmax(1) == frozen.argmax(1)).float().mean() >= 0.999
    assert ((expected - frozen).abs().amax(1) < 1e-4).float().mean() > 0.95
    assert (frozen.argmax(1) == labels).float().mean() > 0.5  # it has learned
    leaf = inputs[:50].clone().requires_grad_()
    case.frozen(leaf).logsumexp(1).sum().backward()
    assert (leaf.grad.flatten(1).norm(dim=1) > 0).float().mean() > 0.9


def test_statistics_of_batch_norm_are_those_of_what_is_frozen():
    settings = {"weights": "stochastic_binary", "activations": 8, "epochs": 1, "learning_rate": 0.01}
    case = make_case("tiny_cnn", "qat", **settings)
    network, inputs = case.brevitas, torch.cat(case.calibration)
    network.norm2.running_mean += 5
    network.norm2.running_var *= 3
    settle_batch_norm(network, case.calibration)
    assert not network.training and network.norm2.momentum == 0.1
    with torch.no_grad():
        hidden = network.convolution2(network.activation1(network.norm1(network.convolution1(network.input(inputs)))))
    # Not to the last digit: while they are taken, the layer before normalises by those of each batch.
    for name, expected in (("running_mean", hidden.mean((0, 2, 3))), ("running_var", hidden.var((0, 2, 3)))):
        assert torch.allclose(getattr(network.norm2, name), expected, rtol=0.05, atol=0.01)
        assert torch.allclose(getattr(network.norm2, name), getattr(case.frozen.norm2, name), rtol=1e-4, atol=1e-5)
