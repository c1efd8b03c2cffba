"""Rounding onto the 8-bit grid, toward the original."""

import numpy as np
import pytest
import torch

from stages.attacks.distances import project_linf
from stages.attacks.grid import from_levels, to_digital

LEVELS = torch.arange(256)
CPU = torch.device("cpu")


def on_grid(levels):
    return levels.float() / 255


def in_levels(inputs):
    return inputs.double() * 255


def test_inputs_are_exactly_the_float32_nearest_to_a_level():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    expected = (np.arange(256, dtype=np.float64) / 255).astype(np.float32)
    assert np.array_equal(from_levels(levels, CPU).flatten().numpy(), expected)


@pytest.mark.parametrize(
    ("original", "adversarial", "expected"),
    [(100, 107.9, 107), (100, 92.1, 93), (100, 100.6, 100), (100, 99.4, 100), (0, 0.99, 0), (255, 240.5, 241)],
)
def test_rounding_is_toward_the_original(original, adversarial, expected):
    rounded = to_digital(torch.tensor([adversarial / 255]), torch.tensor([original / 255]))
    assert torch.equal(rounded, on_grid(torch.tensor([expected])))


def test_every_level_stays_as_it_is_from_every_original():
    originals, adversarial = torch.meshgrid(LEVELS, LEVELS, indexing="ij")
    assert torch.equal(to_digital(on_grid(adversarial), on_grid(originals)), on_grid(adversarial))


def test_neighbouring_floats_of_a_level_are_that_level():
    originals, adversarial = (on_grid(levels) for levels in torch.meshgrid(LEVELS, LEVELS, indexing="ij"))
    for bound in (0.0, 1.0):
        neighbours = torch.nextafter(adversarial, torch.tensor(bound))
        assert torch.equal(to_digital(neighbours, originals), adversarial)


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16, 255])
def test_a_full_perturbation_stays_full_and_in_the_ball(steps):
    epsilon = torch.full((256,), steps / 255, dtype=torch.float64)
    originals = on_grid(LEVELS)[:, None]
    for direction in (-1, 1):
        corner = project_linf(originals + direction * steps / 255, originals, epsilon)
        expected = (LEVELS + direction * steps).clamp(0, 255)
        assert torch.equal(to_digital(corner, originals), on_grid(expected)[:, None])


def random_perturbations(steps):
    generator = torch.Generator().manual_seed(steps)
    levels = torch.randint(256, (5000, 3), generator=generator)
    noise = (torch.rand(4, 5000, 3, generator=generator) * 2 - 1) * steps / 255
    originals = on_grid(levels)
    epsilon = torch.full((5000,), steps / 255, dtype=torch.float64)
    return torch.stack([project_linf(originals + one, originals, epsilon) for one in noise]), originals, levels


@pytest.mark.parametrize("steps", [1, 3, 8, 64])
def test_no_perturbation_grows_and_none_shrinks_by_a_level(steps):
    adversarial, originals, levels = random_perturbations(steps)
    rounded = in_levels(to_digital(adversarial, originals))
    shrunk = (in_levels(adversarial) - levels).abs() - (rounded - levels).abs()
    assert shrunk.min() > -2e-4 and shrunk.max() < 1
    assert ((rounded - levels) * (in_levels(adversarial) - levels) >= -1e-3).all()


@pytest.mark.parametrize("steps", [1, 3, 8, 64])
def test_results_are_levels_within_epsilon_in_whole_levels(steps):
    adversarial, originals, levels = random_perturbations(steps)
    rounded = to_digital(adversarial, originals)
    whole = (rounded * 255).round().long()
    assert torch.equal(on_grid(whole), rounded)
    assert (whole - levels).abs().max() <= steps
    assert (whole.min() >= 0) and (whole.max() <= 255)


def test_rounding_twice_is_rounding_once():
    adversarial, originals, _ = random_perturbations(8)
    once = to_digital(adversarial, originals)
    assert torch.equal(to_digital(once, originals), once)


def test_an_original_off_the_grid_is_refused():
    with pytest.raises(ValueError, match=r"^originals: 0\.5: expected a multiple of 1/255$"):
        to_digital(torch.tensor([0.5]), torch.tensor([0.5]))
