"""Rounding onto the 8-bit grid, within the ball."""

import numpy as np
import pytest
import torch

from stages.attacks.distances import project_linf
from stages.attacks.grid import to_digital
from stages.datasets.tensors import as_input
from stages.quantization.frozen_layers import FrozenInput

LEVELS = torch.arange(256)


def on_grid(levels):
    return levels.float() / 255


def in_levels(inputs):
    return inputs.double() * 255


def test_inputs_are_exactly_the_float32_nearest_to_a_level():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    expected = (np.arange(256, dtype=np.float64) / 255).astype(np.float32)
    assert np.array_equal(as_input(torch.from_numpy(levels)).flatten().numpy(), expected)


@pytest.mark.parametrize(
    ("original", "adversarial", "reach", "expected"),
    [
        (100, 107.9, 8, 108),
        (100, 92.1, 8, 92),
        (100, 100.6, 1, 101),
        (100, 99.4, 1, 99),
        (100, 100.4, 1, 100),
        (0, 0.99, 4, 1),
        (255, 240.5, 16, 240),
        (100, 102.9, 2.5, 102),  # 103 would leave the ball
        (100, 100.9, 0.9, 100),
    ],
)
def test_rounding_is_to_the_nearest_level_in_the_ball(original, adversarial, reach, expected):
    rounded = to_digital(torch.tensor([adversarial / 255]), torch.tensor([original / 255]), reach / 255)
    assert torch.equal(rounded, on_grid(torch.tensor([expected])))


def test_every_level_stays_as_it_is_from_every_original():
    originals, adversarial = torch.meshgrid(LEVELS, LEVELS, indexing="ij")
    assert torch.equal(to_digital(on_grid(adversarial), on_grid(originals), 1.0), on_grid(adversarial))


def test_neighbouring_floats_of_a_level_are_that_level():
    originals, adversarial = (on_grid(levels) for levels in torch.meshgrid(LEVELS, LEVELS, indexing="ij"))
    for bound in (0.0, 1.0):
        neighbours = torch.nextafter(adversarial, torch.tensor(bound))
        assert torch.equal(to_digital(neighbours, originals, 1.0), adversarial)


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16, 255])
def test_a_full_perturbation_stays_full_and_in_the_ball(steps):
    epsilon = torch.full((256,), steps / 255, dtype=torch.float64)
    originals = on_grid(LEVELS)[:, None]
    for direction in (-1, 1):
        corner = project_linf(originals + direction * steps / 255, originals, epsilon)
        expected = (LEVELS + direction * steps).clamp(0, 255)
        assert torch.equal(to_digital(corner, originals, steps / 255), on_grid(expected)[:, None])


def random_perturbations(steps):
    generator = torch.Generator().manual_seed(steps)
    levels = torch.randint(256, (5000, 3), generator=generator)
    noise = (torch.rand(4, 5000, 3, generator=generator) * 2 - 1) * steps / 255
    originals = on_grid(levels)
    epsilon = torch.full((5000,), steps / 255, dtype=torch.float64)
    return torch.stack([project_linf(originals + one, originals, epsilon) for one in noise]), originals, levels


@pytest.mark.parametrize("steps", [1, 3, 8, 64])
def test_no_value_moves_by_more_than_half_a_level(steps):
    adversarial, originals, _ = random_perturbations(steps)
    rounded = in_levels(to_digital(adversarial, originals, steps / 255))
    assert (rounded - in_levels(adversarial)).abs().max() < 0.5 + 1e-4


@pytest.mark.parametrize("steps", [1, 3, 8, 64])
def test_results_are_levels_within_epsilon_in_whole_levels(steps):
    adversarial, originals, levels = random_perturbations(steps)
    rounded = to_digital(adversarial, originals, steps / 255)
    whole = (rounded * 255).round().long()
    assert torch.equal(on_grid(whole), rounded)
    assert (whole - levels).abs().max() <= steps
    assert (whole.min() >= 0) and (whole.max() <= 255)


def test_rounding_twice_is_rounding_once():
    adversarial, originals, _ = random_perturbations(8)
    once = to_digital(adversarial, originals, 8 / 255)
    assert torch.equal(to_digital(once, originals, 8 / 255), once)


def test_an_original_off_the_grid_is_refused():
    with pytest.raises(ValueError, match=r"^originals: 0\.5: expected a multiple of 1/255$"):
        to_digital(torch.tensor([0.5]), torch.tensor([0.5]), 1.0)


@pytest.mark.parametrize("length", [0.0, 0.02, 0.1, 0.5, 3.0])
def test_in_l2_the_rounded_perturbation_fits_the_ball_and_nearly_fills_it(length):
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(60, 196, (50, 3, 8, 8), generator=generator)
    change = torch.randn(50, 3, 8, 8, generator=generator)
    change *= length / change.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    originals = on_grid(levels)
    rounded = to_digital(originals + change, originals, length, "l2")
    whole = (rounded * 255).round()
    assert torch.equal(on_grid(whole), rounded)
    lengths = (whole - levels).double().flatten(1).norm(dim=1) / 255
    assert (lengths <= length + 1e-9).all()
    freely = (change.double() * 255).round().flatten(1).norm(dim=1) / 255
    assert (freely > length).any() or length < 0.05  # so that something had to go back
    # At most the last level that went back is missing.
    assert (lengths >= torch.minimum(freely, torch.full_like(freely, length)) - 0.02).all()
    assert (whole - levels - 255 * change).abs().max() <= 1.0 + 1e-3


def test_in_l2_nothing_is_taken_back_within_the_ball_or_without_one():
    generator = torch.Generator().manual_seed(0)
    originals = on_grid(torch.randint(60, 196, (5, 3, 8, 8), generator=generator))
    adversarial = originals + 0.1 * torch.rand(5, 3, 8, 8, generator=generator)
    freely = to_digital(adversarial, originals, 1.0)
    for epsilon in (5.0, float("inf")):
        assert torch.equal(to_digital(adversarial, originals, epsilon, "l2"), freely)
    assert torch.equal(to_digital(adversarial, originals, float("inf"), "l0"), freely)


def test_levels_are_rounded_as_the_input_quantizer_rounds_them():
    """Otherwise a tie that the network rounded up while it was attacked could be rounded down when it is stored."""
    originals = on_grid(LEVELS[:-1].reshape(-1, 1, 1, 1))
    ties = originals + 0.5 / 255
    stored = to_digital(ties, originals, 1 / 255)
    layer = FrozenInput((0.0,), 1.0)
    assert torch.equal(layer(stored).integers, layer(ties).integers)
