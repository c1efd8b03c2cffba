"""The layers that Brevitas trains and calibrates. Only `quantize` imports it; later stages use the frozen network."""

from collections.abc import Sequence

import brevitas.nn as qnn
from brevitas.inject.enum import QuantType, ScalingImplType, ScalingPerOutputType, StatsOp
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8WeightPerChannelFloat,
    Uint8ActPerTensorFloat,
)
from brevitas.quant.base import SignedBinaryClampedConst
from brevitas.quant.solver import WeightQuantSolver
from torch import Tensor, nn

from stages.models.layers import Normalise
from stages.quantization.formats import EDGE_BITS, INPUT_SCALE, Format
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
    """Inputs rounded to their 8-bit grid, then normalised."""

    def __init__(self, mean: Sequence[float], std: float):
        super().__init__()
        self.normalise = Normalise(mean, std)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.normalise(quantize(inputs, INPUT_SCALE, 0, 255) * INPUT_SCALE)


class QuantizedSum(nn.Module):
    """Both branches of a residual block through one quantizer, then added."""

    def __init__(self):
        super().__init__()
        self.quantizer = qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, bit_width=EDGE_BITS)

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        return self.quantizer(branch) + self.quantizer(shortcut)


class QuantizedAveragePool(nn.Module):
    def __init__(self, signed: bool):
        super().__init__()
        act_quant = Int8ActPerTensorFloat if signed else Uint8ActPerTensorFloat
        self.quantizer = qnn.QuantIdentity(act_quant=act_quant, bit_width=EDGE_BITS)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.quantizer(inputs.mean((2, 3)))


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
        return QuantizedInput(self.mean, self.std)

    def convolution(
        self,
        channels_in: int,
        channels_out: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
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
        return qnn.QuantReLU(act_quant=Uint8ActPerTensorFloat, bit_width=self.format.activation_bits)

    def sum(self) -> nn.Module:
        return QuantizedSum()

    def average_pool(self) -> nn.Module:
        return QuantizedAveragePool(signed=self.format.binary_activations)
