"""Attacks that look at no image: random flips and sign flips."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from scipy import stats

from stages.faults import random_flips, sign_flips
from stages.faults.memory import Memory
from tests.faults.networks import floating, frozen, same, state


def random(network, flips, rates, seed=0, **knobs):
    generator = torch.Generator().manual_seed(seed)
    return [
        step.flips
        for step in random_flips.attack(network, None, None, flips=flips, generator=generator, rates=rates, **knobs)
    ]


def test_random_flips_hit_each_bit_uniformly():
    network = frozen(4)
    memory = Memory(network)
    hits = np.zeros(memory.size)
    for seed in range(400):
        (flips,) = random(network, [50], [], seed)
        memory.flip(flips)
        hits[flips] += 1
    assert hits.sum() == 400 * 50
    places = np.array([memory.place(address)[0] for address in range(memory.size)])
    bits = np.array([memory.located(address)[1].bit for address in range(memory.size)])
    # Among bits alike, whichever tensor and place in the word they have, and over all of memory in pieces.
    for groups in (places, bits, np.arange(memory.size) * 20 // memory.size):
        sizes, found = np.bincount(groups), np.bincount(groups, hits)
        expected = sizes[sizes > 0] / memory.size * hits.sum()
        assert stats.chisquare(found[sizes > 0], expected).pvalue > 0.001


def test_random_flips_meet_counts_and_rates_exactly_in_one_order():
    network = frozen(8)
    before, size = state(network), Memory(network, "weights").size
    steps = random(network, [1, 3], [0.01, 0.5, 1.0], region="weights")
    assert np.cumsum([len(step) for step in steps]).tolist() == [1, 3, round(0.01 * size), round(0.5 * size), size]
    flips = [address for step in steps for address in step]
    assert sorted(flips) == list(range(size))
    assert not same(state(network), before)
    Memory(network, "weights").flip(flips)
    assert same(state(network), before)


def signs(network, seed=0, **knobs):
    """Sign flips: each as its tensor's name, its filter and its share of the layer's largest, and their addresses."""
    memory = Memory(network, knobs.get("region", "all"))
    generator, untouched = torch.Generator().manual_seed(seed), deepcopy(network)
    flips = [step.flips for step in sign_flips.attack(network, None, None, flips=[], generator=generator, **knobs)]
    assert all(len(flip) == 1 for flip in flips)
    flips = [address for (address,) in flips]
    assert len(set(flips)) == len(flips)
    before = {stored.name: stored for stored in Memory(untouched).tensors}
    found = []
    for address in flips:
        stored, bit = memory.located(address)
        assert bit.bit == stored.bits - 1
        magnitudes = sign_flips._magnitudes(untouched, before[stored.name])
        filter_number, place = divmod(bit.index, magnitudes.shape[1])
        size = (magnitudes[filter_number, place] / magnitudes.max()).item()
        found.append((stored.name, filter_number, size))
    return found, flips


@pytest.mark.parametrize("network", [frozen(8), frozen(1, activation_bits=1), floating()])
def test_sign_flips_take_the_largest_weights_of_the_first_layers_one_of_every_filter_in_a_round(network):
    before = state(network)
    found, flips = signs(network, region="weights", layers=2, most=20)
    rounds = [found[:10], found[10:]]
    for one in rounds:
        assert {place[:2] for place in one} == {("convolution.weight", number) for number in range(4)} | {
            ("inner.weight", number) for number in range(6)
        }
        assert [size for *_, size in one] == sorted((size for *_, size in one), reverse=True)
    for name, number, size in rounds[0]:
        assert size >= next(other for *place, other in rounds[1] if place == [name, number])
    Memory(network, "weights").flip(flips)
    assert same(state(network), before)


def test_the_first_flips_of_all_memory_negate_whole_filters():
    network = frozen(1, activation_bits=1)
    scales = network.convolution.weight_scale.clone()
    found, _ = signs(network, layers=1, most=4)
    assert {name for name, *_ in found} == {"convolution.weight_scale"}
    assert torch.equal(network.convolution.weight_scale, -scales)
    weights = (network := floating()).norm.weight.clone()
    found, _ = signs(network, layers=1, most=5)
    assert [name for name, *_ in found] == ["norm.weight"] * 4 + ["convolution.weight"]
    assert torch.equal(network.norm.weight, -weights)


def test_what_is_as_large_is_in_another_order_in_each_draw():
    orders = [signs(frozen(1, activation_bits=1), seed, region="weights", layers=2, most=10)[1] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_a_sign_flip_of_a_float_network_negates_the_weight():
    network = floating()
    before = network.convolution.weight.clone()
    signs(network, region="weights", layers=1, most=before.numel())
    assert torch.equal(network.convolution.weight, -before)
