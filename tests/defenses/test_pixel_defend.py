"""PixelDefend: its density sees only the past, is a density, and its purification is greedy, exact and in the ball."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stages.attacks.grid import nearest_levels
from stages.defenses import pixel_defend
from stages.defenses.pixel_cnn import Mixture, PixelByPixel, PixelCNN, centred, suggested_by_neighbours
from stages.defenses.pixel_defend import purified
from stages.plugins import knobs
from stages.training.checkpoint import Checkpoint
from stages.training.loop import Samples

LINEAR = ("suggested", "means", "log_scales")  # of a mixture, in the network's numbers


def density(channels=3, width=6, blocks=2, dtype=torch.float64) -> PixelCNN:
    """A network whose numbers all depend on the past."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = PixelCNN(channels, width, blocks)
        torch.nn.init.normal_(network.head.weight, std=0.5)
        for block in network.blocks:
            torch.nn.init.normal_(block.mix.weight, std=0.5)
    return network.to(dtype).requires_grad_(False)


def levels(count=2, shape=(3, 5, 6), seed=1):
    """Rough images with values at both ends."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(-60, 316, (count, *shape), generator=generator)).clamp(0, 255).double()


def log_probabilities(network, pixels):
    """Each channel's conditional log-probability [N, C, H, W] of centred pixels, in nats, all at once."""
    mixture, joints = network.mixtures(pixels), []
    joint = mixture.log_weights
    for channel in range(pixels.shape[1]):
        joints.append(joint.logsumexp(1))
        joint = joint + mixture.component_log_probabilities(channel, pixels[:, channel], pixels)
    joints.append(joint.logsumexp(1))
    return torch.stack(joints[1:], 1) - torch.stack(joints[:-1], 1)


def test_no_value_depends_on_those_after_it():
    network, image = density(), levels(1)
    values = image.numel()
    reference = log_probabilities(network, centred(image))
    order = [(row, column, channel) for row in range(5) for column in range(6) for channel in range(3)]
    assert len(order) == values
    for place, (row, column, channel) in enumerate(order):
        changed = image.clone()
        changed[0, channel, row, column] = 255 - changed[0, channel, row, column]
        difference = log_probabilities(network, centred(changed)) != reference
        moved = [difference[0, c, r, w].item() for r, w, c in order]
        assert not any(moved[:place])
        assert moved[place]
        assert place + 1 == values or any(moved[place + 1 :])


def test_the_next_channel_and_the_neighbours_to_come_see_a_change():
    network, image = density(), levels(1)
    changed = image.clone()
    changed[0, 0, 2, 3] += 40 if image[0, 0, 2, 3] < 128 else -40
    difference = (log_probabilities(network, centred(changed)) != log_probabilities(network, centred(image)))[0]
    assert difference[:, 2, 3].all()
    assert difference[:, 2, 4].all()
    assert difference[:, 3, 2:5].all()


def test_probabilities_of_a_channel_sum_to_one():
    network, image = density(), levels(3)
    mixtures = network.mixtures(centred(image))
    here = Mixture(*(part[..., 2, 3, None] for part in mixtures))
    before = centred(image[:, :, 2, 3, None])
    every = centred(torch.arange(256.0, dtype=torch.float64)).expand(3, 256)
    for channel in range(3):
        total = here.component_log_probabilities(channel, every, before).logsumexp(2)  # of each component
        assert total.numpy() == pytest.approx(0, abs=1e-9)
    assert here.log_weights.logsumexp(1).numpy() == pytest.approx(0, abs=1e-9)


def test_far_tails_keep_their_order():
    zero = torch.zeros(1, 1, 1, dtype=torch.float64)
    narrow = Mixture(zero[0], zero[0], zero.unsqueeze(-1), zero.unsqueeze(-1) - 7, zero.unsqueeze(-1)[:, :, :0])
    candidates = centred(torch.tensor([[200.0, 220.0, 240.0, 254.0]], dtype=torch.float64))
    found = narrow.component_log_probabilities(0, candidates, zero)[0, 0]
    assert (found.diff() < 0).all()
    assert found[-1] == pytest.approx(-(126 - 0.5) / 128 * math.exp(7), rel=1e-6)


def test_bits_per_dimension_are_the_sum_of_the_conditionals():
    network, images = density(), levels(3)
    expected = -log_probabilities(network, centred(images)).flatten(1).mean(1) / math.log(2)
    assert network.bits_per_dimension(images).numpy() == pytest.approx(expected.numpy(), rel=1e-12)
    single = network.float().bits_per_dimension(images.float())
    assert single.numpy() == pytest.approx(expected.numpy(), abs=1e-3)


def test_neighbours_suggest_their_mean():
    image = torch.tensor([[[[1.0, 2.0, 3.0], [5.0, 8.0, 13.0]]]])
    assert suggested_by_neighbours(image).tolist() == [[[[0, 1, 2], [1, 3.5, 5.5]]]]


@pytest.mark.parametrize("channels", [1, 3])
def test_pixel_by_pixel_is_the_whole_network_bit_for_bit(channels):
    network, images = density(channels), centred(levels(4, (channels, 6, 9)))
    whole, position = network.mixtures(images), PixelByPixel(network, 4, 9)
    for row in range(6):
        position.next_row()
        for column in range(9):
            found = position.mixture(column)
            for name in Mixture._fields:
                one, other = getattr(found, name)[..., 0], getattr(whole, name)[..., row, column]
                if name in LINEAR:
                    assert torch.equal(one, other)
                else:  # a logarithm or a tanh may differ in its last bit from one memory layout to another
                    assert one.numpy() == pytest.approx(other.numpy(), abs=1e-14)
            position.put(column, images[:, :, row, column])


def test_purification_takes_the_likeliest_level_in_the_radius():
    """Against all levels in the radius, each judged by the whole network's probability of it."""
    network, radius = density(), 20
    original = levels(1, (3, 4, 4))
    result = purified(network, original, radius)
    for row in range(4):
        for column in range(4):
            for channel in range(3):
                value = int(original[0, channel, row, column])
                allowed = torch.arange(max(value - radius, 0), min(value + radius, 255) + 1)
                tried = result.repeat(len(allowed), 1, 1, 1)
                tried[:, channel, row, column] = allowed.double()
                found = log_probabilities(network, centred(tried))[:, channel, row, column]
                chosen = (allowed == result[0, channel, row, column]).nonzero().item()
                assert found[chosen] >= found.max() - 1e-7
    assert (result != original).float().mean() > 0.5


@pytest.mark.parametrize("radius", [0, 1, 38])
def test_purification_stays_in_the_radius_and_in_the_range(radius):
    original = levels(5)
    result = purified(density(), original, radius)
    assert (result - original).abs().max() == radius
    assert result.min() >= 0
    assert result.max() <= 255
    assert torch.equal(result, result.round())


def test_an_image_comes_out_the_same_in_any_batch(monkeypatch):
    network, images = density(width=13), levels(9, (3, 8, 8))
    together = purified(network, images, 38)
    alone = torch.cat([purified(network, image[None], 38) for image in images])
    assert torch.equal(together, alone)
    filter = pixel_defend.PixelDefend(network.float(), 38)
    inputs = (images / 255).float()
    expected = filter(inputs)
    assert torch.equal(expected, (alone / 255).float())
    monkeypatch.setattr(pixel_defend, "BATCH_SIZE", 4)
    assert torch.equal(filter(inputs.flip(0)).flip(0), expected)


def test_a_suspicion_is_the_same_in_any_batch():
    filter = pixel_defend.PixelDefend(density(width=13, dtype=torch.float32), 38)
    inputs = (levels(40, (3, 16, 16)) / 255).float()
    together = filter.suspicion(None, inputs)
    for size in (1, 7, 39):
        alone = torch.cat([filter.suspicion(None, batch) for batch in inputs.split(size)])
        assert torch.equal(together, alone)
    assert torch.equal(filter.suspicion(None, inputs.contiguous(memory_format=torch.channels_last)), together)
    exact = density(width=13).bits_per_dimension(nearest_levels(inputs).double())
    assert torch.equal(together, exact.float())


def test_its_footprint_is_that_of_one_image_s_purification():
    filter = pixel_defend.filter((3, 32, 32))
    cost = filter.footprint((3, 32, 32))
    assert (cost.parameters, cost.weight_bytes) == (87_650, 350_600)
    assert cost.peak_activation_bytes == 4 * (3 * 32 * 32 + 5 * 2 * 32 * 48)  # the image, two rows of each block
    assert cost.macs == 32 * 32 * (24 * 3 * 48 + 5 * (5 + 1) * 48 * 48 + 48 * 50)


def test_the_footprint_counts_what_purification_multiplies_and_remembers():
    network, image = density(width=7), levels(1, (3, 5, 6))
    with FlopCounterMode(display=False) as counter:
        purified(network, image, 3)
    cost = pixel_defend.PixelDefend(network, 3).footprint((3, 5, 6))
    assert 2 * cost.macs == counter.get_total_flops()
    looks = PixelByPixel(network, 1, 6).looks
    rows = sum(look.rows[:, :, look.reach : -look.reach].numel() for look in looks)  # without the border's zeros
    assert cost.peak_activation_bytes == 4 * (image.numel() + rows)


def test_inputs_between_levels_are_rounded_first():
    filter = pixel_defend.PixelDefend(density(dtype=torch.float32), 3)
    inputs = (levels(2) / 255).float()
    off_grid = (inputs + 0.3 / 255).clamp(0, 1)
    assert torch.equal(filter(off_grid), filter(inputs))


def test_the_radius_is_in_input_units():
    assert pixel_defend.filter((3, 32, 32)).radius == 38
    assert pixel_defend.filter((1, 8, 8), radius=16 / 255).radius == 16
    assert set(knobs("defenses", "pixel_defend").model_fields) == {"radius", "width", "blocks", "epochs"}


def plain(count, seed):
    """Images of one colour each, with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    colour = torch.randint(40, 216, (count, 3, 1, 1), generator=generator)
    noise = torch.randint(-2, 3, (count, 3, 8, 8), generator=generator)
    return Samples((colour + noise).to(torch.uint8), torch.zeros(count, dtype=torch.int64))


def fitted(tmp_path, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        filter = pixel_defend.filter((3, 8, 8), width=8, blocks=1, radius=8 / 255).requires_grad_(False)
    common = {"seed": 0, "checkpoint": Checkpoint(tmp_path / "fit"), "dtype": torch.float32, "label": "fit"}
    history = pixel_defend.fit(filter, plain(1600, 0), plain(100, 1), **common, **settings)
    return filter, history


def test_a_fitted_density_purifies_and_detects(tmp_path):
    untrained = pixel_defend.filter((3, 8, 8), width=8, blocks=1)
    before = untrained.suspicion(None, plain(100, 1).inputs.float() / 255)
    filter, history = fitted(tmp_path, width=8, blocks=1, radius=8 / 255, epochs=3)
    assert len(history) == 3
    assert history[-1]["validation"] < before.mean() - 0.5
    clean = plain(50, 2).inputs.float() / 255
    signs = torch.randint(2, clean.shape, generator=torch.Generator().manual_seed(3)) * 2 - 1
    attacked = (clean + 8 / 255 * signs).clamp(0, 1)
    assert (filter(attacked) - clean).abs().mean() < 0.8 * (attacked - clean).abs().mean()
    assert (filter.suspicion(None, attacked) > filter.suspicion(None, clean)).all()
    assert history[-1]["validation"] == pytest.approx(
        filter.suspicion(None, plain(100, 1).inputs.float() / 255).mean().item(), abs=1e-5
    )
