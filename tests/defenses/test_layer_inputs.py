"""What penalties on Jacobians take gradients in."""

import pytest
import torch

from stages.defenses import block_jacobian, jacobian
from stages.defenses.layer_inputs import with_layer_inputs
from stages.models import dscnn, tiny_cnn
from stages.models.layers import FloatLayers
from stages.models.mfcc import CLIP, FEATURES
from tests.quantization.small_networks import MEAN, STD

LABELS = torch.tensor([0, 1])


@pytest.fixture
def hearing():
    torch.manual_seed(0)
    return dscnn.network(FloatLayers(MEAN, STD), CLIP, 3).eval()


def test_images_are_what_layers_begin_with():
    network, images = tiny_cnn.network(FloatLayers(MEAN, STD), (1, 28, 28), 3).eval(), torch.rand(2, 1, 28, 28)
    logits, layer_inputs = with_layer_inputs(network, images)
    assert torch.equal(layer_inputs, images) and torch.equal(logits, network(images))
    assert not images.requires_grad


def test_of_sound_they_begin_with_features(hearing):
    clips = torch.rand(2, *CLIP)
    logits, layer_inputs = with_layer_inputs(hearing, clips)
    assert torch.equal(layer_inputs, hearing.front_end(clips)) and layer_inputs.shape[1:] == FEATURES
    assert torch.equal(logits, hearing(clips)) and not hearing.front_end._forward_hooks
    (gradient,) = torch.autograd.grad(logits.sum(), layer_inputs)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("defense", [jacobian, block_jacobian])
def test_penalties_on_sound_are_those_on_its_features(hearing, defense):
    clips = torch.rand(2, *CLIP)
    of_features = dscnn.network(FloatLayers(MEAN, STD), FEATURES, 3).eval()
    of_features.load_state_dict(hearing.state_dict(), strict=False)
    losses = [
        defense.loss(network, inputs, LABELS, generator=torch.Generator().manual_seed(0), weight=1.0).item()
        for network, inputs in ((hearing, clips), (of_features, hearing.front_end(clips)))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
