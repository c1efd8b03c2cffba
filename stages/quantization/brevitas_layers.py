"""The layers that Brevitas trains and calibrates. Only `quantize` imports it; later stages use the frozen network."""

from collections.abc import Sequence

import brevitas.nn as qnn
import torch
from brevitas.inject.enum import QuantType, ScalingImplType, ScalingPerOutputType, StatsOp
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8WeightPerChannelFloat,
    Uint8ActPerTensorFloat,
)
from brevitas.quant.base import SignedBinaryClampedConst
from brevitas.quant.solver import WeightQuantSolver
from torch import Tensor, nn

from stages.models.layers import Dropout, Normalise
from stages.quantization.formats import EDGE_BITS, Format
from stages.quantization.rounding import quantize, sign_straight_through


class BinaryWeight(WeightQuantSolver):
    """sign(w) times the channel's mean |w| (XNOR-Net, Rastegari et al. 2016, arXiv 1603.05279).

    Brevitas' own binary weight quantizer clamps in place and to its scale: the first crashes in backward when the
    scale is a statistic of the weights, the second would stop the gradient of half of them.
    """

    quant_type = QuantType.BINARY
    scaling_impl_type = ScalingImplType.STATS
    scaling_stats_op = StatsOp.AVE
    scaling_per_output_type = ScalingPerOutputType.CHANNEL
    scaling_min_val = 1e-10
    restrict_scaling_type = SignedBinaryClampedConst.restrict_scaling_type
    float_to_int_impl_type = SignedBinaryClampedConst.float_to_int_impl_type
    narrow_range = True
    signed = True


class Sign(nn.Module):
    """The binarizer. Not Brevitas' own, which calibration would switch off, leaving no activation at all."""

    def forward(self, inputs: Tensor) -> Tensor:
        return sign_straight_through(inputs)


class QuantizedInput(nn.Module):
    """Inputs rounded to their grid, then normalised."""

    def __init__(self, mean: Sequence[float], std: float, bits: int):
        super().__init__()
        self.highest = 2**bits - 1
        self.normalise = Normalise(mean, std)

    def forward(self, inputs: Tensor) -> Tensor:
        scale = 1 / self.highest
        return self.normalise(quantize(inputs, scale, 0, self.highest) * scale)


class QuantizedSum(nn.Module):
    """Both branches of a residual block through one quantizer, then added."""

    def __init__(self, bits: int):
        super().__init__()
        self.quantizer = qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, bit_width=bits, **_range(bits))

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        return self.quantizer(branch) + self.quantizer(shortcut)


class QuantizedAveragePool(nn.Module):
    def __init__(self, bits: int, signed: bool):
        super().__init__()
        act_quant = Int8ActPerTensorFloat if signed else Uint8ActPerTensorFloat
        self.quantizer = qnn.QuantIdentity(act_quant=act_quant, bit_width=bits, **_range(bits))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.quantizer(inputs.mean((2, 3)))


class LargestMagnitude(nn.Module):
    """Of each batch that is calibrated on, a number; their mean is the largest magnitude in all batches.

    Brevitas takes the mean over batches of whatever statistic it is given.
    """

    def __init__(self):
        super().__init__()
        self.batches = 0
        self.register_buffer("largest", torch.zeros(()), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        before, self.largest = self.largest, torch.maximum(self.largest, inputs.detach().abs().max())
        self.batches += 1
        return self.batches * self.largest - (self.batches - 1) * before


def _range(bits: int) -> dict:
    """What Brevitas makes an activation's scale from: a percentile, or at 16 bits the largest magnitude of all.

    There, a range that takes in outliers costs less than cutting them off.
    """
    return {"scaling_stats_impl": LargestMagnitude} if bits > EDGE_BITS else {}


class BrevitasLayers:
    """Fake-quantized layers for the given format, with the interface of `stages.models.layers.FloatLayers`."""

    def __init__(self, mean: Sequence[float], std: float, format: Format):
        self.mean, self.std, self.format = mean, std, format

    def _weights(self, edge: bool) -> dict:
        bits = EDGE_BITS if edge else self.format.weight_bits
        if bits == 1:
            return {"weight_quant": BinaryWeight}
        return {"weight_quant": Int8WeightPerChannelFloat, "weight_bit_width": bits}

    def input(self) -> nn.Module:
        return QuantizedInput(self.mean, self.std, self.format.input_bits)

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
        return qnn.QuantConv2d(
            channels_in, channels_out, kernel_size, stride, padding, groups=groups, **self._weights(edge)
        )

    def linear(self, features_in: int, features_out: int, *, edge: bool = False) -> nn.Module:
        return qnn.QuantLinear(features_in, features_out, bias=True, **self._weights(edge))

    def batch_norm(self, channels: int) -> nn.Module:
        return nn.BatchNorm2d(channels)

    def activation(self) -> nn.Module:
        if self.format.binary_activations:
            return Sign()
        bits = self.format.activation_bits
        return qnn.QuantReLU(act_quant=Uint8ActPerTensorFloat, bit_width=bits, **_range(bits))

    def sum(self) -> nn.Module:
        return QuantizedSum(self.format.sum_bits)

    def average_pool(self) -> nn.Module:
        return QuantizedAveragePool(self.format.sum_bits, signed=self.format.binary_activations)

    def max_pool(self, kernel_size: int) -> nn.Module:
        return nn.MaxPool2d(kernel_size)

    def flatten(self) -> nn.Module:
        return nn.Flatten()

    def dropout(self, probability: float) -> nn.Module:
        return Dropout(probability)
