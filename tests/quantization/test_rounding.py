"""Roundings and their straight-through gradients."""

import torch

from stages.quantization.rounding import quantize, round_straight_through, sign_straight_through


def gradient(function, values):
    inputs = torch.tensor(values, requires_grad=True)
    return torch.autograd.grad(function(inputs).sum(), inputs)[0].tolist()


def test_halves_round_to_even_and_the_gradient_is_one():
    values = [-1.5, -0.5, 0.5, 1.5, 2.4]
    assert round_straight_through(torch.tensor(values)).tolist() == [-2, 0, 0, 2, 2]
    assert gradient(round_straight_through, values) == [1] * 5


def test_the_sign_of_zero_is_plus_one_and_the_gradient_is_cut_outside_of_one():
    values = [-2.0, -0.5, -0.0, 0.0, 0.3, 1.5]
    assert sign_straight_through(torch.tensor(values)).tolist() == [-1, -1, 1, 1, 1, 1]
    assert gradient(sign_straight_through, values) == [0, 1, 1, 1, 1, 0]


def test_codes_are_clamped_and_the_gradient_is_the_scale_s_inverse_inside():
    values = [-9.0, -0.6, 0.1, 0.9, 9.0]
    assert quantize(torch.tensor(values), 0.5, -2, 1).tolist() == [-2, -1, 0, 1, 1]
    # 0.9 / 0.5 rounds to 2, which the clamp cuts.
    assert quantize(torch.tensor([0.9]), 0.5, -2, 2).tolist() == [2]
    assert gradient(lambda inputs: quantize(inputs, 0.5, -2, 1), values) == [0, 2, 2, 0, 0]
