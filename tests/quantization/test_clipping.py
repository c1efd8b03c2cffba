"""Activation scales at which rounding errs least."""

import pytest
import torch

from stages.models import tiny_cnn
from stages.quantization.brevitas_layers import BrevitasLayers
from stages.quantization.calibrate import calibrate
from stages.quantization.clipping import SHARES, clip_activations
from stages.quantization.formats import Format
from stages.quantization.recipes import quantization_aware
from tests.quantization.small_networks import MEAN, STD, in_layers, make_case, quantized_case


def calibrated(activations):
    """A network of 8-bit weights and activations of these bits, calibrated, the float one and calibration batches."""
    case = quantized_case("tiny_cnn", "int8")
    quantized = in_layers(tiny_cnn, BrevitasLayers(MEAN, STD, Format(8, activations)))
    quantized.load_state_dict(case.network.state_dict(), strict=False)
    calibrate(quantized, case.calibration)
    return quantized, case.network, case.calibration


def scale_of(quantized):
    return quantized.activation1.act_quant.scale().item()


@pytest.mark.parametrize("activations", [2, 4])
def test_no_other_share_of_the_calibrated_scale_errs_less(activations):
    quantized, network, batches = calibrated(activations)
    before = scale_of(quantized)
    clip_activations(quantized, batches)
    with torch.no_grad():
        hidden = torch.cat([network.norm1(network.convolution1(network.input(inputs))) for inputs in batches]).relu()

    def error(share):
        scale = share * before
        rounded = (hidden / scale).round().clamp(max=2**activations - 1) * scale
        return (rounded - hidden).square().mean().item()

    best = min(SHARES.tolist(), key=error)
    # The 8-bit weights before it move its values a little, and with them a flat minimum.
    assert error(scale_of(quantized) / before) == pytest.approx(error(best), rel=0.01)
    assert scale_of(quantized) < 0.9 * before


def test_with_two_bits_the_network_stays_nearer_to_the_float_one():
    quantized, network, batches = calibrated(2)
    inputs = torch.cat(batches)

    def error():
        with torch.no_grad():
            return (quantized(inputs) - network(inputs)).square().mean().item()

    before = error()
    clip_activations(quantized, batches)
    assert error() < 0.7 * before


def test_only_activation_scales_change_and_no_hook_stays():
    quantized, _, batches = calibrated(4)
    before = {name: tensor.clone() for name, tensor in quantized.state_dict().items()}
    clip_activations(quantized, batches)
    changed = {name for name, tensor in quantized.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and all(name.endswith("scaling_impl.value") for name in changed)
    assert not any(module._forward_pre_hooks for module in quantized.modules())


@pytest.mark.parametrize(
    "scheme, settings", [("qat", {"weights": 4, "activations": 2}), ("mixed", {"budget": 3000, "activations": 2})]
)
def test_an_untrained_network_has_no_activations_to_fit_scales_to():
    with pytest.raises(ValueError, match="scales: least_squares fits those of a trained network, expected percentile"):
        quantization_aware(
            None, Format(2, 2), [], None, epochs=1, learning_rate=0.1, channels={}, scales="least_squares"
        )


def test_a_scheme_starts_from_the_scales_that_it_is_told(scheme, settings):
    def start(scales):
        case = make_case("tiny_cnn", scheme, epochs=1, learning_rate=1e-9, scales=scales, **settings)
        return scale_of(case.brevitas)

    assert start("least_squares") < start("percentile")
