"""The memory of a network: words to bits and back, flips, and what may be hit."""

import pytest
import torch
from torch import nn

from stages.faults.memory import Memory, Stored, stored_tensors
from stages.models import dscnn, mobilenetv1_025, resnet20
from stages.models.layers import FloatLayers
from stages.quantization.formats import Format
from stages.quantization.frozen_layers import FrozenLayers, check_exact
from tests.faults.networks import SHAPE, floating, frozen, images, same, state


def stored_weight(bits: int) -> Stored:
    values = torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1), dtype=torch.int8) if bits > 1 else torch.tensor([-1, 1])
    return Stored("layer", "weight", "weights", values.to(torch.int8), bits)


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_integer_of_a_width_goes_to_bits_and_back(bits):
    stored = stored_weight(bits)
    codes = stored.codes()
    assert len(set(codes.tolist())) == len(codes) == 2**bits  # all patterns, each once
    assert torch.equal(stored.decoded(codes), stored.values)


@pytest.mark.parametrize("bits", range(2, 9))
def test_words_lie_in_memory_in_twos_complement(bits):
    stored = stored_weight(bits)
    for value, code in zip(stored.values.tolist(), stored.codes().tolist(), strict=True):
        digits = [code >> bit & 1 for bit in range(bits)]
        assert value == sum(digit << bit for bit, digit in enumerate(digits[:-1])) - (digits[-1] << (bits - 1))


@pytest.mark.parametrize("bits", range(1, 9))
def test_a_flip_changes_one_integer_by_its_bits_weight_and_nothing_else(bits):
    network = frozen(bits)
    before = state(network)
    memory = Memory(network, "inner_weights")
    for address in range(0, memory.size, 7):
        stored, (layer, tensor, index, bit) = memory.located(address)
        promised = stored.changes()[index, bit].item()
        memory.flip([address])
        changed = state(network)
        difference = changed[f"{layer}.{tensor}"].int() - before[f"{layer}.{tensor}"].int()
        assert difference.count_nonzero() == 1
        assert abs(difference.flatten()[index]) == (2 if bits == 1 else 2**bit)
        assert difference.flatten()[index] == promised
        assert same(
            {key: changed[key] for key in changed if key != stored.name}, {**before, stored.name: before[stored.name]}
        )
        memory.flip([address])
    assert same(state(network), before)


@pytest.mark.parametrize("network", [frozen(8), frozen(4), frozen(1, activation_bits=1), floating()])
def test_all_flips_made_twice_are_none(network):
    before = state(network)
    memory = Memory(network)
    for address in range(memory.size):
        memory.flip([address])
    assert memory.flipped == frozenset(range(memory.size))
    assert not same(state(network), before)
    memory.restore()
    assert memory.flipped == frozenset()
    assert same(state(network), before)


def test_flips_in_one_word_add_up():
    memory = Memory(frozen(8), "inner_weights")
    (stored, *_) = memory.tensors
    stored.values[0] = 5
    memory.flip([0, 1, 7])
    assert stored.values[0] == (5 ^ 0b11) - 128


def test_a_float_words_bits_are_those_of_ieee_754():
    stored = Stored("layer", "bias", "biases", torch.tensor([1.0, -0.75]), 32)
    changes = stored.changes()
    assert changes[0, 31] == -2.0  # the sign
    assert changes[0, 23] == -0.5  # the exponent's lowest bit, which is set in 1.0
    assert changes[1, 22] == 0.25  # -1.1b * 2**-1 without its first digit after the point
    assert changes[1, 30] == pytest.approx(-0.75 * 2.0**128)
    assert changes[0, 30] == 2.0**128 - 1  # infinite, which counts as what the exponent would give


def test_the_memory_holds_every_tensor_of_a_network_but_counters():
    for network in (frozen(8), floating()):
        names = {name for name in network.state_dict() if not name.endswith("num_batches_tracked")}
        assert {stored.name for stored in stored_tensors(network)} == names


@pytest.mark.parametrize(
    ("model", "shape"), [(resnet20, (3, 32, 32)), (mobilenetv1_025, (3, 96, 96)), (dscnn, (1, 1, 16_000))]
)
def test_every_model_has_a_memory_of_what_it_stores(model, shape):
    for layers in (FloatLayers((0.5,) * shape[0], 0.5), FrozenLayers((0.5,) * shape[0], 0.5, Format(4, 4))):
        network = model.network(layers, shape, 10)
        counters = ("num_batches_tracked", "masks")
        names = {name for name in network.state_dict() if not name.endswith(counters)}
        assert {stored.name for stored in Memory(network).tensors} == names


def test_regions_are_parts_of_memory():
    network = frozen(4)
    everything, weights = Memory(network), Memory(network, "weights")
    assert [stored.layer for stored in weights.tensors] == ["convolution", "inner", "shortcut", "classifier"]
    assert [stored.bits for stored in weights.tensors] == [8, 4, 4, 8]
    assert [stored.layer for stored in Memory(network, "inner_weights").tensors] == ["inner", "shortcut"]
    assert everything.size == weights.size + Memory(network, "floats").size
    with pytest.raises(ValueError, match="region: 'heights' is unknown, expected one of: all, weights"):
        Memory(network, "heights")


def test_a_region_without_words_is_refused():
    with pytest.raises(ValueError, match=r"region: 'inner_weights' has no words .* one of: all, weights, floats"):
        Memory(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), "inner_weights")


def test_an_address_outside_the_region_is_refused():
    memory = Memory(frozen(4), "inner_weights")
    with pytest.raises(IndexError, match=f"expected bits 0 to {memory.size - 1}"):
        memory.flip([memory.size])


def test_numbers_of_an_unknown_layer_are_refused():
    with pytest.raises(ValueError, match="layer 0: tensor weight is stored"):
        list(stored_tensors(nn.Sequential(nn.PReLU())))


def test_after_flips_of_weights_sums_are_still_exact_or_refused():
    network = frozen(8)
    memory = Memory(network, "weights")
    memory.flip(range(0, memory.size, 3))
    check_exact(network, SHAPE)
    inputs, _ = images(network)
    with torch.no_grad():
        assert torch.equal(network(inputs), torch.cat([network(one[None]) for one in inputs]))
