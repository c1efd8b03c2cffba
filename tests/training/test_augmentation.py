"""Random crops and mirror images."""

import torch

from stages.training.augmentation import crop_and_flip


def augmented(images, padding, flip, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return crop_and_flip(images, crop_padding=padding, horizontal_flip=flip, generator=generator)


def test_every_crop_is_a_shift_over_zeros():
    images = torch.arange(1, 26, dtype=torch.uint8).view(1, 1, 5, 5).repeat(64, 1, 1, 1)
    shifts = set()
    padded = torch.nn.functional.pad(images[0, 0], (1, 1, 1, 1))
    windows = {(y, x): padded[y : y + 5, x : x + 5] for y in range(3) for x in range(3)}
    for image in augmented(images, 1, False)[:, 0]:
        matches = [shift for shift, window in windows.items() if torch.equal(window, image)]
        assert len(matches) == 1
        shifts.update(matches)
    assert len(shifts) == 9


def test_about_half_of_the_images_are_mirrored_and_nothing_else_changes():
    images = torch.arange(12, dtype=torch.uint8).view(1, 1, 3, 4).repeat(200, 1, 1, 1)
    result = augmented(images, 0, True)
    mirrored = (result == images.flip(3)).flatten(1).all(1)
    assert ((result == images).flatten(1).all(1) | mirrored).all()
    assert 70 < mirrored.sum() < 130


def test_without_padding_and_flip_images_come_back_as_they_were():
    images = torch.randint(0, 255, (5, 3, 6, 6), dtype=torch.uint8)
    assert torch.equal(augmented(images, 0, False), images)
