"""Masks of channels: what is drawn, what its gradient is, and that what is masked is not there."""

from functools import partial

import pytest
import torch

from stages.models import resnet8, tiny_cnn
from stages.quantization.brevitas_layers import BrevitasLayers
from stages.quantization.channel_groups import hidden_groups, scaled, with_channels
from stages.quantization.formats import Format
from stages.quantization.growth import ChannelMasks, gumbel_sigmoid, has_settled, mask_channels
from stages.quantization.layer_formats import build_in_format
from tests.quantization.small_networks import MEAN, SHAPE, STD, images

LOGITS = torch.tensor([-3.0, -0.5, 0.0, 2.0])


def drawn(logits, temperature, seed=0):
    return gumbel_sigmoid(logits, temperature, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [1.0, 0.01])
def test_a_channel_is_there_with_the_chance_of_its_logit_at_any_temperature(temperature):
    masks = drawn(LOGITS.repeat(20_000, 1), temperature)
    assert set(masks.unique().tolist()) == {0, 1}
    assert torch.allclose(masks.mean(0), LOGITS.sigmoid(), atol=0.012)


def test_the_gradient_is_the_soft_mask_s_and_the_soft_mask_goes_to_what_is_drawn():
    def noise():
        uniform = torch.rand(2, 1000, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        first, second = -(-uniform.log()).log()
        return (first - second).float()

    for temperature in (2.0, 0.5):
        logits = torch.linspace(-2, 2, 1000).requires_grad_()
        hard = drawn(logits, temperature, seed=3)
        soft = ((logits + noise()) / temperature).sigmoid()
        (found,), (expected,) = (torch.autograd.grad(mask.square().sum(), logits) for mask in (hard, soft))
        slope = torch.autograd.grad(((logits + noise()) / temperature).sigmoid().sum(), logits)[0]
        assert torch.allclose(found, 2 * hard.detach() * slope)  # straight through: at what was drawn
        assert not torch.allclose(found, expected)
    cold = ((torch.linspace(-2, 2, 1000) + noise()) / 1e-3).sigmoid()
    assert (cold - drawn(torch.linspace(-2, 2, 1000), 1e-3, seed=3)).abs().mean() < 1e-3


def grown(model, **settings):
    """A complete binary network of twice the channels with masks, its groups and its masks."""
    made = partial(model.network, input_shape=SHAPE, num_classes=10)
    groups = hidden_groups(made, SHAPE)
    most = scaled(groups, 2)
    torch.manual_seed(0)
    wide, layers = with_channels(made, SHAPE, most), partial(BrevitasLayers, MEAN, STD)
    network = build_in_format(wide, layers, Format(1, 1, edge_bits=1))
    masks = ChannelMasks(scaled(groups, 1), most, **({"chance": 0.3} | settings))
    mask_channels(network, groups, masks)
    return network, groups, masks


@pytest.mark.parametrize("model", [tiny_cnn, resnet8])
def test_a_network_with_channels_masked_is_the_network_without_them(model):
    network, groups, masks = grown(model)
    inputs = images("test", 4)[0]
    with torch.no_grad():
        for logits in masks.logits:
            logits.copy_(torch.linspace(-1, 1, len(logits)))
    more = [int((logits > 0).sum()) for logits in masks.logits]
    assert masks.channels() == {group.name: group.channels + count for group, count in zip(groups, more, strict=True)}
    assert all(more)
    with torch.no_grad():
        expected = network.eval()(inputs)
        for name, layer in network.named_modules():
            group = next((group for group in groups if name in group.layers), None)
            if group and isinstance(layer, torch.nn.BatchNorm2d):
                gone = masks.drawn[group.name] == 0
                layer.bias[gone], layer.running_mean[gone] = 7.0, -300.0  # whatever they hold
        assert gone.any()
        assert torch.equal(network(inputs), expected)


def test_every_draw_is_another_and_evaluation_draws_nothing():
    network, _, masks = grown(tiny_cnn)
    inputs = images("test", 4)[0]
    network.train()
    network(inputs)
    first = masks.drawn["convolution3"].detach().clone()
    network(inputs)
    assert int(masks.draws) == 2
    assert not torch.equal(masks.drawn["convolution3"], first)
    assert first[:32].all() and 0 < first[32:].sum() < 32
    network.eval()(inputs)
    assert int(masks.draws) == 2 and not masks.drawn["convolution3"][32:].any()


def test_what_goes_on_from_a_checkpoint_draws_what_it_would_have_drawn():
    network, _, masks = grown(tiny_cnn)
    network.train()(images("test", 4)[0])
    other, _, copied = grown(tiny_cnn)
    copied.seed += 1
    other.load_state_dict(network.state_dict())
    other.train()
    for one in (masks, copied):
        one.draw()
    assert all(torch.equal(masks.drawn[name], copied.drawn[name]) for name in masks.drawn)


def test_channels_that_are_not_there_learn_whether_to_come_and_a_rate_says_how_fast():
    gradients = []
    for rate in (1.0, 50.0):
        network, _, masks = grown(tiny_cnn, rate=rate)
        inputs, labels = images("test", 40)
        torch.nn.functional.cross_entropy(network.train()(inputs), labels).backward()
        gradients.append(masks.logits[2].grad)
        gone = masks.drawn["convolution3"][32:] == 0
        assert masks.logits[2].grad[gone].any()
        assert not network.norm3.bias.grad[32:][gone].any()  # and nothing else of them learns
    assert torch.allclose(gradients[1], 50 * gradients[0])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [({"chance": 0.0}, "chance: 0.0, expected a number between 0 and 1"), ({"chance": 1.0}, "chance: 1.0")],
)
def test_a_chance_that_could_not_change_is_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        ChannelMasks({"a": 2}, {"a": 4}, **settings)


def test_fewer_channels_than_the_base_are_refused():
    with pytest.raises(ValueError, match="largest: 3 channels of a, expected its base of 4 or more"):
        ChannelMasks({"a": 4}, {"a": 3}, chance=0.5)


@pytest.mark.parametrize(
    ("counts", "settled"),
    [
        ([(50, 50)], False),
        ([(50, 50), (50, 50)], False),
        ([(50, 50), (50, 50), (50, 50)], False),  # growth has not begun
        ([(50, 50), (50, 50), (51, 50), (51, 50)], False),  # one channel is no beginning
        ([(50, 50), (60, 50), (60, 50), (60, 50)], True),
        ([(50, 50), (60, 50), (61, 50), (61, 51)], True),  # one channel of 110 is no more than a hundredth
        ([(50, 50), (60, 50), (61, 49), (61, 49)], False),  # changes of two groups do not cancel
        ([(50, 50), (50, 50), (50, 50), (70, 50)], False),
    ],
)
def test_growth_has_settled_where_hardly_any_channel_came_or_went_for_some_steps(counts, settled):
    named = [dict(zip("ab", count, strict=True)) for count in counts]
    assert has_settled(named, patience=2, tolerance=0.01) is settled
