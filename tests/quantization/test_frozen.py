"""The frozen integer network against Brevitas, against itself in other batches, and as integers in memory."""

import brevitas.nn as qnn
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from stages.quantization.formats import Format
from stages.quantization.freeze import layer_table
from stages.quantization.frozen_layers import Codes, FrozenLayers, FrozenQuantizer, FrozenWeights, check_exact
from tests.quantization.small_networks import MEAN, MODELS, SHAPE, STD, images, in_layers, quantized_case

NARROW = [(model, scheme) for model in ("resnet8", "tiny_cnn") for scheme in ("int8", "w4a4", "w1a1")]
WIDE = [(model, "int16x8") for model in ("resnet8", "tiny_cnn")]


@pytest.fixture(params=NARROW + WIDE, ids="-".join)
def case(request):
    return quantized_case(*request.param)


@pytest.fixture
def few():
    return images("test", 200)[0]


def logits(network, images, batch_size):
    with torch.no_grad():
        return torch.cat([network(batch) for batch in images.split(batch_size)])


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_logits_do_not_depend_on_the_batch_bit_for_bit(case, few, batch_size):
    assert torch.equal(logits(case.frozen, few, 200), logits(case.frozen, few, batch_size))


def test_logits_do_not_depend_on_the_memory_layout_bit_for_bit(case, few):
    expected = logits(case.frozen, few, 50)
    # A leading slice of wider storage and channels_last strides.
    strided = torch.cat([few, few], 3)[..., : SHAPE[2]]
    assert torch.equal(expected, logits(case.frozen, strided, 50))
    assert torch.equal(expected, logits(case.frozen, few.contiguous(memory_format=torch.channels_last), 50))


def test_logits_do_not_depend_on_the_number_of_threads_bit_for_bit(case, few):
    expected = logits(case.frozen, few, 50)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(expected, logits(case.frozen, few, 50))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(("model", "scheme"), NARROW)
def test_classes_and_logits_are_those_of_brevitas(model, scheme):
    case, (inputs, _) = quantized_case(model, scheme), images("test", 2000)
    expected, frozen = logits(case.brevitas, inputs, 200), logits(case.frozen, inputs, 200)
    assert (expected.argmax(1) == frozen.argmax(1)).float().mean() >= 0.999
    # Nearly all agree to rounding; a rare activation falls on the other side of a half, which moves by one code.
    code = 2 * expected.abs().max() / (2 ** {"int8": 8, "w4a4": 4, "w1a1": 8}[scheme] - 1)
    assert (expected - frozen).abs().max() <= code
    assert ((expected - frozen).abs().amax(1) < 1e-4).float().mean() > 0.9


@pytest.mark.parametrize(("model", "scheme"), WIDE)
def test_at_16_bits_classes_and_logits_are_those_of_brevitas(model, scheme):
    case, (inputs, _) = quantized_case(model, scheme), images("test", 1000)
    expected, frozen = logits(case.brevitas, inputs, 200), logits(case.frozen, inputs, 200)
    assert (expected.argmax(1) == frozen.argmax(1)).float().mean() >= 0.999
    # Float32 sums miss some of the codes, which are as fine, by one.
    assert (expected - frozen).abs().max() < 1e-3
    assert (frozen.argmax(1) == logits(case.network, inputs, 200).argmax(1)).float().mean() >= 0.98


def codes(network, kinds, inputs):
    """The integers `[N, ...]` that leave each quantizer of a network, in the order of their calls."""
    seen = []

    def hook(module, _, output):
        integers = output.integers if isinstance(output, Codes) else torch.round(output / module.act_quant.scale())
        seen.append(integers.detach().flatten(1))

    handles = [module.register_forward_hook(hook) for module in network.modules() if isinstance(module, kinds)]
    with torch.no_grad():
        network(inputs)
    for handle in handles:
        handle.remove()
    return seen


def gradients(network, inputs, labels):
    leaf = inputs.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(network(leaf), labels, reduction="sum"), leaf)[0].flatten(1)


@pytest.mark.parametrize(("model", "scheme"), NARROW)
def test_input_gradients_are_those_of_brevitas(model, scheme):
    case, (inputs, labels) = quantized_case(model, scheme), images("test", 200)
    pairs = list(
        zip(
            codes(case.brevitas, (qnn.QuantReLU, qnn.QuantIdentity), inputs),
            codes(case.frozen, FrozenQuantizer, inputs),
            strict=True,
        )
    )
    assert pairs
    shifted = torch.stack([(first != second).any(1) for first, second in pairs]).any(0)
    expected, frozen = gradients(case.brevitas, inputs, labels), gradients(case.frozen, inputs, labels)
    error = (expected - frozen).norm(dim=1) / expected.norm(dim=1)
    assert (expected.norm(dim=1) > 0).all()
    assert shifted.float().mean() < 0.2
    # Float32 sums in another order; and a value next to zero or to the clamp can change sides while its code does not.
    assert error[~shifted].median() < 1e-6
    assert (error[~shifted] <= 1e-5).float().mean() > 0.95


@pytest.mark.parametrize(("model", "scheme"), WIDE)
def test_at_16_bits_input_gradients_are_those_of_brevitas(model, scheme):
    case, (inputs, labels) = quantized_case(model, scheme), images("test", 200)
    expected, frozen = gradients(case.brevitas, inputs, labels), gradients(case.frozen, inputs, labels)
    error = (expected - frozen).norm(dim=1) / expected.norm(dim=1)
    # Hardly a sample has all codes in common, and a code changes the softmax by a little.
    assert error.median() < 1e-4
    assert (error <= 1e-3).float().mean() > 0.9


def test_saving_and_loading_is_exact(case, few, tmp_path):
    model = next(name for name in MODELS if type(case.frozen).__name__.lower() == name.replace("_", ""))
    save_file(case.frozen.state_dict(), tmp_path / "network.safetensors")
    loaded = in_layers(MODELS[model], FrozenLayers(MEAN, STD, case.format))
    loaded.load_state_dict(load_file(tmp_path / "network.safetensors"))
    assert torch.equal(logits(case.frozen, few, 50), logits(loaded, few, 50))


def test_weights_are_integers_of_their_width(case):
    for layer in (module for module in case.frozen.modules() if isinstance(module, FrozenWeights)):
        assert layer.weight.dtype == torch.int8
        if layer.bits == 1:
            assert set(layer.weight.unique().tolist()) <= {-1, 1}
        else:
            assert layer.weight.abs().max() <= 2 ** (layer.bits - 1) - 1
            assert layer.weight.abs().max() > 0


def test_a_changed_integer_changes_that_weight_alone(case, few):
    layers = {name: module for name, module in case.frozen.named_modules() if isinstance(module, FrozenWeights)}
    name, layer = list(layers.items())[1]
    before = {key: tensor.clone() for key, tensor in case.frozen.state_dict().items()}
    expected = logits(case.frozen, few, 50)
    position = tuple(int(index) for index in (layer.weight != 0).nonzero()[0])
    original = layer.weight[position].item()
    try:
        layer.weight[position] = -original
        changed = {key: (tensor != before[key]).sum().item() for key, tensor in case.frozen.state_dict().items()}
        assert changed.pop(f"{name}.weight") == 1
        assert not any(changed.values())
        assert not torch.equal(expected, logits(case.frozen, few, 50))
    finally:
        layer.weight[position] = original
    assert torch.equal(expected, logits(case.frozen, few, 50))


def test_edges_have_eight_bits_and_the_rest_those_of_the_format():
    for scheme, bits in [("int8", 8), ("w4a4", 4), ("w1a1", 1), ("int16x8", 8)]:
        weights = [
            entry for entry in layer_table(quantized_case("resnet8", scheme).frozen) if entry["kind"] != "quantizer"
        ]
        assert [entry["bits"] for entry in weights] == [8, *[bits] * (len(weights) - 2), 8]


def test_every_quantizer_has_the_bits_of_its_place():
    for scheme, activations, sums in [("w4a4", 4, 8), ("int8", 8, 8), ("int16x8", 16, 16)]:
        table = layer_table(quantized_case("resnet8", scheme).frozen)
        found = {entry["layer"]: entry["bits"] for entry in table if entry["kind"] == "quantizer"}
        assert len(found) == 11
        for layer, bits in found.items():
            assert bits == (activations if "activation" in layer else sums), layer


def test_a_format_described_by_two_numbers_has_8_bits_elsewhere():
    assert Format(**{"weight_bits": 4, "activation_bits": 4}) == Format(4, 4, input_bits=8, sum_bits=8)


def test_a_sum_that_float32_cannot_hold_is_refused_by_layer():
    class Wide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            layers = FrozenLayers(MEAN, STD, Format(8, 8))
            self.input = layers.input()
            self.wide = layers.convolution(1, 2, 112, padding=56)

        def forward(self, inputs):
            return self.wide(self.input(inputs))

    network = Wide()
    network.wide.weight.fill_(127)  # codes of 182 in two digits of 11 and 8 at most: 112 * 112 * 127 * 11 = 17,523,968
    with pytest.raises(ValueError, match="layer wide: a sum can reach 17523968"):
        check_exact(network, SHAPE)
    network.wide.weight.fill_(121)  # 112 * 112 * 121 * 11 = 16,696,064 < 2^24
    check_exact(network, SHAPE)


def test_codes_stand_for_their_multiples_of_the_scale():
    assert Codes(torch.tensor([-2.0, 3.0]), torch.tensor(0.5), 3).values.tolist() == [-1.0, 1.5]


def test_the_input_is_rounded_to_its_grid_before_normalisation():
    layer = FrozenLayers(MEAN, STD, Format(8, 8)).input()
    inputs = torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 1.0]).view(1, 1, 2, 2)
    codes = layer(inputs)
    assert codes.integers.flatten().tolist() == [-73, -73, -72, 182]
    expected = (torch.tensor([0, 0, 1, 255]) / 255 - MEAN[0]) / STD
    assert torch.allclose(codes.values.flatten(), expected, atol=1e-6)


def test_images_lie_on_the_16_bit_grid_and_means_too():
    layer = FrozenLayers(MEAN, STD, Format(8, 16, input_bits=16, sum_bits=16)).input()
    levels = torch.arange(256).float()
    inputs = (levels / 255).view(1, 1, 16, 16)
    codes = layer(inputs)
    assert torch.equal(codes.integers.flatten(), 257 * (levels - 73))
    assert codes.largest == codes.integers.abs().max() == 257 * 182
    assert torch.allclose(codes.values, (inputs - MEAN[0]) / STD, atol=1e-6)


@pytest.mark.parametrize("bits", [8, 16])
def test_rounded_inputs_are_what_the_network_takes_them_for(bits):
    layer = FrozenLayers(MEAN, STD, Format(8, 8, input_bits=bits)).input()
    levels = (torch.arange(256) / 255).view(1, 1, 16, 16)
    assert torch.equal(layer.rounded(levels), levels)
    step = 1 / (2**bits - 1)
    moved = (levels + 0.3 * step).clamp(0, 1)
    assert torch.equal(layer.rounded(moved), levels)
    assert torch.equal(layer(moved).integers, layer(levels).integers)
    further = layer.rounded((levels + 0.7 * step).clamp(0, 1))
    assert torch.allclose(further, (levels + step).clamp(0, 1), atol=1e-6, rtol=0)
