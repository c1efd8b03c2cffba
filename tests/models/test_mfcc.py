"""Features of sound, against another computation of them and by what they are made for."""

import numpy as np
import pytest
import torch
from scipy import fft, signal

from stages.datasets.tensors import as_input
from stages.models.mfcc import CLIP, FEATURES, MFCC, mel_bands


def clips(count=3, seed=0, loudness=3000):
    """Chirps with noise, int16."""
    generator = np.random.default_rng(seed)
    time = np.arange(CLIP[2]) / 16_000
    ends = generator.uniform(200, 3800, (count, 2))
    sound = [signal.chirp(time, first, 1, last) + 0.1 * generator.standard_normal(CLIP[2]) for first, last in ends]
    return torch.from_numpy((loudness * np.array(sound)).astype(np.int16)[:, None, None])


def coefficients_by_scipy(clip):
    """What `tf.signal.mfccs_from_log_mel_spectrograms` makes of a clip, by scipy and a loop over bands."""
    window = signal.windows.hann(480, sym=False)
    frames = np.lib.stride_tricks.sliding_window_view(clip / 2**15, 480)[::320]
    magnitudes = np.abs(fft.rfft(frames * window, 512))
    mel = lambda hertz: 1127 * np.log(1 + hertz / 700)  # noqa: E731
    edges, at = np.linspace(mel(20), mel(4000), 42), mel(np.arange(257) * 16_000 / 512)
    energies = np.zeros((len(frames), 40))
    for band in range(40):
        low, centre, high = edges[band : band + 3]
        weights = np.maximum(0, np.minimum((at - low) / (centre - low), (high - at) / (high - centre)))
        weights[0] = 0
        energies[:, band] = magnitudes @ weights
    return fft.dct(np.log(energies + 1e-6), type=2)[:, :10] / np.sqrt(2 * 40)


def test_features_are_those_of_an_independent_computation():
    levels = clips()
    found = MFCC()(as_input(levels))
    assert found.shape == (3, *FEATURES)
    assert found.dtype == torch.float32
    expected = np.stack([coefficients_by_scipy(clip.numpy().ravel()) for clip in levels])
    assert expected.std() > 1
    np.testing.assert_allclose((found[:, 0] * 255 - 206) * 0.6, expected, atol=2e-4)


def test_silence_is_the_lowest_level_and_loud_sound_in_range():
    silence, loud = torch.zeros(1, *CLIP, dtype=torch.int16), clips(loudness=29_000)
    front_end = MFCC()
    first = (255 * front_end(as_input(silence)))[0, 0, :, 0]
    assert ((first >= 0) & (first < 0.1)).all()
    assert front_end(as_input(loud))[..., 0].max() < 1.05


def test_features_of_a_clip_are_the_same_in_every_batch():
    inputs = as_input(clips(7))
    front_end = MFCC()
    assert torch.equal(torch.cat([front_end(inputs[i : i + 1]) for i in range(7)]), front_end(inputs))


def test_perturbations_below_half_a_step_of_16_bits_are_not_heard():
    inputs = as_input(clips(1))
    front_end = MFCC()
    expected = front_end(inputs)
    assert torch.equal(front_end(inputs + 0.4 / 65535), expected)
    # A constant offset has no frequency that a band would take in, but for the window's.
    moved = inputs + torch.where(torch.arange(CLIP[2]) % 8 < 4, 0.6, -0.6) / 65535
    assert not torch.equal(front_end(moved), expected)


def test_gradients_are_those_of_finite_differences():
    front_end = MFCC().double()
    inputs = as_input(clips(1)).double().requires_grad_()
    direction = torch.randn(1, *FEATURES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((front_end(inputs) * direction).sum(), inputs)
    step = gradient.sign().detach() / 65535  # whole 16-bit steps
    with torch.no_grad():
        change = ((front_end(inputs + step) - front_end(inputs - step)) * direction).sum() / 2
    assert gradient.abs().sum() / 65535 == pytest.approx(change.item(), rel=0.01)


def test_bands_cover_20_hz_to_4_khz():
    bands = mel_bands()
    frequencies = torch.arange(257) * 16_000 / 512
    heard = bands.sum(1) > 1e-9
    assert frequencies[heard].min() < 40
    assert frequencies[heard].max() < 4_000
    # Between two centres, the two triangles there add up to one.
    inside = (frequencies > 100) & (frequencies < 3_800)
    torch.testing.assert_close(bands[inside].sum(1), torch.ones(int(inside.sum()), dtype=torch.float64))
