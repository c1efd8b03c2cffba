"""Filters of images against closed forms, scipy and Pillow, and what attackers differentiate of them."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from scipy.optimize import minimize

from stages.defenses import bit_depth, feature_squeezing, gaussian, jpeg, median, random_resize_pad, total_variation
from stages.defenses.input_filter import RandomFilter

SHAPE = (3, 20, 22)


def images(count=3, shape=SHAPE):
    """Digital images, smooth with noise on them."""
    rows, columns = torch.meshgrid(torch.linspace(0, 3, shape[1]), torch.linspace(0, 4, shape[2]), indexing="ij")
    phases = torch.arange(count * shape[0]).reshape(count, -1, 1, 1)
    smooth = 127 + 90 * torch.sin(rows + phases) * torch.cos(columns - 0.7 * phases)
    noise = torch.randint(-12, 13, (count, *shape), generator=torch.Generator().manual_seed(0))
    return (smooth + noise).round().clamp(0, 255) / 255


FILTERS = {
    "bit_depth": bit_depth.filter(SHAPE, bits=3),
    "median": median.filter(SHAPE, window=3),
    "gaussian": gaussian.filter(SHAPE, standard_deviation=1.1),
    "total_variation": total_variation.filter(SHAPE, iterations=5),
    "jpeg": jpeg.filter(SHAPE, quality=60),
    "jpeg 4:4:4": jpeg.filter(SHAPE, quality=60, subsampling="4:4:4"),
    "random_resize_pad": random_resize_pad.filter(SHAPE),
}


def applied(filter, inputs, view=False, seed=0):
    function = filter.backward_view if view else filter
    return (
        function(inputs, torch.Generator().manual_seed(seed)) if isinstance(filter, RandomFilter) else function(inputs)
    )


@pytest.mark.parametrize("name", FILTERS)
def test_attackers_meet_the_filter_bit_for_bit_and_have_a_gradient(name):
    filter, inputs = FILTERS[name], images()
    filtered = applied(filter, inputs)
    assert not torch.equal(filtered, inputs)
    assert filtered.shape == inputs.shape and filtered.min() >= 0 and filtered.max() <= 1
    leaf = inputs.clone().requires_grad_()
    view = applied(filter, leaf, view=True)
    assert torch.equal(view, filtered)
    (gradient,) = torch.autograd.grad((view * torch.linspace(0, 1, SHAPE[2])).sum(), leaf)
    assert gradient.isfinite().all() and (gradient != 0).flatten(1).any(1).all()


@pytest.mark.parametrize("name", FILTERS)
def test_an_image_comes_out_the_same_in_any_batch(name):
    filter, inputs = FILTERS[name], images(5)
    assert torch.equal(applied(filter, inputs)[:1], applied(filter, inputs[:1]))


@pytest.mark.parametrize("name", ["gaussian", "total_variation", "random_resize_pad"])
def test_a_filter_without_roundings_has_its_true_gradient(name):
    filter, inputs = FILTERS[name], images(1)
    direction = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(1))
    weights = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(2))
    leaf = inputs.double().requires_grad_()
    (gradient,) = torch.autograd.grad((applied(filter, leaf, view=True) * weights).sum(), leaf)
    with torch.no_grad():
        step = 1e-6 * direction
        change = ((applied(filter, inputs.double() + step) - applied(filter, inputs.double() - step)) * weights).sum()
    assert change.item() / 2e-6 == pytest.approx((gradient * direction).sum().item(), rel=1e-3)


def test_the_two_squeezers_by_themselves_are_those_of_feature_squeezing():
    inputs = images()
    both = median.filter(SHAPE, window=2)(bit_depth.filter(SHAPE, bits=5)(inputs))
    assert torch.equal(both, feature_squeezing.filter(SHAPE, bits=5, window=2)(inputs))


@pytest.mark.parametrize("standard_deviation", [0.3, 0.7, 2.0])
def test_the_blur_is_scipys(standard_deviation):
    inputs = images()
    expected = ndimage.gaussian_filter(inputs.double().numpy(), (0, 0, standard_deviation, standard_deviation))
    found = gaussian.filter(SHAPE, standard_deviation=standard_deviation)(inputs)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


def test_denoising_finds_the_least_of_its_objective():
    inputs = images(1, (1, 5, 4)).double()
    weight = 0.08

    def objective(values):
        image = torch.from_numpy(values).reshape(inputs.shape).requires_grad_()
        smooth = total_variation._gradient(image)
        variation = (smooth[0].square() + smooth[1].square() + 1e-14).sqrt().sum()
        value = (image - inputs).square().sum() / 2 + weight * variation
        (gradient,) = torch.autograd.grad(value, image)
        return value.item(), gradient.flatten().numpy()

    found = total_variation.filter((1, 5, 4), weight=weight, iterations=3000)(inputs)
    best = minimize(objective, inputs.flatten().numpy(), jac=True, method="L-BFGS-B", options={"maxiter": 5000})
    assert objective(found.flatten().numpy())[0] <= best.fun + 1e-5
    assert objective(inputs.flatten().numpy())[0] > best.fun + 1e-2


def test_more_iterations_leave_less_variation():
    inputs = images()
    filters = [total_variation.filter(SHAPE, weight=0.1, iterations=count) for count in (1, 5, 25)]
    left = torch.stack(
        [total_variation.total_variation(applied) for applied in (inputs, *(f(inputs) for f in filters))]
    )
    assert (left.diff(dim=0) < 0).all()


def pillow(image, quality, subsampling):
    """An image [C, H, W] in [0, 1], written and read by Pillow, in levels."""
    levels = (image * 255).round().byte().permute(1, 2, 0).squeeze(2).numpy()
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=quality, subsampling=subsampling)
    read = np.asarray(Image.open(file), dtype=np.float64)
    return np.atleast_3d(read).transpose(2, 0, 1)


@pytest.mark.parametrize("quality", [10, 50, 75, 95])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows_but_for_its_integer_arithmetic(channels, subsampling, quality):
    """Within about a level on average; where a coefficient is near a tie, one more step of quantization differs."""
    inputs = images(4, (channels, 20, 22))
    filter = jpeg.filter((channels, 20, 22), quality=quality, subsampling=subsampling)
    found = filter(inputs).numpy() * 255
    expected = np.stack([pillow(image, quality, subsampling) for image in inputs])
    difference = np.abs(found - expected)
    assert difference.mean() < 1.25 and difference.max() <= 24
    assert np.abs(found - inputs.numpy() * 255).mean() > 2.5 * difference.mean()
    np.testing.assert_allclose(found, found.round(), atol=1e-3)


def test_tables_are_scaled_as_libjpeg_does():
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "JPEG", quality=30)
    written = Image.open(file).quantization
    for table, ours in ((0, jpeg.LUMINANCE), (1, jpeg.CHROMINANCE)):
        assert sorted(written[table]) == sorted(step for row in jpeg.scaled(ours, 30) for step in row)


def test_smooth_rounding_passes_near_the_integers_and_has_the_gradient_of_its_cube():
    values = torch.tensor([0.1, 0.9, -1.4], requires_grad=True)
    rounded = jpeg.smoothly_rounded(values)
    assert rounded.tolist() == pytest.approx([0.001, 0.999, -1.064])
    (gradient,) = torch.autograd.grad(rounded.sum(), values)
    assert gradient.tolist() == pytest.approx([0.03, 0.03, 0.48], rel=1e-5)


def test_resized_images_lie_somewhere_on_black():
    filter = random_resize_pad.filter((1, 20, 20), smallest=0.5)
    white = filter(torch.ones(400, 1, 20, 20), torch.Generator().manual_seed(0))
    inside = white[:, 0] == 1
    assert ((white == 0) | (white == 1)).all()
    sides = inside.any(2).sum(1), inside.any(1).sum(1)
    assert torch.equal(*sides) and torch.equal(inside.flatten(1).sum(1), sides[0] ** 2)
    assert set(sides[0].tolist()) == set(range(10, 21))
    assert inside[:, 0].any() and inside[:, -1].any() and inside[:, :, 0].any() and inside[:, :, -1].any()


def test_a_resize_by_half_takes_the_mean_of_neighbours():
    filter = random_resize_pad.filter((1, 8, 8), smallest=0.5)
    inputs = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.1
    found = filter(inputs, torch.Generator().manual_seed(0))
    half = (found != 0).flatten(1).sum(1) == 16
    expected = torch.nn.functional.avg_pool2d(inputs[half], 2)
    assert half.sum() > 10
    torch.testing.assert_close(found[half][found[half] != 0].reshape(-1, 1, 4, 4), expected)


def test_all_of_the_size_leaves_images_as_they_are():
    inputs = images()
    assert torch.equal(random_resize_pad.filter(SHAPE, smallest=1.0)(inputs, torch.Generator()), inputs)


def test_what_a_filter_costs():
    values = 3 * 20 * 22
    costs = {name: (filter.footprint(SHAPE).macs, filter.operations(SHAPE)) for name, filter in FILTERS.items()}
    assert costs["bit_depth"] == (0, values)
    assert costs["median"] == (0, values * 36)  # pairs of nine values
    assert costs["gaussian"] == (2 * 9 * values,) * 2  # a radius of four
    assert costs["total_variation"] == (0, 5 * 16 * values)
    assert costs["jpeg 4:4:4"][0] == 32 * values + 18 * 20 * 22
    assert costs["jpeg"][0] == 32 * values // 2 + 18 * 20 * 22
    assert costs["random_resize_pad"] == (4 * values,) * 2
    assert feature_squeezing.filter(SHAPE).operations(SHAPE) is None


@pytest.mark.parametrize(
    ("make", "settings", "sentence"),
    [
        (median, {"window": 21}, "window is 21, expected at most the sides of an image, 20"),
        (gaussian, {"standard_deviation": 6.0}, "standard_deviation is 6.0, expected at most a quarter"),
        (jpeg, {"quality": 101}, "quality is 101, expected 1 to 100"),
        (random_resize_pad, {"smallest": 0.0}, "smallest is 0, expected a share above 0"),
    ],
)
def test_impossible_settings_are_refused(make, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        make.filter(SHAPE, **settings)


def test_images_of_two_channels_are_no_jpeg():
    with pytest.raises(ValueError, match="images have 2 channels, expected 1 or 3"):
        jpeg.filter((2, 8, 8))
