"""Checksums of groups of weights: what they see, what they make of it, what they cost."""

import pytest
import torch

from stages.faults.checksums import Checksums
from stages.faults.memory import Memory
from tests.faults.networks import floating, frozen, same, state


def checksums(network, group_size=16):
    return Checksums(network, group_size, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_every_flip_of_a_top_bit_is_seen_and_its_group_set_to_zero(bits):
    network = frozen(bits)
    sums, memory, before = checksums(network), Memory(network, "weights"), state(network)
    for place, stored in enumerate(memory.tensors):
        for index in range(0, stored.values.numel(), 5):
            address = memory.address(place, index, stored.bits - 1)
            memory.flip([address])
            flipped = state(network)
            assert sum(int(failing.sum()) for failing in sums.failing().values()) == 1
            assert sums.seen(memory, [address]) == 1
            with sums.recovered():
                groups = -(-stored.values.numel() // 16)
                assert (stored.values[index % groups :: groups] == 0).all()
                zeros = stored.values.numel() - int(stored.values.count_nonzero())
                assert zeros >= len(stored.values[index % groups :: groups])
            assert same(state(network), flipped)
            memory.flip([address])
    assert same(state(network), before)
    assert not any(failing.any() for failing in sums.failing().values())


def test_low_bits_and_float_words_may_go_unseen():
    network = frozen(8)
    sums, memory = checksums(network), Memory(network)
    low = [address for address in range(memory.size) if memory.located(address)[1].bit == 0][:20]
    floats = next(address for address in range(memory.size) if memory.located(address)[0].is_float)
    memory.flip([*low, floats])
    assert sums.seen(memory, [*low, floats]) < len(low)
    memory.restore()
    memory.flip([floats])
    assert sums.seen(memory, [floats]) == 0


def test_signatures_take_two_bits_a_group_and_float_networks_have_none():
    network = frozen(8)
    weights = [stored.values.numel() for stored in Memory(network, "weights").tensors]
    groups = sum(-(-count // 16) for count in weights)
    assert checksums(network).overhead == -(-2 * groups // 8)
    assert checksums(floating()).overhead == 0
