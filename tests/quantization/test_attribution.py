"""Networks in which one part alone is quantized."""

from copy import deepcopy
from functools import cache

import pytest
import torch
import torch.nn.functional as F

from stages.quantization.attribution import PARTS, correct_batch_norm, partly_quantized, parts
from stages.quantization.frozen_layers import Codes, FrozenBatchNorm, FrozenQuantizer, FrozenSign, FrozenWeights
from tests.quantization.small_networks import images, quantized_case

CASES = [("resnet8", "int8"), ("tiny_cnn", "w4a4"), ("tiny_cnn", "w1a1")]
FLOAT_ERROR = 1e-4  # of logits around 10


@pytest.fixture(params=CASES, ids="-".join)
def names(request):
    return request.param


@pytest.fixture
def case(names):
    return quantized_case(*names)


@pytest.fixture
def made(names):
    return parts_of(*names)


@cache
def parts_of(model, scheme):
    """The networks of a case in which one part alone is quantized; made once."""
    case = quantized_case(model, scheme)
    return parts(case.frozen, case.network, images("train", 200)[0])


@torch.no_grad()
def logits(network):
    return network(images("test", 100)[0])


def gradients(network):
    inputs, labels = images("test", 100)
    leaf = inputs.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(network(leaf), labels, reduction="sum"), leaf)[0].flatten(1)


def outputs_of(network, kinds):
    """What leaves the modules of these kinds, in the order of their calls."""
    seen = []
    handles = [
        module.register_forward_hook(lambda module, inputs, output: seen.append((module, output)))
        for module in network.modules()
        if isinstance(module, kinds)
    ]
    logits(network)
    for handle in handles:
        handle.remove()
    return seen


def test_all_parts_together_are_the_frozen_network_bit_for_bit(case, made):
    assert made["all"] is case.frozen
    rebuilt = partly_quantized(case.frozen, case.network, inputs=True, weights=True, activations=True)
    assert torch.equal(logits(rebuilt), logits(case.frozen))
    assert torch.equal(gradients(rebuilt), gradients(case.frozen))


def test_no_part_is_the_float_network_within_float_error(case, made):
    assert made["none"] is case.network
    rebuilt = partly_quantized(case.frozen, case.network)
    assert (logits(rebuilt) - logits(case.network)).abs().max() < FLOAT_ERROR
    expected = gradients(case.network)
    assert ((gradients(rebuilt) - expected).norm(dim=1) <= 1e-3 * expected.norm(dim=1)).float().mean() > 0.95


def test_at_16_bits_the_parts_are_those_of_the_finer_grids():
    case, made = quantized_case("resnet8", "int16x8"), parts_of("resnet8", "int16x8")
    rebuilt = partly_quantized(case.frozen, case.network, inputs=True, weights=True, activations=True)
    assert torch.equal(logits(rebuilt), logits(case.frozen))
    assert torch.equal(gradients(rebuilt), gradients(case.frozen))
    nothing = partly_quantized(case.frozen, case.network)
    for network in (nothing, made["input"]):  # images lie on the grid
        assert (logits(network) - logits(case.network)).abs().max() < FLOAT_ERROR

    def error(part):
        return (logits(made[part]) - logits(case.network)).abs().mean()

    # Weights have 8 bits as before; activations are finer, and are cut off beyond what calibration showed alone.
    assert error("activations") < 0.3 * error("weights")
    for part, network in made.items():
        for step, seen in ((0.4 / 65535, part not in ("input", "all")), (0.4 / 255, True)):
            moved = (images("test", 20)[0] + step).clamp(0, 1)
            with torch.no_grad():
                assert torch.equal(network(moved), network(images("test", 20)[0])) != seen


def test_the_frozen_and_the_float_network_stay_as_they_are(case):
    before = [{key: tensor.clone() for key, tensor in net.state_dict().items()} for net in (case.frozen, case.network)]
    parts(case.frozen, case.network, images("train", 50)[0])
    for network, tensors in zip((case.frozen, case.network), before, strict=True):
        assert network.state_dict().keys() == tensors.keys()
        assert all(torch.equal(tensor, tensors[key]) for key, tensor in network.state_dict().items())


def test_every_part_is_another_network_in_evaluation_mode(made):
    assert tuple(made) == PARTS
    assert not any(network.training for network in made.values())
    # Test images lie on the grid, so that rounding them shows between its levels alone.
    inputs = images("test", 100)[0]
    between = (inputs + 0.3 / 255 * torch.sign(torch.sin(torch.arange(28.0)))).clamp(0, 1)
    with torch.no_grad():
        answers = [network(between) for network in made.values()]
    for first in range(len(PARTS)):
        for second in range(first):
            assert (answers[first] - answers[second]).abs().max() > 10 * FLOAT_ERROR, (PARTS[first], PARTS[second])


@pytest.mark.parametrize("part", PARTS)
def test_only_where_inputs_are_rounded_nothing_happens_between_two_levels(made, part):
    inputs = images("test", 20)[0]
    with torch.no_grad():
        same = torch.equal(made[part](inputs), made[part]((inputs + 0.4 / 255).clamp(0, 1)))
    assert same == (part in ("input", "all"))


def test_weights_are_the_integers_times_their_scales_where_they_are_quantized(case, made):
    for part in ("input", "weights", "activations"):
        for name, layer in made[part].named_modules():
            if isinstance(layer, FrozenWeights):
                used = layer.weight * layer.weight_scale.view(-1, *[1] * (layer.weight.dim() - 1))
                frozen = case.frozen.get_submodule(name)
                integers = frozen.weight * frozen.weight_scale.view(-1, *[1] * (layer.weight.dim() - 1))
                source, expected = case.network.get_submodule(name), integers
                if part != "weights":
                    expected = source.weight
                assert torch.equal(used, expected)
                assert torch.equal(layer.bias, frozen.bias if part == "weights" else source.bias)


def test_activations_are_codes_only_where_they_are_quantized(case, made):
    counts = {}
    for part, network in (("activations", made["activations"]), ("all", case.frozen)):
        seen = outputs_of(network, (FrozenQuantizer, FrozenSign))
        counts[part] = len(seen)
        for _, codes in seen:
            assert isinstance(codes, Codes)
            assert torch.equal(codes.integers, codes.integers.round())
            assert codes.integers.abs().max() <= codes.largest
    assert counts["activations"] == counts["all"] > 0
    for part in ("input", "weights"):
        assert not any(isinstance(module, FrozenQuantizer | FrozenSign) for module in made[part].modules())


def test_quantized_weights_keep_the_ranges_of_their_activations():
    case = quantized_case("tiny_cnn", "w1a1")
    network = partly_quantized(case.frozen, case.network, weights=True)
    values = network.activation1(torch.tensor([-3.0, -0.5, 0.25, 7.0])).values
    assert values.tolist() == [-1, -0.5, 0.25, 1]
    alone = partly_quantized(case.frozen, case.network)
    assert alone.activation1(torch.tensor([-3.0, 0.25, 7.0])).values.tolist() == [0, 0.25, 7]
    case = quantized_case("tiny_cnn", "w4a4")
    network = partly_quantized(case.frozen, case.network, weights=True)
    largest = 15 * case.frozen.activation1.quantizer.scale
    assert network.activation1(torch.tensor([-3.0, 1e6])).values.tolist() == [0, largest]


def test_quantizing_finely_changes_little_alone_and_coarsely_more():
    def cosine(scheme, part):
        case, network = quantized_case("tiny_cnn", scheme), parts_of("tiny_cnn", scheme)[part]
        return F.cosine_similarity(gradients(network), gradients(case.network)).median()

    for part in ("weights", "activations"):
        assert cosine("int8", part) > 0.95
        assert cosine("int8", part) > cosine("w1a1", part) + 0.3


def test_every_network_passes_gradients_to_its_inputs(made):
    for network in made.values():
        found = gradients(network)
        assert found.isfinite().all() and (found.norm(dim=1) > 0).all()


def test_batch_norm_of_the_network_that_it_comes_from_is_not_corrected(case):
    network = deepcopy(case.frozen)
    correct_batch_norm(network, case.frozen, images("train", 50)[0])
    for key, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, case.frozen.state_dict()[key], rtol=1e-5, atol=1e-6)


def test_corrected_batch_norm_gives_the_statistics_that_the_reference_has(case):
    calibration = images("train", 100)[0]
    network = partly_quantized(case.frozen, case.network, weights=True)
    correct_batch_norm(network, case.frozen, calibration)

    def statistics(network):
        seen = []
        handles = [
            layer.register_forward_hook(lambda layer, inputs, output: seen.append(output))
            for layer in network.modules()
            if isinstance(layer, FrozenBatchNorm)
        ]
        with torch.no_grad():
            network(calibration)
        for handle in handles:
            handle.remove()
        return seen

    expected, found = statistics(case.frozen), statistics(network)
    assert len(found) == len(expected) >= 3
    for reference, corrected in zip(expected, found, strict=True):
        means, spreads = reference.mean((0, 2, 3)), reference.std((0, 2, 3))
        assert ((corrected.mean((0, 2, 3)) - means).abs() <= 0.02 * spreads + 1e-3).all()
        torch.testing.assert_close(corrected.std((0, 2, 3)), spreads, rtol=0.02, atol=1e-3)


def test_weights_of_one_bit_work_without_signs_as_well_as_with_them():
    inputs, labels = images("test", 500)
    made = parts_of("tiny_cnn", "w1a1")
    with torch.no_grad():
        accuracy = {part: (made[part](inputs).argmax(1) == labels).float().mean() for part in ("weights", "all")}
    assert accuracy["all"] > 0.2
    assert accuracy["weights"] > accuracy["all"] - 0.1
