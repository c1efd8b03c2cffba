"""Sizes of the models against published figures and hand counts."""

from stages.models import resnet8, tiny_cnn
from stages.models.footprint import footprint
from stages.models.layers import FloatLayers
from stages.quantization.formats import Format

COLOUR = (3, 32, 32)


def build(model, shape=COLOUR):
    return model.network(FloatLayers((0.0,) * shape[0], 1.0), shape, 10)


def test_resnet8_has_the_published_parameters_and_operations():
    network = build(resnet8)
    cost = footprint(network, COLOUR)
    statistics = sum(buffer.numel() for name, buffer in network.named_buffers() if "running" in name)
    assert cost.parameters == 78_186
    assert cost.parameters + statistics == 78_666
    assert cost.macs == 12_501_632


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
