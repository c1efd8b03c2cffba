"""Frozen networks with random integers, and scales that random images make use of: no training, no Brevitas."""

from functools import partial
from importlib import import_module

import torch
from torch import nn

from stages.quantization.formats import NAMED_WIDTHS, Format
from stages.quantization.frozen_layers import (
    FrozenBatchNorm,
    FrozenLayers,
    FrozenQuantizer,
    FrozenWeights,
    check_exact,
)
from stages.quantization.layer_formats import build_in_format

CLASSES = 4


def random_network(model: str, format: Format, shape: tuple[int, int, int]) -> nn.Module:
    """A model's network in a format, for images of the shape or, of sound, clips."""
    channels = shape[0]
    layers = partial(FrozenLayers, tuple(round(120 - 10 * c) / 255 for c in range(channels)), 0.25)
    module = import_module(f"stages.models.{model}")
    network = build_in_format(partial(module.network, input_shape=shape, num_classes=CLASSES), layers, format).eval()
    ternary = format.weight_bits in NAMED_WIDTHS and NAMED_WIDTHS[format.weight_bits] == 2
    return _randomised(network, shape, ternary)


@torch.no_grad()
def _randomised(network: nn.Module, shape: tuple[int, int, int], ternary: bool) -> nn.Module:
    """The network with random integers in all of its layers; some factors of batch norm are negative."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    for layer in network.modules():
        if isinstance(layer, FrozenWeights):
            integers = normal(*layer.weight.shape)
            if layer.bits == 1:
                layer.weight.copy_(torch.where(integers < 0, -1, 1))
            else:
                highest = 1 if ternary and layer.bits == 2 else 2 ** (layer.bits - 1) - 1
                layer.weight.copy_((integers * max(highest / 3, 0.7)).round().clamp(-highest, highest))
            layer.weight_scale.copy_(0.5 + normal(len(layer.weight)).abs())
            layer.bias.copy_(normal(len(layer.weight)))
        elif isinstance(layer, FrozenBatchNorm):
            layer.weight.copy_(normal(len(layer.weight)))
            layer.running_mean.copy_(normal(len(layer.weight)) / 5)
            layer.running_var.copy_(0.5 + normal(len(layer.weight)).abs())
            layer.bias.copy_(0.3 + normal(len(layer.weight)) / 3)
    _fit(network, random_images(shape, 16, seed=1))
    check_exact(network, shape)
    return network


def _fit(network: nn.Module, inputs: torch.Tensor) -> None:
    """Sets scales and biases so that each channel varies from input to input, and quantizers cut the largest values."""

    def spread(layer: FrozenWeights, _: tuple, sums: torch.Tensor) -> torch.Tensor:
        channels = sums.transpose(0, 1).flatten(1)
        middle, deviation = channels.mean(1), channels.std(1).clamp(min=1e-3)
        layer.weight_scale.div_(deviation)
        layer.bias.copy_((layer.bias - middle) / deviation)
        shape = (-1, *[1] * (sums.dim() - 2))
        return (sums - middle.view(shape)) / deviation.view(shape)

    def cut(quantizer: FrozenQuantizer, values: tuple[torch.Tensor]) -> None:
        # No simple fraction, which would put many means of few codes in the middle between two codes.
        quantizer.scale.copy_(0.7937 * values[0].abs().max() / quantizer.highest)

    handles = []
    for layer in network.modules():
        if isinstance(layer, FrozenWeights):
            handles.append(layer.register_forward_hook(spread))
        elif isinstance(layer, FrozenQuantizer):
            handles.append(layer.register_forward_pre_hook(cut))
    network(inputs)
    for handle in handles:
        handle.remove()


def random_images(shape: tuple[int, int, int], count: int, seed: int = 0) -> torch.Tensor:
    """Images `[count, C, H, W]` of smooth noise on the 8-bit grid."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, shape[0], 5, 5, generator=generator)
    return nn.functional.interpolate(coarse, shape[1:], mode="bilinear").mul(255).round().div(255)
