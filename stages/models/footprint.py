"""What a network costs on a device: parameters, multiply-accumulates, bytes of weights and of activations."""

from dataclasses import dataclass

import torch
from torch import nn

from stages.models.layers import AveragePool, Dropout, Normalise, Sum
from stages.quantization.formats import EDGE_BITS, Format

FLOAT_BITS = 32


@dataclass(frozen=True)
class Footprint:
    """`parameters` counts trainable numbers. The bytes are those of a deployed network, batch norm folded away.

    What makes the features of sound is not counted: the network's input are the features.

    `weight_bytes`: packed weights, and 4 bytes an output channel for the bias and, if quantized, 4 for the scale.
    `peak_activation_bytes`: the largest sum of tensors that live at the same time while one sample passes, with batch
    norm and activation applied in place and a residual sum written over its branch.
    """

    parameters: int
    macs: int
    weight_bytes: int
    peak_activation_bytes: int


@dataclass(frozen=True)
class _Step:
    """One layer's call: the buffers it reads and the one it leaves its output in."""

    layer: nn.Module
    reads: tuple[int, ...]
    writes: int
    numel: int
    macs: int


FRONT_END = "front_end"  # how a model names what makes features of sound
_IN_PLACE = (nn.BatchNorm2d, nn.ReLU, nn.Flatten, Dropout, Normalise, Sum)


def _trace(network: nn.Module, input_shape: tuple[int, int, int]) -> list[_Step]:
    steps: list[_Step] = []
    tensors = []  # kept alive, so that their ids stay distinct
    buffers: dict[int, int] = {}

    def hook(layer, inputs, output):
        reads = tuple(buffers.setdefault(id(tensor), len(buffers)) for tensor in inputs)
        tensors.extend((*inputs, output))
        if isinstance(layer, nn.Identity):
            return
        writes = reads[0] if isinstance(layer, _IN_PLACE) else len(tensors) + 10**6
        buffers[id(output)] = writes
        macs = output[0].numel() * layer.weight[0].numel() if isinstance(layer, nn.Conv2d | nn.Linear) else 0
        steps.append(_Step(layer, reads, writes, output[0].numel(), macs))

    counted = [module for name, module in network.named_modules() if name.partition(".")[0] != FRONT_END]
    leaves = [module for module in counted if not list(module.children())]
    handles = [leaf.register_forward_hook(hook) for leaf in leaves]
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, *input_shape))
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    return steps


def _peak_activation_bytes(steps: list[_Step], input_bits: int, sum_bits: int, bits: int) -> int:
    last_use = {buffer: index for index, step in enumerate(steps) for buffer in (*step.reads, step.writes)}
    sizes = {steps[0].reads[0]: steps[0].numel * input_bits / 8}  # the first layer normalises inputs in place
    peak = sizes[steps[0].reads[0]]
    for index, step in enumerate(steps):
        if isinstance(step.layer, nn.Conv2d | nn.Linear | AveragePool):
            # The output is stored as its fused activation leaves it; logits and summands of a residual are wider.
            following = next((s.layer for s in steps[index + 1 :] if step.writes in s.reads and not _fused(s)), None)
            wide = isinstance(following, Sum | None) or isinstance(step.layer, AveragePool)
            sizes[step.writes] = step.numel * (sum_bits if wide else bits) / 8
        elif isinstance(step.layer, nn.ReLU | nn.MaxPool2d):
            sizes[step.writes] = step.numel * bits / 8
        live = sum(size for buffer, size in sizes.items() if last_use[buffer] >= index)
        peak = max(peak, live)
    return int(peak)


def _fused(step: _Step) -> bool:
    return isinstance(step.layer, nn.BatchNorm2d)


def footprint(network: nn.Module, input_shape: tuple[int, int, int], format: Format | None = None) -> Footprint:
    """The cost of a float network (built from `FloatLayers`), or of the same network in a quantized `format`."""
    steps = _trace(network, input_shape)
    weighted = [step.layer for step in steps if step.macs]
    edges = {id(weighted[0]), id(weighted[-1])}

    def bytes_of(layer: nn.Module) -> int:
        channels = layer.weight.shape[0]
        if format is None:
            return 4 * (layer.weight.numel() + channels)
        bits = EDGE_BITS if id(layer) in edges else format.weight_bits
        return -(-layer.weight.numel() * bits // 8) + 8 * channels

    widths = (FLOAT_BITS,) * 3 if format is None else (format.input_bits, format.sum_bits, format.activation_bits)
    return Footprint(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        macs=sum(step.macs for step in steps),
        weight_bytes=sum(bytes_of(layer) for layer in weighted),
        peak_activation_bytes=_peak_activation_bytes(steps, *widths),
    )
