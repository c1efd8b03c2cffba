"""One factor on the channels of all hidden layers that gives a network a size."""

import pytest

from stages.quantization.channel_groups import Group, scaled
from stages.quantization.widened import scaled_to

GROUPS = [Group("first", 8, (), {}), Group("second", 24, (), {})]


def size(channels):
    return 9 * channels["first"] + channels["first"] * channels["second"] + 7


@pytest.mark.parametrize("factor", [0.01, 0.3, 0.5, 0.95, 1, 1.05, 1.5, 3.2, 9])
def test_the_size_of_a_network_with_a_factor_finds_its_channels(factor):
    channels = scaled(GROUPS, factor)
    assert scaled_to(GROUPS, size, size(channels)) == channels


def test_of_the_sizes_next_to_a_target_the_nearer_one_is_taken():
    # With steps of 1/960, which meet each factor at which a number of channels changes.
    every = {size(scaled(GROUPS, step / 960)) for step in range(1, 4000)}
    for target in range(1, 2000, 13):
        nearest = min(abs(other - target) for other in every)
        assert abs(size(scaled_to(GROUPS, size, target)) - target) == nearest


def test_a_model_without_hidden_layers_cannot_be_widened():
    with pytest.raises(ValueError, match="no hidden layers, expected some"):
        scaled_to([], lambda channels: 7, 100)
