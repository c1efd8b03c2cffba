"""Sizes of the models against published figures and hand counts."""

import pytest
import torch

from stages.models import coffee_cnn, dscnn, mobilenetv1_025, resnet8, resnet18, resnet20, tiny_cnn, vgg_small
from stages.models.footprint import footprint
from stages.models.layers import FloatLayers
from stages.quantization.formats import Format

COLOUR = (3, 32, 32)


def build(model, shape=COLOUR, classes=10):
    return model.network(FloatLayers((0.0,) * shape[0], 1.0), shape, classes)


def count(network, name):
    return sum(tensor.numel() for key, tensor in network.state_dict().items() if name in key)


def test_resnet8_has_the_published_parameters_and_operations():
    network = build(resnet8)
    cost = footprint(network, COLOUR)
    assert cost.parameters == 78_186
    assert cost.parameters + count(network, "running") == 78_666
    assert cost.macs == 12_501_632


def test_resnet20_has_the_papers_layers_and_two_projections():
    network = build(resnet20)
    cost = footprint(network, COLOUR)
    weights, channels = 3 * 16 * 9 + 6 * 16 * 16 * 9, 7 * 16  # the first layer and the first stage
    for width in (32, 64):
        weights += width // 2 * width * 9 + 5 * width * width * 9 + width // 2 * width
        channels += 6 * width
    biases = channels + 32 + 64  # of the shortcuts, which have no batch norm
    assert cost.parameters == weights + biases + 2 * channels + 64 * 10 + 10 == 273_066
    assert cost.macs == 40_813_184
    convolutions = [layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert len(convolutions) + 1 - 2 == 20


def test_resnet18_has_the_published_operations_and_biases_for_batch_norms_of_shortcuts():
    shape = (3, 224, 224)
    cost = footprint(build(resnet18, shape, 1000), shape)
    inner, shortcuts = 64 + 4 * (64 + 128 + 256 + 512), 128 + 256 + 512
    assert cost.parameters == 11_689_512 + inner + shortcuts - 2 * shortcuts == 11_692_520
    assert cost.macs == 1_814_073_344


def test_the_small_vgg_has_pairs_of_convolutions_and_no_residual_sums():
    cost = footprint(build(vgg_small), COLOUR)
    weights = sum(9 * read * made for read, made in [(3, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64)])
    channels = 2 * (16 + 32 + 64)
    assert cost.parameters == weights + 3 * channels + 64 * 10 + 10 == 73_178
    macs = sum(
        side**2 * 9 * (read * made + made * made) for side, read, made in [(32, 3, 16), (16, 16, 32), (8, 32, 64)]
    )
    assert cost.macs == macs + 640 == 9_880_192


def test_mobilenet_has_the_published_parameters_and_operations():
    network = build(mobilenetv1_025, (3, 96, 96), 2)
    cost = footprint(network, (3, 96, 96))
    assert cost.parameters + count(network, "running") == 221_794
    assert cost.macs == 7_489_664


def test_the_coffee_network_has_the_published_parameters_and_operations():
    cost = footprint(build(coffee_cnn, (3, 224, 224), 4), (3, 224, 224))
    assert cost.parameters == 250_436
    assert cost.macs == 31_363_200


@pytest.mark.parametrize("shape", [(1, 49, 10), (1, 1, 16_000)])
def test_the_keyword_spotter_has_the_published_parameters_and_operations(shape):
    network = build(dscnn, shape, 12)
    cost = footprint(network, shape)
    assert cost.parameters + count(network, "running") == 24_908
    assert cost.macs == 2_656_768
    # Before and after each convolution of a block 64 channels of 25x5; the features are small.
    assert footprint(network, shape, Format(8, 8)).peak_activation_bytes == 2 * 64 * 25 * 5


@pytest.mark.parametrize("model", [mobilenetv1_025, coffee_cnn, resnet8, resnet18, resnet20, tiny_cnn, vgg_small])
def test_every_network_fits_images_of_its_least_size_and_of_any_shape_above(model):
    height, width = model.MIN_SIZE
    for shape in [(3, height, width), (1, height + 13, width + 1)]:
        outputs = build(model, shape).eval()(torch.zeros(2, *shape))
        assert outputs.shape == (2, 10)


def test_the_coffee_network_has_no_position_left_below_its_least_size():
    with pytest.raises((RuntimeError, ZeroDivisionError)):
        build(coffee_cnn, (3, 139, 140))(torch.zeros(1, 3, 139, 140))


def test_weight_bytes_count_packed_weights_and_four_bytes_a_bias_and_scale():
    network = build(tiny_cnn)
    weights = [3 * 8 * 9, 8 * 16 * 9, 16 * 32 * 9, 32 * 10]
    channels = 8 + 16 + 32 + 10
    assert footprint(network, COLOUR).weight_bytes == 4 * (sum(weights) + channels)
    assert footprint(network, COLOUR, Format(8, 8)).weight_bytes == sum(weights) + 8 * channels
    first, *inner, last = weights
    assert footprint(network, COLOUR, Format(4, 4)).weight_bytes == first + sum(inner) // 2 + last + 8 * channels
    assert footprint(network, COLOUR, Format(1, 1)).weight_bytes == first + sum(inner) // 8 + last + 8 * channels


def test_peak_activations_of_a_chain_are_its_largest_neighbours():
    # 3x32x32 in and 8x16x16 out of the first convolution is the largest pair.
    assert footprint(build(tiny_cnn), COLOUR).peak_activation_bytes == 4 * (3 * 32 * 32 + 8 * 16 * 16)
    assert footprint(build(tiny_cnn), COLOUR, Format(8, 8)).peak_activation_bytes == 3 * 32 * 32 + 8 * 16 * 16
    assert footprint(build(tiny_cnn), COLOUR, Format(4, 4)).peak_activation_bytes == 3 * 32 * 32 + 8 * 16 * 16 // 2


def test_peak_activations_of_wide_formats_count_two_bytes_of_inputs_too():
    wide = Format(8, 16, input_bits=16, sum_bits=16)
    assert footprint(build(tiny_cnn), COLOUR, wide).peak_activation_bytes == 2 * (3 * 32 * 32 + 8 * 16 * 16)
    assert footprint(build(tiny_cnn), COLOUR, wide).weight_bytes == (
        footprint(build(tiny_cnn), COLOUR, Format(8, 8)).weight_bytes
    )


def test_peak_activations_of_a_pooled_network():
    shape = (3, 224, 224)
    network = build(coffee_cnn, shape, 4)
    # The image and the first convolution's output; the pools' and the linear layers' are far smaller.
    assert footprint(network, shape, Format(8, 8)).peak_activation_bytes == 3 * 224 * 224 + 32 * 55 * 55
    # At 4 bits an activation has half a byte a value, and an input still a whole one.
    grey = (1, 140, 140)
    peak = footprint(build(coffee_cnn, grey, 4), grey, Format(4, 4)).peak_activation_bytes
    assert peak == 1 * 140 * 140 + 32 * 34 * 34 // 2


def test_a_hidden_linear_layer_is_as_narrow_as_its_activation():
    class Hidden(torch.nn.Module):
        def __init__(self):
            super().__init__()
            layers = FloatLayers((0.0,), 1.0)
            self.input, self.convolution = layers.input(), layers.convolution(1, 1, 1, edge=True)
            self.activation1, self.pool, self.flatten = layers.activation(), layers.max_pool(2), layers.flatten()
            self.hidden, self.activation2 = layers.linear(4, 1000), layers.activation()
            self.dropout, self.last = layers.dropout(0.5), layers.linear(1000, 2, edge=True)

        def forward(self, inputs):
            pooled = self.flatten(self.pool(self.activation1(self.convolution(self.input(inputs)))))
            return self.last(self.dropout(self.activation2(self.hidden(pooled))))

    # 1000 values of half a byte, and two logits of one byte.
    assert footprint(Hidden(), (1, 4, 4), Format(4, 4)).peak_activation_bytes == 502


def test_peak_activations_of_a_residual_block_include_its_shortcut():
    # In the first block's second convolution its input, its output and the shortcut live, each 16x32x32.
    assert footprint(build(resnet8), COLOUR).peak_activation_bytes == 4 * 3 * 16 * 32 * 32
    # At 4 bits two of them have half a byte a value; the one that enters the sum has a whole byte.
    assert footprint(build(resnet8), COLOUR, Format(4, 4)).peak_activation_bytes == 2 * 16 * 32 * 32


def test_a_footprint_leaves_the_network_as_it_was():
    network = build(resnet8).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    footprint(network, COLOUR)
    assert network.training
    assert all((tensor == before[name]).all() for name, tensor in network.state_dict().items())


def test_shapes_other_than_colour_images_fit():
    for shape in [(1, 28, 28), (1, 8, 8)]:
        assert footprint(build(resnet8, shape), shape).macs > 0
