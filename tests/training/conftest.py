"""A separable toy problem that the training loop solves in seconds."""

import pytest
import torch
from torch import nn

from stages.training.loop import Samples, Schedule


@pytest.fixture
def schedule():
    return Schedule(
        epochs=4,
        batch_size=16,
        learning_rate=0.5,
        momentum=0.9,
        weight_decay=1e-4,
        crop_padding=1,
        horizontal_flip=True,
    )


@pytest.fixture
def bright_or_dark():
    """160 images `[1,4,4]` of dark (0) and bright (1) pixels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(160) % 2
    codes = torch.randint(0, 100, (160, 1, 4, 4), generator=generator) + 150 * labels[:, None, None, None]
    return Samples(codes.to(torch.uint8), labels)


@pytest.fixture
def make_network():
    def make():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
        )

    return make
