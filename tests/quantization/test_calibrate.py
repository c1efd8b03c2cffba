"""What calibration and bias correction do to a Brevitas network."""

import pytest
import torch

from stages.models import tiny_cnn
from stages.quantization.brevitas_layers import BrevitasLayers, LargestMagnitude
from stages.quantization.calibrate import calibrate, correct_bias
from stages.quantization.formats import Format
from tests.quantization.small_networks import MEAN, STD, images, in_layers, quantized_case


def coarse(bits):
    """A float network and the same one calibrated with coarse weights, and the calibration batches."""
    case = quantized_case("tiny_cnn", "int8")
    quantized = in_layers(tiny_cnn, BrevitasLayers(MEAN, STD, Format(bits, 8)))
    quantized.load_state_dict(case.network.state_dict(), strict=False)
    calibrate(quantized, case.calibration)
    return case.network, quantized, case.calibration


def mean_of_convolution3(network, batches):
    seen = []
    handle = network.convolution3.register_forward_hook(lambda _, __, output: seen.append(output.detach()))
    with torch.no_grad():
        for inputs in batches:
            network(inputs)
    handle.remove()
    return torch.cat(seen).mean((0, 2, 3))


def test_bias_correction_brings_a_layer_s_mean_output_back():
    network, quantized, batches = coarse(bits=3)
    expected = mean_of_convolution3(network, batches)
    before = (mean_of_convolution3(quantized, batches) - expected).abs().mean()
    correct_bias(quantized, batches)
    after = (mean_of_convolution3(quantized, batches) - expected).abs().mean()
    assert after < 0.5 * before


def test_activation_scales_cover_what_calibration_showed():
    network, quantized, batches = coarse(bits=8)
    with torch.no_grad():
        hidden = torch.cat([network.norm1(network.convolution1(network.input(inputs))) for inputs in batches])
    scale = quantized.activation1.act_quant.scale().item()
    assert 0.8 * hidden.max() < 255 * scale < 1.05 * hidden.max()


def test_activation_scales_of_16_bits_cover_all_that_calibration_showed():
    case = quantized_case("tiny_cnn", "int16x8")
    network, quantized = case.network, case.brevitas
    with torch.no_grad():
        inputs = [network.input(batch) for batch in case.calibration]
        largest = [network.norm1(network.convolution1(batch)).max().item() for batch in inputs]
    assert largest[0] != largest[1]
    assert 65535 * quantized.activation1.act_quant.scale().item() == pytest.approx(max(largest), rel=1e-5)


@pytest.mark.parametrize("magnitudes", [[1.0, 3.0, 2.0, 5.0], [4.0, 1.0, 1.0], [2.0]])
def test_the_mean_over_batches_of_what_brevitas_is_told_is_the_largest(magnitudes):
    statistic = LargestMagnitude()
    told = [statistic(torch.tensor([0.5, -magnitude])).item() for magnitude in magnitudes]
    assert sum(told) / len(told) == max(magnitudes)


def test_calibration_changes_no_weight_and_no_statistic():
    network, quantized, _ = coarse(bits=8)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, quantized.state_dict()[name]), name


def test_a_binary_network_is_calibrated_with_its_signs_on():
    case = quantized_case("tiny_cnn", "w1a1")
    inputs, _ = images("test", 20)
    with torch.no_grad():
        codes = case.brevitas.activation1(case.brevitas.norm1(case.brevitas.convolution1(case.brevitas.input(inputs))))
    assert set(codes.unique().tolist()) == {-1.0, 1.0}
    pooled = quantized_binary_scale()
    assert pooled <= 1.01 / 127  # the mean of signs is at most 1


def quantized_binary_scale():
    quantized = in_layers(tiny_cnn, BrevitasLayers(MEAN, STD, Format(1, 1)))
    quantized.load_state_dict(quantized_case("tiny_cnn", "int8").network.state_dict(), strict=False)
    calibrate(quantized, quantized_case("tiny_cnn", "int8").calibration)
    return quantized.pool.quantizer.act_quant.scale().item()
