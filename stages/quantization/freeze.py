"""From a network that Brevitas trained or calibrated to a frozen integer network of the same architecture."""

from collections.abc import Sequence

import torch
from torch import nn

from stages.quantization.frozen_layers import (
    FrozenActivation,
    FrozenBatchNorm,
    FrozenLinear,
    FrozenQuantizer,
    FrozenWeights,
    check_exact,
)


def _copy_weights(source: nn.Module, frozen: FrozenWeights) -> None:
    values, scale, *_ = source.weight_quant.tensor_quant(source.weight)
    frozen.weight.copy_(torch.round(values / scale))
    frozen.weight_scale.copy_(scale.flatten())
    frozen.bias.copy_(source.bias)


@torch.no_grad()
def freeze(source: nn.Module, frozen: nn.Module, input_shape: Sequence[int]) -> nn.Module:
    """Copies integers, scales, biases and batch-norm values of a Brevitas network into `frozen`, and returns it.

    `frozen` was built by the same model from `FrozenLayers`, so that its modules have the same names. Raises
    ValueError where a layer's sums would not be exact in float32.
    """
    source.eval()
    sources = dict(source.named_modules())
    for name, module in frozen.named_modules():
        if isinstance(module, FrozenWeights):
            _copy_weights(sources[name], module)
        elif isinstance(module, FrozenBatchNorm):
            for tensor in ("weight", "bias", "running_mean", "running_var"):
                getattr(module, tensor).copy_(getattr(sources[name], tensor))
        elif isinstance(module, FrozenActivation):
            module.quantizer.scale.copy_(sources[name].act_quant.scale())
        elif isinstance(module, FrozenQuantizer) and name in sources:
            module.scale.copy_(sources[name].act_quant.scale())
    frozen.eval()
    check_exact(frozen, input_shape)
    return frozen


def layer_table(frozen: nn.Module) -> list[dict]:
    """One entry a layer that holds integers or rounds to them, in the order of the architecture."""
    table = []
    for name, module in frozen.named_modules():
        if isinstance(module, FrozenWeights):
            kind = "linear" if isinstance(module, FrozenLinear) else "convolution"
            table.append({"layer": name, "kind": kind, "bits": module.bits, "shape": list(module.weight.shape)})
        elif isinstance(module, FrozenQuantizer):
            table.append(
                {
                    "layer": name,
                    "kind": "quantizer",
                    "bits": module.bits,
                    "signed": module.signed,
                    "scale": module.scale.item(),
                }
            )
    return table
