"""The layers that Brevitas trains and calibrates. Only `quantize` imports it; later stages use the frozen network."""

from collections.abc import Sequence

import brevitas.nn as qnn
import torch
from brevitas.inject import ExtendedInjector
from brevitas.proxy import WeightQuantProxyFromInjector
from brevitas.quant import Int8ActPerTensorFloat, Uint8ActPerTensorFloat
from torch import Tensor, nn

from stages.models.layers import Dropout, Normalise
from stages.quantization.fake_quantize import fast_sign
from stages.quantization.formats import Format
from stages.quantization.quantizers import Activations, weights_of
from stages.quantization.rounding import quantize


class QuantizedWeights(ExtendedInjector):
    """Weights rounded by what the layer is given as `weight_tensor_quant`."""

    proxy_class = WeightQuantProxyFromInjector
    signed = True
    narrow_range = True


class UnsignedActivations(Uint8ActPerTensorFloat):
    tensor_quant = Activations


class SignedActivations(Int8ActPerTensorFloat):
    tensor_quant = Activations


class Sign(nn.Module):
    """The binarizer. Not Brevitas' own, which calibration would switch off, leaving no activation at all."""

    def forward(self, inputs: Tensor) -> Tensor:
        return fast_sign(inputs)


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
        self.quantizer = qnn.QuantIdentity(act_quant=SignedActivations, bit_width=bits, **_range(bits))

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        return self.quantizer(branch) + self.quantizer(shortcut)


class QuantizedAveragePool(nn.Module):
    def __init__(self, bits: int, signed: bool):
        super().__init__()
        act_quant = SignedActivations if signed else UnsignedActivations
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
    return {"scaling_stats_impl": LargestMagnitude} if bits > 8 else {}


def _without_wrapper(layer: nn.Module) -> nn.Module:
    """The layer that multiplies with plain tensors: Brevitas' own would only carry scales along, at a price."""
    layer.weight_quant.skip_create_quant_tensor = True
    return layer


class BrevitasLayers:
    """Fake-quantized layers for the given format, with the interface of `stages.models.layers.FloatLayers`."""

    def __init__(self, mean: Sequence[float], std: float, format: Format):
        self.mean, self.std, self.format = mean, std, format

    def _weights(self, edge: bool) -> dict:
        width = self.format.edge_bits if edge else self.format.weight_bits
        return {"weight_quant": QuantizedWeights, "weight_tensor_quant": weights_of(width)}

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
        layer = qnn.QuantConv2d(
            channels_in, channels_out, kernel_size, stride, padding, groups=groups, **self._weights(edge)
        )
        return _without_wrapper(layer)

    def linear(self, features_in: int, features_out: int, *, edge: bool = False) -> nn.Module:
        return _without_wrapper(qnn.QuantLinear(features_in, features_out, bias=True, **self._weights(edge)))

    def batch_norm(self, channels: int) -> nn.Module:
        return nn.BatchNorm2d(channels)

    def activation(self) -> nn.Module:
        if self.format.binary_activations:
            return Sign()
        bits = self.format.activation_bits
        return qnn.QuantReLU(act_quant=UnsignedActivations, bit_width=bits, **_range(bits))

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
