"""Feature squeezing against slow, straightforward words of the same."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import ndimage

from stages.defenses import feature_squeezing
from stages.defenses.feature_squeezing import median, reduced_bit_depth
from stages.plugins import knobs, settings


def images(count=3, shape=(3, 7, 6)):
    return torch.randint(256, (count, *shape), generator=torch.Generator().manual_seed(0)) / 255


def slow_median(image, window):
    """Of one channel [H, W], pixel by pixel."""
    height, width = image.shape

    def reflected(position, size):
        return -1 - position if position < 0 else 2 * size - 1 - position if position >= size else position

    result = torch.empty_like(image)
    before, after = window // 2, (window - 1) // 2
    for row in range(height):
        for column in range(width):
            values = sorted(
                image[reflected(row + i, height), reflected(column + j, width)].item()
                for i in range(-before, after + 1)
                for j in range(-before, after + 1)
            )
            result[row, column] = values[len(values) // 2]
    return result


@pytest.mark.parametrize("window", [1, 2, 3, 4, 6])
def test_the_median_is_that_of_each_window(window):
    inputs = images()
    slow = torch.stack([torch.stack([slow_median(channel, window) for channel in image]) for image in inputs])
    assert torch.equal(median(inputs, window), slow)
    scipy = ndimage.median_filter(inputs.numpy(), size=(1, 1, window, window), mode="reflect")
    assert np.array_equal(median(inputs, window).numpy(), scipy)  # what the authors used


def test_a_window_of_two_by_two_has_its_pixel_in_the_lower_right_and_takes_the_greater_middle_value():
    image = torch.tensor([[[[0.1, 0.2], [0.3, 0.4]]]])
    assert median(image, 2)[0, 0, 1, 1].item() == pytest.approx(0.3)
    assert median(image, 2)[0, 0, 0].tolist() == pytest.approx([0.1, 0.2])  # of .1 .1 .2 .2 the greater


def test_the_gradient_of_the_median_goes_to_the_value_that_it_takes():
    image = torch.tensor([[[[0.1, 0.2], [0.3, 0.4]]]], requires_grad=True)
    (gradient,) = torch.autograd.grad(median(image, 2)[0, 0, 1, 1], image)
    assert gradient.flatten().tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("bits", [1, 3, 5, 8])
def test_bits_leave_the_nearest_of_their_values(bits):
    levels = torch.arange(256) / 255
    allowed = torch.arange(2**bits) / (2**bits - 1)
    nearest = allowed[(levels[:, None] - allowed).abs().argmin(1)]
    assert torch.allclose(reduced_bit_depth(levels, bits), nearest, atol=1e-7)
    assert len(reduced_bit_depth(levels, bits).unique()) == 2**bits


def test_fewer_bits_have_the_gradient_of_the_identity():
    inputs = images().requires_grad_()
    (gradient,) = torch.autograd.grad(reduced_bit_depth(inputs, 5).sum(), inputs)
    assert torch.allclose(gradient, torch.ones_like(gradient))


def test_the_filter_is_one_squeezer_after_the_other():
    inputs = images()
    filter = feature_squeezing.filter((3, 7, 6), bits=3, window=3)
    assert torch.equal(filter(inputs), median(reduced_bit_depth(inputs, 3), 3))
    assert torch.equal(filter.backward_view(inputs), filter(inputs))
    # Both keep the order of values, so which comes first changes nothing.
    assert torch.equal(filter(inputs), reduced_bit_depth(median(inputs, 3), 3))


def test_the_detector_takes_the_larger_of_two_distances():
    def logits_of(inputs):
        return 9 * torch.stack([inputs[:, 0, 2, 2], inputs[:, 1, 3, 1], inputs[:, 2, 4, 4]], 1)

    inputs, filter = images(30), feature_squeezing.filter((3, 7, 6), bits=1, window=2)
    distances = [
        [(logits_of(image[None]).softmax(1) - logits_of(squeezed[None]).softmax(1)).abs().sum().item()
         for image, squeezed in zip(inputs, other, strict=True)]
        for other in (reduced_bit_depth(inputs, 1), median(inputs, 2))
    ]  # fmt: skip
    expected = np.maximum(*distances)
    assert filter.suspicion(logits_of, inputs).numpy() == pytest.approx(expected, abs=1e-6)
    assert 0 < (expected == distances[0]).sum() < len(inputs)


def test_impossible_settings_are_refused():
    for bits in (0, 9, 2.5, "5"):
        with pytest.raises(ValidationError, match="should be 1, 2, 3, 4, 5, 6, 7 or 8"):
            settings("defenses", "feature_squeezing", {"bits": bits})
    with pytest.raises(ValueError, match="window is 7, expected at most the sides of an image, 6"):
        feature_squeezing.filter((3, 7, 6), window=7)


def test_the_settings_are_those_of_the_filter():
    assert knobs("defenses", "feature_squeezing")().model_dump() == {"bits": 5, "window": 2}
    for bits in (1, 8):
        assert settings("defenses", "feature_squeezing", {"bits": bits}) == {"bits": bits}
