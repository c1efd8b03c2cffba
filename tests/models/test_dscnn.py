"""The keyword spotter behind the features of sound: what it hears, and that its answers do not depend on the batch."""

import os
from pathlib import Path

import pytest
import torch

from stages.datasets.arrays import Split
from stages.datasets.clips import features
from stages.datasets.speech_commands_test_split import MEAN, STD
from stages.datasets.tensors import as_input
from stages.models import dscnn
from stages.models.layers import FloatLayers
from stages.models.mfcc import CLIP, FEATURES
from stages.quantization.brevitas_layers import BrevitasLayers
from stages.quantization.freeze import freeze
from stages.quantization.frozen_layers import FrozenInput, FrozenLayers
from stages.quantize import copy_float_weights
from stages.schemes import int8
from tests.models.test_mfcc import clips

MIRROR = Path(os.environ.get("TINYROBUST_DATA_MIRROR") or "no mirror")


def in_layers(layers, shape=CLIP):
    return dscnn.network(layers, shape, 12).eval()


@pytest.fixture(scope="module")
def networks():
    """Float and frozen networks that hear, with random weights and the batch norm of some clips."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = in_layers(FloatLayers(MEAN, STD))
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # the plain mean
    inputs = as_input(clips(32, seed=1))
    with torch.no_grad():
        network.train()(inputs)
    network.eval()

    def make(format):
        quantized = in_layers(BrevitasLayers(MEAN, STD, format))
        copy_float_weights(network, quantized)
        return quantized

    quantized = int8.quantize(make, [inputs], None).network
    return network, freeze(quantized, in_layers(FrozenLayers(MEAN, STD, int8.FORMAT)), CLIP)


def reading(network, layers):
    """The same network without its ears: it takes features."""
    reader = in_layers(layers, FEATURES)
    reader.load_state_dict(network.state_dict())
    return reader


@torch.no_grad()
def test_hearing_a_clip_is_reading_its_features(networks):
    network, frozen = networks
    levels = clips(20, seed=2)
    read = as_input(torch.from_numpy(features({"": Split(levels.numpy(), torch.zeros(20).long().numpy())})[""].inputs))
    assert torch.equal(reading(frozen, FrozenLayers(MEAN, STD, int8.FORMAT))(read), frozen(as_input(levels)))
    # The float network hears features that are not rounded to 8 bits.
    heard = network(as_input(levels))
    torch.testing.assert_close(reading(network, FloatLayers(MEAN, STD))(read), heard, atol=0.1, rtol=0)
    assert heard.std(0).min() > 0.02


@torch.no_grad()
def test_logits_of_the_frozen_network_are_the_same_in_every_batch(networks):
    inputs = as_input(clips(9, seed=3))
    expected = networks[1](inputs)
    for size in (1, 2, 4):
        assert torch.equal(torch.cat([networks[1](batch) for batch in inputs.split(size)]), expected)


def test_attackers_have_gradients_of_the_sound(networks):
    for network in networks:
        leaf = as_input(clips(4, seed=4)).requires_grad_()
        (gradient,) = torch.autograd.grad(network(leaf)[:, 0].sum(), leaf)
        assert gradient.dtype == torch.float32
        assert (gradient.flatten(1).norm(dim=1) > 0).all()


def test_the_first_thing_that_a_network_does_to_sound_is_to_round_it_to_16_bits(networks):
    for network in networks:
        first = next(module for module in network.modules() if isinstance(module, FrozenInput))
        inputs = torch.rand(1, *CLIP, generator=torch.Generator().manual_seed(0))
        assert (first.rounded(inputs) - inputs).abs().max() <= 0.5001 / 65535


@pytest.mark.skipif(not (MIRROR / "speech_commands_test").is_dir(), reason="TINYROBUST_DATA_MIRROR has no real clips")
@torch.no_grad()
def test_predictions_on_real_clips_are_the_same_in_every_batch(networks):
    from stages.datasets import speech_commands_test_split

    test = speech_commands_test_split.load(MIRROR)["test"]
    inputs = as_input(torch.from_numpy(test.inputs[::5]))
    whole = networks[1](inputs)
    for size in (1, 7, 64):
        assert torch.equal(torch.cat([networks[1](batch) for batch in inputs.split(size)]), whole)
