"""Levels, scales and gradients of what rounds while training."""

import numpy as np
import pytest
import torch
from scipy import stats

from stages.quantization.fake_quantize import fake_quantize, fast_sign
from stages.quantization.formats import NAMED_WIDTHS
from stages.quantization.quantizers import BEST_STEP, StochasticWeights, weights_of
from stages.quantization.rounding import quantize, sign_straight_through


@pytest.fixture
def weight():
    return torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0))


def integers(width, weight, training=False):
    quantizer = weights_of(width).train(training)
    rounded, scale = quantizer.round(weight)
    codes = rounded / scale
    assert torch.allclose(codes, codes.round(), atol=1e-5)
    return codes.round(), scale


def gradients(function, values, scale, direction):
    leaves = values.clone().requires_grad_(), scale.clone().requires_grad_()
    return torch.autograd.grad((function(*leaves) * direction).sum(), leaves)


@pytest.mark.parametrize(("lowest", "highest"), [(0, 3), (-8, 7), (-2, 1)])
@pytest.mark.parametrize("channels", [False, True])
def test_values_and_gradients_are_those_of_rounding_step_by_step(lowest, highest, channels):
    generator = torch.Generator().manual_seed(1)
    values, direction = torch.randn(2, 4, 6, 5, 5, generator=generator)
    scale = torch.rand(4, 1, 1, 1, generator=generator) + 0.2 if channels else torch.tensor(0.3)
    if not channels:  # the one scale is told by every fourth sample: of four copies that is all there is to tell
        values, direction = values[:1].expand(4, 6, 5, 5), direction[:1].expand(4, 6, 5, 5)

    def by_steps(values, scale):
        return quantize(values, scale, lowest, highest) * scale

    assert torch.equal(fake_quantize(values, scale, lowest, highest), by_steps(values, scale))
    found = gradients(lambda *leaves: fake_quantize(*leaves, lowest, highest), values, scale, direction)
    expected = gradients(by_steps, values, scale, direction)
    assert torch.equal(found[0] == 0, expected[0] == 0)
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_the_gradient_to_one_scale_is_right_on_average():
    generator = torch.Generator().manual_seed(2)
    values, direction = torch.randn(2, 9, 40, generator=generator)  # nine samples: three of them are asked
    scale = torch.tensor(0.4)
    found = [
        gradients(lambda *leaves: fake_quantize(*leaves, -2, 1), values.roll(shift, 0), scale, direction.roll(shift, 0))
        for shift in range(9)
    ]
    (_, expected) = gradients(lambda v, s: quantize(v, s, -2, 1) * s, values, scale, direction)
    assert torch.allclose(torch.stack([to_scale for _, to_scale in found]).mean(), expected, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_signs_and_their_gradients_are_those_of_rounding(dtype):
    one = torch.ones((), dtype=dtype)
    around = [torch.nextafter(side * one, towards * one) for side in (-1, 1) for towards in (-2, 2)]
    values = torch.stack([*around, one, -one, 0 * one, -0 * one, 0.3 * one, -3 * one])
    leaves = [values.clone().requires_grad_() for _ in range(2)]
    results = [function(leaf) for function, leaf in zip((fast_sign, sign_straight_through), leaves, strict=True)]
    for result in results:
        result.sum().backward()
    assert torch.equal(*results) and set(results[0].tolist()) == {-1.0, 1.0}
    assert torch.equal(leaves[0].grad, leaves[1].grad) and set(leaves[0].grad.tolist()) == {0.0, 1.0}


def test_a_penalty_on_gradients_can_be_trained():
    values = torch.tensor([[0.2, 5.0, -1.0, 0.9]], requires_grad=True)
    factor = torch.tensor(3.0, requires_grad=True)
    (slope,) = torch.autograd.grad(
        fake_quantize(values * factor, torch.tensor(0.5), 0, 7).sum(), values, create_graph=True
    )
    slope.pow(2).sum().backward()
    assert slope.tolist() == [[3.0, 0.0, 0.0, 3.0]]  # 15 is beyond 3.5, -3 below 0
    assert factor.grad == 2 * 3.0 * 2


@pytest.mark.parametrize("bits", range(2, 9))
def test_integers_fill_their_width(bits, weight):
    codes, scale = integers(bits, weight)
    highest = 2 ** (bits - 1) - 1
    assert scale.shape == (6, 1, 1, 1)
    assert codes.max() == highest
    assert codes.min() == (-2 if bits == 2 else -highest)
    uncut = (codes > codes.min()) & (codes < highest)
    assert uncut.any() and ((codes - weight / scale).abs() <= 0.5 + 1e-4)[uncut].all()


def test_one_bit_is_the_sign_times_the_mean_magnitude(weight):
    weight[0, 0, 0] = torch.tensor([0.0, -0.0, 1.0])
    codes, scale = integers(1, weight)
    assert set(codes.unique().tolist()) == {-1.0, 1.0}
    assert codes[0, 0, 0].tolist() == [1.0, 1.0, 1.0]
    assert torch.allclose(scale.flatten(), weight.abs().mean((1, 2, 3)))


def test_ternary_weights_are_those_of_the_paper():
    weight = torch.tensor([[0.69, -0.71, 1.3, -1.3], [0.0, 0.0, 0.0, 8.0]])  # mean magnitudes 1 and 2
    quantizer = weights_of("ternary")
    rounded, scale = quantizer.round(weight)
    kept = (0.71 + 1.3 + 1.3) / 3
    assert torch.allclose(rounded, torch.tensor([[0, -kept, kept, -kept], [0, 0, 0, 8.0]]))
    assert torch.allclose(scale.flatten(), torch.tensor([kept, 8.0]))


@pytest.mark.parametrize("bits", BEST_STEP)
def test_the_step_of_few_bits_is_the_best_for_normal_weights(bits):
    points = np.linspace(-7, 7, 20001)
    density = stats.norm.pdf(points)
    highest = 2 ** (bits - 1) - 1
    lowest = -2 if bits == 2 else -highest

    def error(step):
        step = step * np.sqrt(2 / np.pi)  # in mean magnitudes, of which a standard deviation has 1.25
        rounded = step * np.clip(np.round(points / step), lowest, highest)
        return ((points - rounded) ** 2 * density).sum()

    best = BEST_STEP[bits]
    assert error(best) < min(error(0.98 * best), error(1.02 * best))


@pytest.mark.parametrize(("width", "levels"), [("stochastic_binary", {-1, 1}), ("stochastic_ternary", {-1, 0, 1})])
def test_a_random_weight_s_expectation_is_its_value_cut_at_the_scale(width, levels, weight):
    quantizer = weights_of(width)
    assert isinstance(quantizer, StochasticWeights)
    draws = 2000
    total = torch.zeros_like(weight)
    for _ in range(draws):
        rounded, scale = quantizer.round(weight)
        total += rounded
    assert set((rounded / scale).round().int().unique().tolist()) == levels
    expected = torch.minimum(torch.maximum(weight, -scale), scale)
    # A weight's standard error is at most scale / sqrt(draws); 4.5 of them is one in 10^5.
    assert ((total / draws - expected).abs() <= 4.5 * scale / draws**0.5).all()
    beyond = weight.abs() >= scale
    assert beyond.any() and torch.allclose((total / draws)[beyond], expected[beyond], rtol=1e-4)


@pytest.mark.parametrize("width", ["stochastic_binary", "stochastic_ternary"])
def test_after_training_random_weights_are_those_of_the_deterministic_format(width, weight):
    codes, scale = integers(width, weight)
    expected = integers({"stochastic_binary": 1, "stochastic_ternary": "ternary"}[width], weight)
    assert torch.equal(codes, expected[0]) and torch.equal(scale, expected[1])


@pytest.mark.parametrize("width", ["ternary", "stochastic_binary", "stochastic_ternary"])
def test_gradients_pass_straight_through(width, weight):
    leaf = weight.clone().requires_grad_()
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    (weights_of(width).round(leaf)[0] * direction).sum().backward()
    assert torch.equal(leaf.grad, direction)


def test_draws_go_on_where_saved_ones_stopped(weight):
    torch.manual_seed(5)
    quantizer = weights_of("stochastic_ternary")
    first, second = (quantizer.round(weight)[0] for _ in range(2))
    saved = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    third = quantizer.round(weight)[0]
    other = weights_of("stochastic_ternary")
    other.load_state_dict(saved)
    assert torch.equal(other.round(weight)[0], third)
    assert not torch.equal(first, second) and not torch.equal(second, third)


@pytest.mark.parametrize("width", [*range(1, 9), *NAMED_WIDTHS])
def test_weights_of_zero_stay_finite(width):
    leaf = torch.zeros(2, 3, requires_grad=True)
    rounded, scale = weights_of(width).round(leaf)
    rounded.sum().backward()
    assert rounded.isfinite().all() and (scale > 0).all() and leaf.grad.isfinite().all()
