"""Shifts in time and noise behind the speech."""

import pytest
import torch

from stages.defenses import none
from stages.training.checkpoint import Checkpoint
from stages.training.loop import Samples, Schedule, train
from stages.training.sound_augmentation import shift_and_mix


def augmented(clips, *, time_shift=0, background_noise=0.0, noise=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    settings = {"time_shift": time_shift, "background_noise": background_noise, "noise": noise}
    return shift_and_mix(clips, **settings, generator=generator)


def test_a_shift_moves_a_clip_and_leaves_silence():
    clips = torch.arange(1, 201, dtype=torch.int16).view(1, 1, 1, 200).repeat(300, 1, 1, 1)
    result = augmented(clips, time_shift=2)
    assert result.dtype == torch.int16
    padded = torch.nn.functional.pad(clips[0, 0, 0], (32, 32))
    shifts = [
        next(shift for shift in range(-32, 33) if torch.equal(padded[32 - shift : 232 - shift], clip))
        for clip in result[:, 0, 0]
    ]
    assert min(shifts) < -28
    assert max(shifts) > 28
    assert len(set(shifts)) > 50


def test_noise_is_mixed_into_most_clips_up_to_its_loudest():
    noise = torch.tensor([1000, -2000], dtype=torch.int16).repeat(50).view(1, 1, 1, 100)
    clips = torch.full((500, 1, 1, 100), 7, dtype=torch.int16)
    change = augmented(clips, background_noise=0.5, noise=noise).float() - 7
    volumes = change[:, 0, 0, 0] / 1000
    assert ((change[:, 0, 0, 1] + 2 * change[:, 0, 0, 0]).abs() <= 1).all()
    assert 0.7 < (volumes > 0).float().mean() < 0.9
    assert 0.45 < volumes.max() <= 0.5
    assert volumes[volumes > 0].mean() == pytest.approx(0.25, abs=0.03)


def test_what_is_too_loud_for_16_bits_is_cut():
    loud = torch.tensor([32_000, -32_000], dtype=torch.int16).view(1, 1, 1, 2).repeat(50, 1, 1, 1)
    result = augmented(loud, background_noise=1.0, noise=loud)
    assert result.max() == 32_767
    assert result.min() == -32_768


def test_without_settings_nothing_is_changed_or_drawn():
    clips = torch.randint(-100, 100, (5, 1, 1, 30), dtype=torch.int16)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert shift_and_mix(clips, time_shift=0, background_noise=0.0, noise=None, generator=generator) is clips
    assert torch.equal(generator.get_state(), before)


class Killed(Exception):
    pass


def test_a_killed_training_on_augmented_sound_goes_on_to_the_same_bytes(tmp_path):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    loudness = torch.tensor([10.0, 1000.0, 8000.0])[labels]
    clips = (loudness[:, None, None, None] * torch.randn(60, 1, 1, 400, generator=generator)).to(torch.int16)
    samples = Samples(clips, labels, noise=clips[labels == 0])
    sgd = {"epochs": 3, "batch_size": 20, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.0}
    images, sound = {"crop_padding": 0, "horizontal_flip": False}, {"time_shift": 5, "background_noise": 0.5}
    seen = []

    def fit(folder, settings, killed_at=None):
        torch.manual_seed(1)
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(400, 3))
        calls = 0

        def loss(network, inputs, labels, *, generator):
            nonlocal calls
            calls += 1
            if calls == killed_at:
                raise Killed
            seen.append(inputs)
            return none.loss(network, inputs, labels, generator=generator)

        checkpoint = Checkpoint(folder / "checkpoint.safetensors")
        schedule = Schedule(**sgd, **images, **settings)
        train(network, loss, samples, samples, schedule, seed=3, dtype=torch.float32, checkpoint=checkpoint)
        return network[1].weight

    undisturbed = fit(tmp_path / "undisturbed", sound)
    with pytest.raises(Killed):
        fit(tmp_path / "killed", sound, killed_at=5)
    assert torch.equal(fit(tmp_path / "killed", sound), undisturbed)
    assert all(inputs.min() >= 0 and inputs.max() <= 1 for inputs in seen)
    assert not torch.equal(fit(tmp_path / "plain", {}), undisturbed)
