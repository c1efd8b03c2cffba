"""Frozen integer networks as ONNX graphs in QDQ form, which deployment tools and runtimes read.

Every rounding of the frozen network is a pair of QuantizeLinear and DequantizeLinear, every weight an integer behind a
DequantizeLinear with one scale an output channel, and what lies between are float operators: a tool sees the integers
and scales that the frozen network holds. Integers have 8 bits, or 16 where these do not suffice, since those are the
types that every tool has; what is narrower is clipped before it is rounded.

- Batch norm is folded into the scales and biases of the layer before it. Where its factor is negative, the channel's
  integers change their signs, as tools expect positive scales.
- A bias is an addition of its own behind its convolution. Runtimes with integer kernels, ONNX Runtime among them, round
  a convolution's own bias to a multiple of its sums' scale, which changes classes where sums are few units large.
- QuantizeLinear rounds `x / scale` to the nearest integer, halves to even, as the frozen layers do. But a runtime sums
  floats where these have exact sums of integers, and with batch norm folded rounds at other places: an activation
  within some 1e-6 of the middle between two integers may fall to the other.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial, singledispatch

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from stages.models.footprint import FRONT_END
from stages.quantization.frozen_layers import (
    FrozenActivation,
    FrozenAveragePool,
    FrozenBatchNorm,
    FrozenConvolution,
    FrozenFlatten,
    FrozenInput,
    FrozenLinear,
    FrozenMaxPool,
    FrozenQuantizer,
    FrozenSign,
    FrozenSum,
    FrozenWeights,
)

OPSET, OPSET_OF_16_BITS = 13, 21  # the first that have scales of channels, and 16-bit integers
INPUT, BATCH = "input", "N"  # names in the graph


@dataclass(frozen=True)
class Quantization:
    """What QuantizeLinear rounds a tensor to: integers from `lowest` to `highest`, of one scale."""

    scale: float
    lowest: int
    highest: int

    @property
    def type(self) -> type[np.integer]:
        """The narrowest type of 8 or 16 bits that has them all."""
        types = (np.int8, np.int16) if self.lowest < 0 else (np.uint8, np.uint16)
        return next(one for one in types if self.highest <= np.iinfo(one).max and self.lowest >= np.iinfo(one).min)

    @property
    def fills_its_type(self) -> bool:
        """Whether saturation does what the frozen network's clamp does."""
        return (self.lowest, self.highest) == (np.iinfo(self.type).min, np.iinfo(self.type).max)


@dataclass(frozen=True)
class Values:
    """A float tensor of the graph, and what it was rounded to if a DequantizeLinear gives it."""

    name: str
    quantization: Quantization | None = None


@dataclass(frozen=True)
class Sums:
    """What a layer with weights gives, not written yet: batch norm may follow, and change scales and biases.

    scale, bias: float64 `[out]`, the scale without that of the layer's input.
    """

    name: str
    layer: FrozenWeights
    inputs: Values
    scale: Tensor
    bias: Tensor


class Graph:
    """Nodes and constants in the order in which they are written. A node has the name of the tensor that it gives."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, array: np.ndarray | np.generic) -> str:
        self.constants[name] = numpy_helper.from_array(np.asarray(array), name)
        return name

    def node(self, operator: str, name: str, *inputs: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    @property
    def opset(self) -> int:
        """The lowest version of the operators that has all types of the graph."""
        wide = any(tensor.data_type in (TensorProto.INT16, TensorProto.UINT16) for tensor in self.constants.values())
        return OPSET_OF_16_BITS if wide else OPSET

    def quantized(self, name: str, values: Values, to: Quantization) -> Values:
        """The values through a pair of QuantizeLinear and DequantizeLinear; they lie between `to`'s bounds already."""
        scale = self.constant(f"{name}.scale", np.float32(to.scale))
        zero = self.constant(f"{name}.zero_point", to.type(0))
        integers = self.node("QuantizeLinear", f"{name}.integers", values.name, scale, zero)
        return Values(self.node("DequantizeLinear", f"{name}.values", integers, scale, zero), to)

    def clipped(self, name: str, values: Values, to: Quantization) -> Values:
        """The values within the bounds of a quantization, which the type of its integers may exceed."""
        if to.fills_its_type:
            return values
        bounds = {"lowest": to.lowest, "highest": to.highest}
        limits = [
            self.constant(f"{name}.{bound}", np.float32(to.scale) * np.float32(code)) for bound, code in bounds.items()
        ]
        return Values(self.node("Clip", f"{name}.clipped", values.name, *limits))

    def requantized(self, name: str, moved: str, before: Values) -> Values:
        """Values that were only moved or chosen, with the rounding that they had before, which changes none of them."""
        if before.quantization is None:
            return Values(moved)
        return self.quantized(name, Values(moved), before.quantization)

    def written(self, values: Values | Sums) -> Values:
        """The values of a tensor, written where a layer's sums were not yet."""
        if not isinstance(values, Sums):
            return values
        name, layer = values.name, values.layer
        integers, scale = _with_positive_scales(name, layer.weight, values.scale)
        weight = self.node(
            "DequantizeLinear",
            f"{name}.weight.values",
            self.constant(f"{name}.weight", integers),
            self.constant(f"{name}.weight.scale", scale),
            self.constant(f"{name}.weight.zero_point", np.zeros(len(scale), np.int8)),
            axis=0,
        )
        operator, attributes = _operator(layer)
        sums = self.node(operator, f"{name}.sums", values.inputs.name, weight, **attributes)
        channels = values.bias.numpy().astype(np.float32).reshape(1, -1, *[1] * (layer.weight.dim() - 2))
        return Values(self.node("Add", name, sums, self.constant(f"{name}.bias", channels)))


def _operator(layer: FrozenWeights) -> tuple[str, dict[str, object]]:
    if isinstance(layer, FrozenLinear):
        return "Gemm", {"transB": 1}
    rows, columns = layer.padding if isinstance(layer.padding, tuple) else (layer.padding, layer.padding)
    return "Conv", {
        "kernel_shape": list(layer.weight.shape[2:]),
        "strides": [layer.stride, layer.stride],
        "pads": [rows, columns, rows, columns],
        "group": layer.groups,
    }


def _with_positive_scales(name: str, weight: Tensor, scale: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """int8 `[out, ...]` and float32 `[out]`, above 0, of the same products as integers and scales of any sign."""
    signs = scale.sign().short().view(-1, *[1] * (weight.dim() - 1))
    integers = weight.short() * signs
    if integers.max() > np.iinfo(np.int8).max:
        raise ValueError(
            f"layer {name}: a weight of -128 changes its sign with a negative batch norm, expected -127 or more"
        )
    return integers.numpy().astype(np.int8), torch.where(scale == 0, 1, scale.abs()).numpy().astype(np.float32)


@singledispatch
def write(layer: nn.Module, graph: Graph, name: str, *inputs: Values | Sums) -> Values | Sums:
    """Writes a layer's nodes into the graph, and returns what it gives."""
    raise ValueError(f"layer {name}: {type(layer).__name__} has no form in ONNX QDQ, expected one of `FrozenLayers`")


@write.register
def _(layer: FrozenInput, graph: Graph, name: str, inputs: Values) -> Values:
    """Integers of the grid's scale, read in that of normalised values: those of the mean are their zero points."""
    to = Quantization(layer.grid_scale, 0, layer.highest)
    scale, zero = graph.constant(f"{name}.grid", np.float32(to.scale)), graph.constant(f"{name}.zero", to.type(0))
    codes = graph.node("QuantizeLinear", f"{name}.integers", inputs.name, scale, zero)
    channels = layer.zero_point.flatten().numpy().astype(to.type)
    scales = graph.constant(f"{name}.scale", np.full(len(channels), layer.scale.item(), np.float32))
    zeros = graph.constant(f"{name}.zero_point", channels)
    return Values(graph.node("DequantizeLinear", f"{name}.values", codes, scales, zeros, axis=1))


@write.register(FrozenConvolution)
@write.register(FrozenLinear)
def _(layer: FrozenWeights, graph: Graph, name: str, inputs: Values | Sums) -> Sums:
    return Sums(name, layer, graph.written(inputs), layer.weight_scale.double(), layer.bias.double())


@write.register
def _(layer: FrozenBatchNorm, graph: Graph, name: str, inputs: Values | Sums) -> Sums:
    if not isinstance(inputs, Sums):
        raise ValueError(f"layer {name}: batch norm follows no layer with weights, expected one to fold it into")
    factor = layer.weight.double() / torch.sqrt(layer.running_var.double() + layer.epsilon)
    bias = (inputs.bias - layer.running_mean.double()) * factor + layer.bias.double()
    return replace(inputs, scale=inputs.scale * factor, bias=bias)


def _quantization(quantizer: FrozenQuantizer) -> Quantization:
    return Quantization(quantizer.scale.item(), quantizer.lowest, quantizer.highest)


@write.register
def _(layer: FrozenActivation, graph: Graph, name: str, inputs: Values | Sums) -> Values:
    to, values = _quantization(layer.quantizer), graph.written(inputs)
    if to.fills_its_type:
        values = Values(graph.node("Relu", f"{name}.relu", values.name))
    return graph.quantized(name, graph.clipped(name, values, to), to)


@write.register
def _(layer: FrozenSign, graph: Graph, name: str, inputs: Values | Sums) -> Values:
    zero, one = graph.constant(f"{name}.threshold", np.float32(0)), graph.constant(f"{name}.one", np.float32(1))
    minus_one = graph.constant(f"{name}.minus_one", np.float32(-1))
    positive = graph.node("GreaterOrEqual", f"{name}.positive", graph.written(inputs).name, zero)
    signs = Values(graph.node("Where", f"{name}.sign", positive, one, minus_one))
    return graph.quantized(name, signs, Quantization(layer.scale.item(), -1, 1))


@write.register
def _(layer: FrozenSum, graph: Graph, name: str, branch: Values | Sums, shortcut: Values | Sums) -> Values:
    to = _quantization(layer.quantizer)
    summands = []
    for which, values in {"branch": branch, "shortcut": shortcut}.items():
        clipped = graph.clipped(f"{name}.{which}", graph.written(values), to)
        summands.append(graph.quantized(f"{name}.{which}", clipped, to).name)
    return Values(graph.node("Add", name, *summands))


@write.register
def _(layer: FrozenAveragePool, graph: Graph, name: str, inputs: Values) -> Values:
    to, flat = _quantization(layer.quantizer), f"{name}.flat"
    means = Values(graph.node("GlobalAveragePool", f"{name}.means", inputs.name))
    values = graph.quantized(name, graph.clipped(name, means, to), to)
    return graph.requantized(flat, graph.node("Flatten", flat, values.name, axis=1), values)


@write.register
def _(layer: FrozenMaxPool, graph: Graph, name: str, inputs: Values) -> Values:
    window = [layer.kernel_size, layer.kernel_size]
    moved = graph.node("MaxPool", f"{name}.largest", inputs.name, kernel_shape=window, strides=window)
    return graph.requantized(name, moved, inputs)


@write.register
def _(layer: FrozenFlatten, graph: Graph, name: str, inputs: Values) -> Values:
    return graph.requantized(name, graph.node("Flatten", f"{name}.flat", inputs.name, axis=1), inputs)


def front_end_of(network: nn.Module) -> nn.Module:
    """What makes the features that the exported graph takes, an identity where it takes the network's own inputs."""
    return getattr(network, FRONT_END, nn.Identity())


def to_onnx(
    network: nn.Module, input_shape: Sequence[int], num_classes: int, metadata: Mapping[str, str]
) -> onnx.ModelProto:
    """The network behind its front end, if it has one, as a model from `input` in [0,1] to logits.

    network: a frozen network. input_shape: `(C, H, W)` of one sample, behind the front end. metadata: goes along.
    Raises ValueError, naming the layer, where a layer has no form in ONNX.
    """
    graph, symbolic = Graph(), deepcopy(network).cpu()
    if hasattr(symbolic, FRONT_END):
        setattr(symbolic, FRONT_END, nn.Identity())
    for name, layer in symbolic.named_modules():
        if not isinstance(layer, nn.Identity) and (_has_form(layer) or not list(layer.children())):
            layer.forward = partial(write, layer, graph, name)
    try:
        logits = graph.written(symbolic(Values(INPUT)))
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f"{type(network).__name__}: computes something itself ({error}), expected it to hand values to layers alone"
        ) from error
    described = helper.make_graph(
        graph.nodes,
        "network",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [BATCH, *input_shape])],
        [helper.make_tensor_value_info(logits.name, TensorProto.FLOAT, [BATCH, num_classes])],
        list(graph.constants.values()),
    )
    opsets = [helper.make_opsetid("", graph.opset)]
    model = helper.make_model(
        described,
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="tinyrobust",
    )
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model


def _has_form(layer: nn.Module) -> bool:
    return write.dispatch(type(layer)) is not write.dispatch(object)
