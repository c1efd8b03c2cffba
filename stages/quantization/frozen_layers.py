"""The frozen integer network: integer weights, constant scales, plain torch, no Brevitas.

Activations travel between layers as integer codes held in float32. A convolution of integer codes with integer
weights is exact as long as no partial sum reaches 2^24, which `check_exact` asserts (`exact_sums.py` says how codes of
16 bits and large layers keep to it); everything after it is elementwise. Logits therefore do not depend on batch size,
thread count or memory layout, bit for bit. Rounding passes gradients straight through, so the network is its own
gradient view. Weights can be read and written as integers without rescaling anything else.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.quantization.exact_sums import EXACT_LIMIT, exact_sums, largest_sum
from stages.quantization.formats import Format, bits_in_memory
from stages.quantization.rounding import quantize, sign_straight_through


class Codes(NamedTuple):
    """A quantized tensor: the values are `integers * scale`."""

    integers: Tensor  # float32 holding integers
    scale: Tensor  # one number
    largest: int  # the largest magnitude that the integers can take

    @property
    def values(self) -> Tensor:
        return self.integers * self.scale


def _values(inputs: Tensor | Codes) -> Tensor:
    return inputs.values if isinstance(inputs, Codes) else inputs


class FrozenInput(nn.Module):
    """`[N,C,H,W]` in [0,1] -> codes of the normalised input, centred on the mean's code.

    `grid_scale` is the distance of two codes in input units.
    """

    def __init__(self, mean: Sequence[float], std: float, bits: int = 8):
        super().__init__()
        self.highest = 2**bits - 1
        self.grid_scale = 1 / self.highest
        zero_point = [round(value / self.grid_scale) for value in mean]
        self.largest = max(max(code, self.highest - code) for code in zero_point)
        self.register_buffer(
            "zero_point", torch.tensor(zero_point, dtype=torch.float32).view(-1, 1, 1), persistent=False
        )
        self.register_buffer("scale", torch.tensor(self.grid_scale / std), persistent=False)

    def forward(self, inputs: Tensor) -> Codes:
        return Codes(self._codes(inputs) - self.zero_point, self.scale, self.largest)

    def rounded(self, inputs: Tensor) -> Tensor:
        """The inputs in [0,1] that the network takes its inputs for, exactly as division of a code gives them."""
        return self._codes(inputs) / self.highest

    def _codes(self, inputs: Tensor) -> Tensor:
        return quantize(inputs, self.grid_scale, 0, self.highest)


class FrozenWeights(nn.Module):
    """Integer weights with one scale an output channel, and float biases.

    `weight` is int8 of shape `[out, ...]`; `bits` is the width of a weight in memory (1: the values are -1 and +1).
    """

    def __init__(self, shape: Sequence[int], bits: int):
        super().__init__()
        self.bits = bits
        self.register_buffer("weight", torch.zeros(*shape, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(shape[0]))
        self.register_buffer("bias", torch.zeros(shape[0]))

    def coefficients(self, _: Codes) -> int:
        """The largest sum of magnitudes of the weights of one output channel."""
        return int(self.weight.detach().float().abs().flatten(1).sum(1).max())

    def rescale(self, sums: Tensor, scale: Tensor) -> Tensor:
        """Integer sums `[N,out,...]` -> values, adding the bias."""
        shape = (-1,) + (1,) * (sums.dim() - 2)
        return sums * (self.weight_scale * scale).view(shape) + self.bias.view(shape)


class FrozenConvolution(FrozenWeights):
    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel_size: int | tuple[int, int],
        stride: int,
        padding: int | tuple[int, int],
        groups: int,
        bits: int,
    ):
        size = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
        super().__init__((channels_out, channels_in // groups, *size), bits)
        self.stride, self.padding, self.groups = stride, padding, groups

    def forward(self, inputs: Codes) -> Tensor:
        weight = self.weight.to(inputs.integers.dtype)

        def sums(integers: Tensor) -> Tensor:
            return F.conv2d(integers, weight, None, self.stride, self.padding, groups=self.groups)

        return self.rescale(exact_sums(sums, inputs.integers, inputs.largest, self.coefficients(inputs)), inputs.scale)


class FrozenLinear(FrozenWeights):
    def __init__(self, features_in: int, features_out: int, bits: int):
        super().__init__((features_out, features_in), bits)

    def forward(self, inputs: Codes) -> Tensor:
        weight = self.weight.to(inputs.integers.dtype)

        def sums(integers: Tensor) -> Tensor:
            return F.linear(integers, weight)

        return self.rescale(exact_sums(sums, inputs.integers, inputs.largest, self.coefficients(inputs)), inputs.scale)


class FrozenBatchNorm(nn.Module):
    """Batch norm with its statistics fixed, not folded into the weights."""

    def __init__(self, channels: int):
        super().__init__()
        self.epsilon = 1e-5
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, inputs: Tensor) -> Tensor:
        factor = self.weight / torch.sqrt(self.running_var + self.epsilon)
        centred = inputs - self.running_mean.view(-1, 1, 1)
        return centred * factor.view(-1, 1, 1) + self.bias.view(-1, 1, 1)


class FrozenQuantizer(nn.Module):
    """Rounds values to `bits`-bit integers of a constant scale."""

    def __init__(self, bits: int, signed: bool):
        super().__init__()
        self.bits, self.signed = bits, signed
        self.lowest, self.highest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        self.register_buffer("scale", torch.tensor(1.0))

    def forward(self, inputs: Tensor) -> Codes:
        largest = max(-self.lowest, self.highest)
        return Codes(quantize(inputs, self.scale, self.lowest, self.highest), self.scale, largest)


class FrozenActivation(nn.Module):
    def __init__(self, bits: int):
        super().__init__()
        self.quantizer = FrozenQuantizer(bits, signed=False)

    def forward(self, inputs: Tensor) -> Codes:
        return self.quantizer(F.relu(inputs))


class FrozenSign(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor(1.0), persistent=False)

    def forward(self, inputs: Tensor) -> Codes:
        return Codes(sign_straight_through(inputs), self.scale, largest=1)


class FrozenSum(nn.Module):
    def __init__(self, bits: int):
        super().__init__()
        self.quantizer = FrozenQuantizer(bits, signed=True)

    def forward(self, branch: Tensor | Codes, shortcut: Tensor | Codes) -> Tensor:
        return self.quantizer(_values(branch)).values + self.quantizer(_values(shortcut)).values


class FrozenAveragePool(nn.Module):
    """Mean over all positions; the sum runs over integers, so its order does not matter."""

    def __init__(self, bits: int, signed: bool):
        super().__init__()
        self.quantizer = FrozenQuantizer(bits, signed)

    def forward(self, inputs: Codes) -> Codes:
        area = self.coefficients(inputs)
        sums = exact_sums(lambda integers: integers.sum((2, 3)), inputs.integers, inputs.largest, area)
        return self.quantizer(sums * (inputs.scale / area))

    def coefficients(self, inputs: Codes) -> int:
        """How many positions are summed, each once."""
        return inputs.integers.shape[2] * inputs.integers.shape[3]


class FrozenMaxPool(nn.Module):
    """The largest code in each window: that of the largest value, as scales are positive."""

    def __init__(self, kernel_size: int):
        super().__init__()
        self.kernel_size = kernel_size

    def forward(self, inputs: Codes) -> Codes:
        return inputs._replace(integers=F.max_pool2d(inputs.integers, self.kernel_size))


class FrozenFlatten(nn.Module):
    def forward(self, inputs: Codes) -> Codes:
        return inputs._replace(integers=inputs.integers.flatten(1))


class FrozenLayers:
    """Integer layers for the given format, with the interface of `stages.models.layers.FloatLayers`."""

    def __init__(self, mean: Sequence[float], std: float, format: Format):
        self.mean, self.std, self.format = mean, std, format

    def _bits(self, edge: bool) -> int:
        return bits_in_memory(self.format.edge_bits if edge else self.format.weight_bits)

    def input(self) -> nn.Module:
        return FrozenInput(self.mean, self.std, self.format.input_bits)

    def convolution(
        self,
        channels_in: int,
        channels_out: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
        groups: int = 1,
        edge: bool = False,
    ) -> nn.Module:
        return FrozenConvolution(channels_in, channels_out, kernel_size, stride, padding, groups, self._bits(edge))

    def linear(self, features_in: int, features_out: int, *, edge: bool = False) -> nn.Module:
        return FrozenLinear(features_in, features_out, self._bits(edge))

    def batch_norm(self, channels: int) -> nn.Module:
        return FrozenBatchNorm(channels)

    def activation(self) -> nn.Module:
        return FrozenSign() if self.format.binary_activations else FrozenActivation(self.format.activation_bits)

    def sum(self) -> nn.Module:
        return FrozenSum(self.format.sum_bits)

    def average_pool(self) -> nn.Module:
        return FrozenAveragePool(self.format.sum_bits, signed=self.format.binary_activations)

    def max_pool(self, kernel_size: int) -> nn.Module:
        return FrozenMaxPool(kernel_size)

    def flatten(self) -> nn.Module:
        return FrozenFlatten()

    def dropout(self, probability: float) -> nn.Module:
        return nn.Identity()  # only training drops anything


def check_exact(network: nn.Module, input_shape: Sequence[int]) -> None:
    """Raises ValueError, naming the layer, if a sum that a layer takes could reach 2^24 for some input.

    To be called after loading, and again after integers were changed.
    """

    def check(name: str):
        def hook(layer: FrozenWeights | FrozenAveragePool, inputs: tuple[Codes]) -> None:
            largest = largest_sum(inputs[0].largest, layer.coefficients(inputs[0]))
            if largest >= EXACT_LIMIT:
                raise ValueError(f"layer {name}: a sum can reach {largest}, and float32 is exact below {EXACT_LIMIT}")

        return hook

    summing = (FrozenWeights, FrozenAveragePool)
    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, summing)]
    handles = [layer.register_forward_pre_hook(check(name)) for name, layer in layers]
    device = next(network.buffers()).device
    try:
        with torch.no_grad():
            network(torch.zeros(1, *input_shape, device=device))
    finally:
        for handle in handles:
            handle.remove()
