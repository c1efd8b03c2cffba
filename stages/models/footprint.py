"""What a network costs on a device: parameters, multiply-accumulates, bytes of weights and of activations."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from stages.models.layers import AveragePool, Dropout, Normalise, Sum
from stages.quantization.formats import Format, Width, bits_in_memory

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

    name: str
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

    def hook(name, layer, inputs, output):
        reads = tuple(buffers.setdefault(id(tensor), len(buffers)) for tensor in inputs)
        tensors.extend((*inputs, output))
        if isinstance(layer, nn.Identity):
            return
        writes = reads[0] if isinstance(layer, _IN_PLACE) else len(tensors) + 10**6
        buffers[id(output)] = writes
        macs = output[0].numel() * layer.weight[0].numel() if isinstance(layer, nn.Conv2d | nn.Linear) else 0
        steps.append(_Step(name, layer, reads, writes, output[0].numel(), macs))

    counted = [(name, module) for name, module in network.named_modules() if name.partition(".")[0] != FRONT_END]
    leaves = [(name, module) for name, module in counted if not list(module.children())]
    handles = [leaf.register_forward_hook(partial(hook, name)) for name, leaf in leaves]
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, *input_shape))
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    return steps


def _peak_activation_bytes(steps: list[_Step], format: Format) -> int:
    last_use = {buffer: index for index, step in enumerate(steps) for buffer in (*step.reads, step.writes)}
    # The first layer normalises inputs in place.
    bits = {steps[0].reads[0]: format.at(steps[0].name).input_bits}  # of a number in each buffer
    sizes = {buffer: steps[0].numel * width / 8 for buffer, width in bits.items()}
    peak = sizes[steps[0].reads[0]]
    for index, step in enumerate(steps):
        own = format.at(step.name)
        if isinstance(step.layer, AveragePool):
            bits[step.writes] = own.sum_bits
        elif isinstance(step.layer, nn.Conv2d | nn.Linear):
            # The output is stored as its fused activation leaves it; logits and summands of a residual are wider.
            following = next((s for s in steps[index + 1 :] if step.writes in s.reads and not _fused(s)), None)
            reader = format if following is None else format.at(following.name)
            wide = following is None or isinstance(following.layer, Sum)
            bits[step.writes] = reader.sum_bits if wide else reader.activation_bits
        elif isinstance(step.layer, nn.ReLU):
            bits[step.writes] = own.activation_bits
        elif isinstance(step.layer, nn.MaxPool2d):
            bits[step.writes] = bits[step.reads[0]]
        if isinstance(step.layer, nn.Conv2d | nn.Linear | AveragePool | nn.ReLU | nn.MaxPool2d):
            sizes[step.writes] = step.numel * bits[step.writes] / 8
        live = sum(size for buffer, size in sizes.items() if last_use[buffer] >= index)
        peak = max(peak, live)
    return int(peak)


def _fused(step: _Step) -> bool:
    return isinstance(step.layer, nn.BatchNorm2d)


def footprint(network: nn.Module, input_shape: tuple[int, int, int], format: Format | None = None) -> Footprint:
    """The cost of a float network (built from `FloatLayers`), or of the same network in a quantized `format`."""
    steps = _trace(network, input_shape)
    weighted = [step for step in steps if step.macs]
    edges = weighted[0].name, weighted[-1].name

    def bytes_of(step: _Step) -> int:
        shape = step.layer.weight.shape
        if format is None:
            return 4 * (shape.numel() + shape[0])
        own = format.at(step.name)
        return weight_bytes(shape, own.edge_bits if step.name in edges else own.weight_bits)

    widths = Format(*(FLOAT_BITS,) * 4) if format is None else format
    return Footprint(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        macs=sum(step.macs for step in steps),
        weight_bytes=sum(bytes_of(step) for step in weighted),
        peak_activation_bytes=_peak_activation_bytes(steps, widths),
    )


def weight_bytes(shape: torch.Size, width: Width) -> int:
    """Those of a quantized layer with weights of this shape: the weights packed, and a bias and a scale a channel."""
    return -(-shape.numel() * bits_in_memory(width) // 8) + 8 * shape[0]
