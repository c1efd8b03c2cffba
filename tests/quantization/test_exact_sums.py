"""Sums of 16-bit codes and of large layers: as float32 rounds the exact ones, with the gradient of unsplit sums."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stages.quantization.exact_sums import EXACT_LIMIT, exact_sums, largest_sum
from stages.quantization.formats import Format
from stages.quantization.frozen_layers import Codes, FrozenLayers, check_exact

WIDE = Format(8, 16, input_bits=16, sum_bits=16)
LARGEST = 65535


def random_codes(*shape, lowest=-LARGEST, largest=LARGEST):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(lowest, largest + 1, shape, generator=generator).float()


def filled(layer):
    generator = torch.Generator().manual_seed(1)
    layer.weight.copy_(torch.randint(-127, 128, layer.weight.shape, generator=generator))
    return layer


def convolution(groups):
    layer = filled(FrozenLayers((0.0,), 1.0, WIDE).convolution(64, 64, 3, stride=2, padding=1, groups=groups))
    codes = random_codes(4, 64, 9, 9)
    return layer, lambda codes, weight: F.conv2d(codes, weight, None, 2, 1, groups=groups), codes, LARGEST


def linear():
    return filled(FrozenLayers((0.0,), 1.0, WIDE).linear(512, 8)), F.linear, random_codes(6, 512), LARGEST


def large():
    """As in the last stage of ResNet-18, with codes of 8 bits that are mostly large and weights of one sign."""
    layer = filled(FrozenLayers((0.0,), 1.0, Format(8, 8)).convolution(512, 4, 3))
    layer.weight.abs_()
    return layer, F.conv2d, random_codes(2, 512, 4, 4, lowest=128, largest=255), 255


CASES = {
    "convolution": lambda: convolution(1),
    "depthwise": lambda: convolution(64),
    "linear": linear,
    "large": large,
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]()


def test_every_sum_is_the_exact_one_rounded_once(case):
    layer, plain, codes, largest = case
    exact = plain(codes.double(), layer.weight.double())
    assert exact.abs().max() > 2**24
    # Scales are 1 and biases 0.
    assert torch.equal(layer(Codes(codes, torch.tensor(1.0), largest)), exact.float())


def test_unsplit_sums_are_not_exact(case):
    layer, plain, codes, _ = case
    assert not torch.equal(plain(codes, layer.weight.float()), plain(codes.double(), layer.weight.double()).float())


def test_sums_do_not_depend_on_batch_or_layout(case):
    layer, _, codes, largest = case
    expected = layer(Codes(codes, torch.tensor(1.0), largest))
    single = [layer(Codes(one, torch.tensor(1.0), largest)) for one in codes.split(1)]
    assert torch.equal(torch.cat(single), expected)
    if codes.dim() == 4:
        turned = codes.contiguous(memory_format=torch.channels_last)
        assert torch.equal(layer(Codes(turned, torch.tensor(1.0), largest)), expected)


def gradient(function, codes, weighting):
    leaf = codes.clone().requires_grad_()
    return torch.autograd.grad((function(leaf) * weighting).sum(), leaf)[0]


def test_the_gradient_is_that_of_the_unsplit_sums(case):
    layer, plain, codes, largest = case
    weight = layer.weight.double()
    weighting = torch.randn(plain(codes.double(), weight).shape, generator=torch.Generator().manual_seed(2))
    expected = gradient(lambda leaf: plain(leaf, weight), codes.double(), weighting.double())
    found = gradient(lambda leaf: layer(Codes(leaf, torch.tensor(1.0), largest)), codes, weighting)
    assert expected.norm() > 0
    assert (found - expected).norm() < 1e-6 * expected.norm()


@pytest.mark.parametrize(
    ("largest", "coefficients", "base"),
    [
        (255, 65793, 1),  # 2^24 - 1
        (255, 65794, 16),
        (1, 2**24, 16),
        (256, 65535, 1),
        (256, 65536, 256),
        (32768, 512, 256),
        (65535, 256, 1),
        (65535, 257, 256),
    ],
)
def test_digits_put_every_code_together_and_stay_below_their_bound(largest, coefficients, base):
    codes = torch.arange(-largest, largest + 1).float()
    digits = []

    def sums(integers):
        digits.append(integers)
        return integers

    assert torch.equal(exact_sums(sums, codes, largest, coefficients), codes)
    assert len(digits) == (1 if base == 1 else 2)
    biggest = max(largest if base == 1 else base // 2, *(digit.abs().max() for digit in digits))
    assert biggest * coefficients == largest_sum(largest, coefficients)
    assert (largest * coefficients < EXACT_LIMIT) == (base == 1)


class Layered(nn.Module):
    """One layer behind the input."""

    def __init__(self, format, make):
        super().__init__()
        layers = FrozenLayers((0.0,), 1.0, format)
        self.input, self.layer = layers.input(), make(layers)

    def forward(self, inputs):
        return self.layer(self.input(inputs))


def test_digits_whose_sums_float32_cannot_hold_are_refused():
    network = Layered(WIDE, lambda layers: layers.convolution(1, 1, 32))
    network.layer.weight.fill_(64)  # 32 * 32 * 64 * 256 = 2^24, as the higher digit can be 256
    with pytest.raises(ValueError, match="layer layer: a sum can reach 16777216"):
        check_exact(network, (1, 32, 32))
    network.layer.weight[..., 0] = 63
    check_exact(network, (1, 32, 32))


@pytest.mark.parametrize(("format", "size"), [(WIDE, 256), (Format(8, 8), 1024)])
def test_pooled_sums_that_float32_cannot_hold_are_refused(format, size):
    network = Layered(format, lambda layers: layers.average_pool())
    with pytest.raises(ValueError, match="layer layer: a sum can reach"):
        check_exact(network, (1, size, size))
    check_exact(network, (1, size - 1, size - 1))


def test_pooled_sums_beyond_two_to_the_24_are_exact():
    pool = FrozenLayers((0.0,), 1.0, WIDE).average_pool()
    codes = random_codes(2, 3, 200, 200).abs()
    sums = []
    pool.quantizer.register_forward_pre_hook(lambda _, inputs: sums.append(inputs[0]))
    pool(Codes(codes, torch.tensor(40000.0), LARGEST))  # 40000 positions: the mean's scale is 1
    assert torch.equal(sums[0], codes.double().sum((2, 3)).float())
    assert sums[0].min() > 2**24
    assert not torch.equal(codes.sum((2, 3)), sums[0])
