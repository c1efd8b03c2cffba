"""Filters of sound against tones, clicks and plain numpy, and what attackers differentiate of them."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, signal

from stages.datasets.levels import SOUND_LEVELS
from stages.datasets.tensors import SILENCE, as_input
from stages.defenses import low_pass, median, shield
from stages.models.mfcc import SAMPLE_RATE
from stages.quantization.frozen_layers import FrozenInput

SHAPE = (1, 1, 800)
FILTERS = {
    "low_pass": low_pass.filter(SHAPE, cutoff=2000.0, taps=31),
    "median": median.filter(SHAPE, window=3),
    "both": shield.filter(SHAPE, filters=["low_pass", {"median": {"window": 4}}], rate=0.0),
}


def clips(count=3):
    """Noise of several loudnesses, int16, as inputs."""
    noise = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0))
    return as_input((noise * torch.tensor([300.0, 3000.0, 6000.0])[:count, None, None, None]).to(torch.int16))


def tone(frequency, loudness=0.2):
    """[1, 1, 1, T], around silence."""
    seconds = torch.arange(SHAPE[2], dtype=torch.float64) / SAMPLE_RATE
    return (SILENCE + loudness * torch.sin(2 * math.pi * frequency * seconds)).float().reshape(1, *SHAPE)


def loudness(clip):
    """Of the middle of a clip, where no border is near: a sine's amplitude."""
    return math.sqrt(2) * (clip - SILENCE).flatten()[200:600].double().square().mean().sqrt().item()


@pytest.mark.parametrize("name", FILTERS)
def test_attackers_meet_the_filter_bit_for_bit_and_have_a_gradient(name):
    filter, inputs = FILTERS[name], clips()
    filtered = filter(inputs)
    assert not torch.equal(filtered, inputs)
    assert filtered.shape == inputs.shape and filtered.min() >= 0 and filtered.max() <= 1
    leaf = inputs.clone().requires_grad_()
    view = filter.backward_view(leaf)
    assert torch.equal(view, filtered)
    (gradient,) = torch.autograd.grad((view * torch.linspace(0.1, 1, SHAPE[2])).sum(), leaf)
    assert gradient.isfinite().all() and (gradient != 0).flatten(1).any(1).all()


@pytest.mark.parametrize("name", FILTERS)
def test_a_clip_comes_out_the_same_in_any_batch(name):
    assert torch.equal(FILTERS[name](clips())[:1], FILTERS[name](clips()[:1]))


def test_a_tone_below_the_cutoff_passes_one_above_is_stopped_and_one_at_it_is_halved():
    filter = FILTERS["low_pass"]
    assert loudness(filter(tone(500))) == pytest.approx(0.2, rel=0.01)
    assert loudness(filter(tone(2000))) == pytest.approx(0.1, rel=0.02)
    assert loudness(filter(tone(4000))) < 0.2 / 200


def test_the_frequency_response_is_that_of_the_window_method():
    expected = signal.firwin(31, 2000, fs=SAMPLE_RATE, window="hamming")
    np.testing.assert_allclose(FILTERS["low_pass"].weights, expected, atol=1e-7)


def test_phases_stay_as_they_are():
    shifted = FILTERS["low_pass"](tone(500)).flatten()[200:600]
    assert torch.allclose(shifted, tone(500).flatten()[200:600], atol=2e-3)


def test_a_weighted_mean_is_its_own_gradient():
    filter, inputs = FILTERS["low_pass"], clips(1).double()
    leaf = inputs.clone().requires_grad_()
    weights = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    direction = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((filter.backward_view(leaf) * weights).sum(), leaf)
    change = ((filter(inputs + 1e-3 * direction) - filter(inputs)) * weights).sum() / 1e-3
    assert change.item() == pytest.approx((gradient * direction).sum().item(), rel=1e-6)


def test_silence_stays_silence():
    silent = torch.full((1, *SHAPE), SILENCE)
    rounding = FrozenInput((SILENCE,), 1.0, bits=16)
    for filter in FILTERS.values():
        assert torch.equal(rounding.rounded(filter(silent)), rounding.rounded(silent))


@pytest.mark.parametrize("window", [2, 3, 5, 12])
def test_the_median_of_samples_is_scipys(window):
    inputs = clips()
    # Of an even window scipy, too, has the sample right of the middle, and takes the greater of the middle values.
    expected = ndimage.median_filter(inputs.numpy(), size=(1, 1, 1, window), mode="reflect")
    found = median.filter(SHAPE, window=window)(inputs)
    np.testing.assert_array_equal(found.numpy(), expected)


def test_a_click_is_gone_and_samples_stay_on_the_grid():
    quiet = tone(200, 0.05)
    clicked = quiet.clone()
    clicked[..., 400] = 1.0
    filter = FILTERS["median"]
    assert (filter(clicked) - quiet).abs().max() < 0.005
    levels = filter(clips()) * SOUND_LEVELS
    assert torch.allclose(levels, levels.round(), atol=0.01)


def test_the_median_s_gradient_leads_to_the_sample_that_it_picks():
    inputs = torch.tensor([0.1, 0.9, 0.3, 0.2, 0.4]).reshape(1, 1, 1, 5).requires_grad_()
    filtered = median.filter((1, 1, 5), window=3).backward_view(inputs)
    assert filtered.flatten().tolist() == pytest.approx([0.1, 0.3, 0.3, 0.3, 0.4])
    (gradient,) = torch.autograd.grad((filtered * torch.tensor([1.0, 2, 4, 8, 16])).sum(), inputs)
    assert gradient.flatten().tolist() == [1, 0, 14, 0, 16]


def test_what_a_filter_costs():
    assert FILTERS["low_pass"].operations(SHAPE) == FILTERS["low_pass"].footprint(SHAPE).macs == 31 * 800
    assert FILTERS["low_pass"].footprint(SHAPE).peak_activation_bytes == 2 * (800 + 31)
    assert FILTERS["median"].operations(SHAPE) == 3 * 800
    assert FILTERS["both"].operations(SHAPE) == (15 + 6) * 800


@pytest.mark.parametrize(
    ("make", "shape", "settings", "sentence"),
    [
        (low_pass, (3, 32, 32), {}, r"inputs have the shape \(3, 32, 32\), expected sound"),
        (low_pass, SHAPE, {"cutoff": 8000.0}, "cutoff is 8000, expected less than half the sample rate, 8000 Hz"),
        (low_pass, SHAPE, {"taps": 16}, "taps is 16, expected an odd number of at most 1601"),
        (low_pass, SHAPE, {"taps": 1603}, "taps is 1603, expected an odd number"),
        (median, SHAPE, {"window": 801}, "window is 801, expected at most the samples of a clip, 800"),
    ],
)
def test_impossible_settings_are_refused(make, shape, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        make.filter(shape, **settings)
