"""Attacks that look at no image: random flips and sign flips."""

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


@pytest.mark.parametrize("network", [frozen(8), frozen(1, activation_bits=1), floating()])
def test_sign_flips_take_the_largest_weights_of_the_first_layers(network):
    before, memory = state(network), Memory(network, "weights")
    sizes = [sign_flips._magnitudes(network, stored) for stored in memory.tensors]
    sizes = [magnitudes / magnitudes.max() for magnitudes in sizes]
    steps = list(sign_flips.attack(network, None, None, flips=[], generator=None, layers=2, most=12))
    flips = [address for step in steps for address in step.flips]
    places = [memory.place(address)[0] for address in flips]
    found = [
        sizes[place][memory.located(address)[1].index].item() for place, address in zip(places, flips, strict=True)
    ]
    assert len(set(flips)) == 12
    assert set(places) <= {0, 1}
    assert all(
        memory.located(address)[1].bit == memory.tensors[place].bits - 1
        for place, address in zip(places, flips, strict=True)
    )
    assert found == torch.cat(sizes[:2]).sort(descending=True).values[:12].tolist()
    memory.flip(flips)
    assert same(state(network), before)


def test_a_sign_flip_of_a_float_network_negates_the_weight():
    network = floating()
    before = network.convolution.weight.clone()
    list(sign_flips.attack(network, None, None, flips=[], generator=None, layers=1, most=before.numel()))
    assert torch.equal(network.convolution.weight, -before)
