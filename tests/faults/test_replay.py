"""Replayed passes give bitwise what full passes give."""

import pytest
import torch
from torch import nn

from stages.faults.memory import Memory
from stages.faults.replay import Replay
from stages.models import resnet20
from stages.models.layers import FloatLayers
from tests.faults.networks import floating, frozen, images


def same_bits(one, other):
    return torch.equal(one.view(torch.int32), other.view(torch.int32))


@pytest.mark.parametrize("network", [frozen(8), frozen(1, activation_bits=1), floating()])
def test_a_pass_from_a_changed_tensor_on_is_bitwise_a_full_pass(network):
    inputs, _ = images(network)
    replay, memory = Replay(network, inputs), Memory(network)
    with torch.no_grad():
        assert same_bits(replay.logits, network(inputs))
        for place, stored in enumerate(memory.tensors):
            address = memory.address(place, stored.values.numel() - 1, stored.bits - 1)
            memory.flip([address])
            assert same_bits(replay.changed([stored.layer]), network(inputs)), stored.name
            memory.flip([address])


def test_flips_that_are_kept_stay():
    network = frozen(8)
    inputs, _ = images(network)
    replay, memory = Replay(network, inputs), Memory(network, "weights")
    for place, stored in enumerate(memory.tensors):
        memory.flip([memory.address(place, 3, 7)])
        kept = replay.keep([stored.layer])
        with torch.no_grad():
            assert same_bits(kept, network(inputs))
    assert same_bits(replay.changed([]), kept)


def test_only_what_a_change_reaches_is_computed(monkeypatch):
    torch.manual_seed(0)
    network = resnet20.network(FloatLayers((0.0,), 1.0), (1, 16, 16), 4).eval()
    replay, computed, forward = Replay(network, torch.rand(2, 1, 16, 16)), set(), nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, inputs: computed.add(self) or forward(self, inputs))
    last = network.stage3[2]
    replay.changed(["stage3.2.convolution2"])
    assert computed == {last.convolution2}
    computed.clear()
    replay.changed(["stage3.0.convolution1"])  # beside which the shortcut has the inputs that it had
    first = network.stage3[0]
    assert computed == {layer for layer in network.stage3.modules() if isinstance(layer, nn.Conv2d)} - {first.shortcut}
