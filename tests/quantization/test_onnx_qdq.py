"""Exported networks in ONNX Runtime against frozen ones, what their files hold, and what cannot be exported."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from stages import plugins
from stages.models.mfcc import CLIP, FEATURES
from stages.quantization.agreement import RuntimeNetwork, disagreements
from stages.quantization.formats import Format
from stages.quantization.frozen_layers import FrozenBatchNorm, FrozenConvolution, FrozenLayers, FrozenLinear
from stages.quantization.onnx_qdq import front_end_of, to_onnx
from tests.quantization.random_networks import CLASSES, random_images, random_network

SHAPES = {
    "tiny_cnn": (1, 16, 16),
    "resnet8": (3, 16, 16),
    "resnet20": (3, 8, 8),
    "mobilenetv1_025": (3, 32, 32),
    "dscnn": (3, 20, 10),
    "coffee_cnn": (3, 140, 140),
    "vgg_small": (3, 16, 16),
    "resnet18": (3, 32, 32),
}
FORMATS = {
    "int8": Format(8, 8),
    "int16x8": Format(8, 16, input_bits=16, sum_bits=16),
    "w5a12": Format(5, 12, sum_bits=10, edge_bits=6),
    "w4a4": Format(4, 4),
    "w3a2": Format(3, 2, sum_bits=4),
    "w2a2": Format(2, 2),
    "ternary": Format("ternary", 2),
    "w1a1": Format(1, 1),
    "stochastic_binary": Format("stochastic_binary", 1),
    "mixed": Format(4, 8, layers={"block1.convolution1": 2, "block1.activation1": 1, "block2.sum": 3, "pool": 5}),
}
CASES = [
    *((model, scheme) for model in SHAPES for scheme in ("int8", "w2a2")),
    *(("resnet8", scheme) for scheme in FORMATS if scheme not in ("int8", "w2a2")),
    *(("coffee_cnn", scheme) for scheme in ("int16x8", "w1a1")),
]


def exported(network, shape):
    return to_onnx(network, shape, CLASSES, {})


def run(model, inputs):
    return RuntimeNetwork(model.SerializeToString(), threads=1)(inputs)


def constants(model):
    """The arrays that a file holds, by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_every_model_is_exported():
    assert set(SHAPES) == set(plugins.names("models"))


@pytest.mark.parametrize(("model", "scheme"), CASES)
def test_the_runtime_predicts_what_the_frozen_network_does(model, scheme):
    shape = SHAPES[model]
    network = random_network(model, FORMATS[scheme], shape)
    inputs = random_images(shape, 4 if model == "coffee_cnn" else 16)
    with torch.no_grad():
        expected = network(inputs)
    found = run(exported(network, shape), inputs)
    assert expected.std(0).min() > 0.01  # images make a difference
    assert torch.equal(found.argmax(1), expected.argmax(1))
    # But for activations near the middle between two integers, logits are the same to float32; of 65536 integers, two
    # are near enough for many to miss by one.
    difference = (found - expected).abs().amax(1) / expected.std()
    assert difference.median() < (1e-2 if FORMATS[scheme].activation_bits > 8 else 1e-4)
    assert difference.max() < 0.1


class Small(nn.Module):
    """Two linear layers with something in between, on 16 levels: input codes are the integers of its logits."""

    def __init__(self, layers):
        super().__init__()
        self.input, self.flatten = layers.input(), layers.flatten()
        self.linear = layers.linear(16, 16)
        self.between = layers.activation()
        self.classifier = layers.linear(16, 16)
        with torch.no_grad():
            for layer in (self.linear, self.classifier):
                layer.weight.copy_(torch.eye(16))

    def forward(self, inputs):
        return self.classifier(self.between(self.linear(self.flatten(self.input(inputs)))))


def small(format, mean=0.0):
    return Small(FrozenLayers((mean,), 1 / 255, format)).eval()


def levels(*values):
    return (torch.tensor(values) / 255).view(1, 1, 1, 16)


def as_frozen(network, inputs):
    """What the runtime makes of a small network, which is the frozen one's bit for bit."""
    with torch.no_grad():
        expected = network(inputs)
    found = to_onnx(network, (1, 1, 16), 16, {})
    assert torch.equal(run(found, inputs), expected)
    return expected.flatten().tolist()


def test_halves_are_rounded_to_even_and_large_values_cut():
    network = small(Format(8, 4))
    network.between.quantizer.scale.fill_(2)
    found = as_frozen(network, levels(0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 29, 30, 31, 33, 255))
    assert found == [0, 0, 2, 4, 4, 4, 6, 8, 8, 12, 12, 28, 30, 30, 30, 30]


def test_the_sign_of_zero_is_positive():
    found = as_frozen(small(Format(8, 1), mean=3 / 255), levels(*range(16)))
    assert found == [-1] * 3 + [1] * 13


def test_inputs_are_rounded_to_the_grid_and_centred_on_the_mean():
    network = small(Format(8, 8), mean=10 / 255)
    network.linear.bias.fill_(20)
    found = as_frozen(network, levels(0, 0.4, 0.6, 1, 1.4, 1.6, 10, 11, 12, 13, 20, 200, 254.4, 254.6, 255, 300))
    assert found == [10, 10, 11, 11, 11, 12, 20, 21, 22, 23, 30, 210, 255, 255, 255, 255]


def test_sums_are_exact_where_the_processor_adds_two_products_in_16_bits():
    network = small(Format(8, 8))
    with torch.no_grad():
        network.classifier.weight.fill_(127)  # the classifier is what ONNX Runtime has an integer kernel for
    assert as_frozen(network, levels(*[200, 250] * 8)) == [127 * 16 * 225] * 16


@pytest.mark.parametrize("model", ["resnet8", "coffee_cnn"])
@pytest.mark.parametrize("scheme", ["int8", "int16x8", "w4a4", "w1a1"])
def test_operators_stand_between_pairs_and_weights_are_integers(model, scheme):
    network = random_network(model, FORMATS[scheme], SHAPES[model])
    model = exported(network, SHAPES[model])
    graph = model.graph
    found, made_by = constants(model), {node.output[0]: node for node in graph.node}
    weighted = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(weighted) == sum(isinstance(layer, FrozenConvolution | FrozenLinear) for layer in network.modules())
    for node in weighted:
        values, weight = (made_by[name] for name in node.input)
        assert (values.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        integers, scale, zero = (found[name] for name in weight.input)
        assert integers.dtype == zero.dtype == np.int8 and scale.dtype == np.float32 and not zero.any()
        assert (
            scale.shape == (len(integers),)
            and (scale > 0).all()
            and onnx.helper.get_node_attr_value(weight, "axis") == 0
        )
    largest = max(array.size for array in found.values() if array.dtype == np.float32)
    assert largest <= max(len(layer.weight) for layer in network.modules() if isinstance(layer, FrozenConvolution))
    rounded = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    readers = {name: node.op_type for node in graph.node for name in node.input}
    assert all(readers[node.output[0]] == "DequantizeLinear" for node in rounded)
    types = {found[node.input[2]].dtype.name for node in rounded}
    assert types <= ({"uint8", "int8"} if scheme != "int16x8" else {"uint16", "int16"})


def test_integers_are_the_frozen_network_s_but_for_the_sign_of_a_negative_batch_norm():
    network = random_network("tiny_cnn", FORMATS["int8"], SHAPES["tiny_cnn"])
    network.norm2.weight[3] = 0
    found = constants(exported(network, SHAPES["tiny_cnn"]))
    frozen, norm = network.convolution2, network.norm2
    factor = (norm.weight / torch.sqrt(norm.running_var + norm.epsilon)).numpy()
    assert (factor < 0).any() and (factor > 0).any()
    signs = np.sign(factor)[:, None, None, None]
    assert np.array_equal(found["convolution2.weight"], frozen.weight.numpy() * signs)
    scale = np.where(factor == 0, 1, np.abs(factor) * frozen.weight_scale.numpy())
    np.testing.assert_allclose(found["convolution2.weight.scale"], scale, rtol=1e-6)
    bias = (frozen.bias.numpy() - norm.running_mean.numpy()) * factor + norm.bias.numpy()
    np.testing.assert_allclose(found["convolution2.bias"].ravel(), bias, rtol=1e-5, atol=1e-6)
    assert np.array_equal(found["classifier.weight"], network.classifier.weight.numpy())


@pytest.mark.parametrize(("scheme", "opset"), [("int8", 13), ("w1a1", 13), ("w5a12", 21), ("int16x8", 21)])
def test_files_ask_for_no_newer_operators_than_they_need(scheme, opset):
    model = exported(random_network("tiny_cnn", FORMATS[scheme], SHAPES["tiny_cnn"]), SHAPES["tiny_cnn"])
    assert [(one.domain, one.version) for one in model.opset_import] == [("", opset)]


def test_exporting_changes_no_network_and_gives_the_same_bytes():
    network = random_network("tiny_cnn", FORMATS["w4a4"], SHAPES["tiny_cnn"])
    inputs = random_images(SHAPES["tiny_cnn"], 3)
    before = network(inputs)
    first, second = (exported(network, SHAPES["tiny_cnn"]).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
    assert torch.equal(network(inputs), before)


def test_a_network_that_hears_is_exported_behind_its_front_end():
    network = random_network("dscnn", FORMATS["int8"], CLIP)
    generator = torch.Generator().manual_seed(0)
    clips = 0.5 + 0.1 * torch.randn(6, *CLIP, generator=generator).cumsum(-1).remainder(1).sub(0.5)
    with torch.no_grad():
        expected, features = network(clips), front_end_of(network)(clips)
    assert features.shape[1:] == FEATURES
    found = run(exported(network, FEATURES), features)
    assert torch.allclose(found, expected, atol=1e-4)


def test_a_damaged_weight_is_found_and_each_disagreement_listed():
    shape = SHAPES["tiny_cnn"]
    network, inputs = random_network("tiny_cnn", FORMATS["int8"], shape), random_images(shape, 40)
    model = exported(network, shape)
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "convolution2.weight")
    integers = numpy_helper.to_array(weight).copy()
    integers[:, :4] = -integers[:, :4]
    weight.CopyFrom(numpy_helper.from_array(integers, weight.name))
    with torch.no_grad():
        expected = network(inputs)
    found = run(model, inputs)
    samples = list(range(100, 140))
    listed = disagreements(expected, found, samples)
    different = expected.argmax(1) != found.argmax(1)
    assert [row["sample"] for row in listed] == [100 + index for index in different.nonzero().flatten().tolist()]
    assert 0 < len(listed) < 40
    for row in listed:
        for name, logits in (("frozen", expected), ("exported", found)):
            own = logits[row["sample"] - 100]
            assert row[name] == own.argmax()
            others = torch.cat([own[: row[name]], own[row[name] + 1 :]])
            assert (
                row[f"{name}_margin"] == pytest.approx((own.max() - others.max()).item()) and row[f"{name}_margin"] > 0
            )


def test_equal_predictions_are_no_disagreement_whatever_the_logits():
    logits = torch.tensor([[1.0, 2.0], [4.0, 3.0]])
    assert disagreements(logits, 3 * logits, [0, 1]) == []


def test_a_weight_whose_sign_cannot_change_is_refused_by_layer():
    network = random_network("tiny_cnn", FORMATS["int8"], SHAPES["tiny_cnn"])
    network.norm2.weight[0] = -1
    network.convolution2.weight[0, 0, 0, 0] = -128
    with pytest.raises(ValueError, match="layer convolution2: a weight of -128 changes its sign"):
        exported(network, SHAPES["tiny_cnn"])


class Square(nn.Module):
    def forward(self, codes):
        return codes


def test_a_layer_without_a_form_in_onnx_is_refused_by_name():
    network = small(Format(8, 8))
    network.between = Square()
    with pytest.raises(ValueError, match="layer between: Square has no form in ONNX QDQ, expected one of"):
        exported(network, (1, 1, 16))


def test_batch_norm_that_cannot_be_folded_is_refused():
    network = small(Format(8, 8))
    network.flatten = FrozenBatchNorm(1)
    with pytest.raises(ValueError, match="layer flatten: batch norm follows no layer with weights"):
        exported(network, (1, 1, 16))


def test_a_model_that_computes_something_itself_is_refused():
    class Own(Small):
        def forward(self, inputs):
            return super().forward(inputs) * 2

    network = Own(FrozenLayers((0.0,), 1 / 255, Format(8, 8)))
    with pytest.raises(ValueError, match=r"Own: computes something itself .*, expected it to hand values to layers"):
        exported(network, (1, 1, 16))
