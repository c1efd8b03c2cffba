"""Networks in which one part alone is quantized, between a frozen network and the float network that it was made from.

They say which part of quantization changes what. Parameters, and so batch norm and biases, are either the float
network's or those that the frozen network has; activations are rounded or not, and so are inputs:

| part          | inputs  | parameters | activations, residual sums, pooled features    |
|---------------|---------|------------|------------------------------------------------|
| `none`        | real    | float      | real: the float network itself                 |
| `input`       | rounded | float      | real                                           |
| `weights`     | real    | quantized  | real, clamped to the frozen network's ranges   |
| `activations` | real    | float      | rounded as in the frozen network               |
| `all`         | rounded | quantized  | rounded: the frozen network itself             |

After training, this is all that can be meant by a part alone. After quantization-aware training it is less. The weights
that were rounded in its last step are not stored, and are not the float network's, since training went on: `weights`
shows that training and the rounding together. Rounding the float network's own weights instead would show tensors that
no network of the study has. What was trained together also comes apart. Two things are done about that, which change
nothing where it did not:

- Quantized weights keep the ranges of the activations that they were trained for, and lose the rounding alone. Where
  the sign replaces the ReLU, they see its straight-through function, the clamp to [-1, 1]. `weights` is then the
  network whose gradients straight-through attackers take, at other activations.
- Batch norm expects the statistics of another network, and is told how they moved (`correct_batch_norm`).

A sign is still no rounded ReLU: float weights under signs (`activations` of one bit) hardly work, and the robustness of
a part has to be read beside its clean accuracy. Rounding passes gradients straight through in all of them.
"""

from collections.abc import Callable
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.quantization.frozen_layers import (
    Codes,
    FrozenBatchNorm,
    FrozenInput,
    FrozenQuantizer,
    FrozenSign,
    FrozenWeights,
)

PARTS = ("none", "input", "weights", "activations", "all")
STATISTICS = ("weight", "bias", "running_mean", "running_var")
REAL = 0  # stands for the largest code where none are: real values are not split into digits to be summed exactly


class RealInput(nn.Module):
    """The frozen network's input without its rounding."""

    def __init__(self, frozen: FrozenInput):
        super().__init__()
        self.frozen = frozen

    def forward(self, inputs: Tensor) -> Codes:
        return Codes(inputs / self.frozen.grid_scale - self.frozen.zero_point, self.frozen.scale, REAL)


class Real(nn.Module):
    """A function of real values where the frozen network has one to codes: its results pass as codes of scale 1."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Codes:
        values = self.function(inputs)
        return Codes(values, values.new_ones(()), REAL)


def parts(frozen: nn.Module, float_network: nn.Module, calibration: Tensor) -> dict[str, nn.Module]:
    """The networks of `PARTS`, in evaluation mode; `none` and `all` are the two given.

    frozen, float_network: of the same model, in evaluation mode and on one device.
    calibration: inputs [M, ...] in [0, 1] for the statistics of batch norm, in one batch.
    """
    made = {
        "none": float_network,
        "input": partly_quantized(frozen, float_network, inputs=True),
        "weights": partly_quantized(frozen, float_network, weights=True),
        "activations": partly_quantized(frozen, float_network, activations=True),
        "all": frozen,
    }
    correct_batch_norm(made["weights"], frozen, calibration)
    correct_batch_norm(made["activations"], partly_quantized(frozen, float_network), calibration)
    return {part: made[part].eval() for part in PARTS}


def partly_quantized(
    frozen: nn.Module,
    float_network: nn.Module,
    *,
    inputs: bool = False,
    weights: bool = False,
    activations: bool = False,
) -> nn.Module:
    """A copy of the frozen network that keeps what is named of it, and has the float network's in all other places.

    Where it keeps the weights without the activations, these keep their ranges. Batch norm is not corrected yet.
    """
    network = deepcopy(frozen)
    if not inputs:
        _replace(network, FrozenInput, RealInput)
    if not weights:
        _take_parameters(network, float_network)
    if not activations:
        _replace(network, FrozenQuantizer, lambda quantizer: Real(_clamp(quantizer) if weights else _unchanged))
        _replace(network, FrozenSign, lambda sign: Real(F.hardtanh if weights else F.relu))
    return network


@torch.no_grad()
def correct_batch_norm(network: nn.Module, reference: nn.Module, calibration: Tensor) -> None:
    """Tells batch norm, in place, how its inputs' statistics moved from the network that it comes from.

    Layer by layer, so that each channel leaves batch norm with the mean and variance that it has in that network on the
    same images: nothing changes where its inputs did not move. This extends the empirical bias correction of Nagel et
    al. 2019 (arXiv 1906.04721, section 4.2), which shifts means, to variances.

    reference: has batch norm of the same names and running statistics. calibration: inputs [M, ...] in [0, 1].
    """
    expected: dict[str, tuple[Tensor, Tensor]] = {}

    def measure(name: str, _: FrozenBatchNorm, inputs: Tensor) -> None:
        expected[name] = _statistics(inputs)

    def correct(name: str, layer: FrozenBatchNorm, inputs: Tensor) -> None:
        (mean, variance), (expected_mean, expected_variance) = _statistics(inputs), expected[name]
        ratio = (variance + layer.epsilon) / (expected_variance + layer.epsilon)
        layer.running_mean = mean - (expected_mean - layer.running_mean) * ratio.sqrt()
        layer.running_var = (layer.running_var + layer.epsilon) * ratio - layer.epsilon

    for passed, action in ((reference, measure), (network, correct)):
        _before_batch_norm(passed, action, calibration)


def _before_batch_norm(
    network: nn.Module, action: Callable[[str, FrozenBatchNorm, Tensor], None], inputs: Tensor
) -> None:
    """One pass, in which `action` sees the inputs of each batch norm and may change it before they go through."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        return lambda layer, arguments: action(name, layer, arguments[0])

    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, FrozenBatchNorm)]
    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers]
    try:
        network(inputs)
    finally:
        for handle in handles:
            handle.remove()


def _statistics(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel [C] over samples and positions of [M, C, H, W]."""
    variance, mean = torch.var_mean(inputs, dim=(0, 2, 3), correction=0)
    return mean, variance


def _take_parameters(network: nn.Module, float_network: nn.Module) -> None:
    """Weights as they are, for codes that they then are no integers beside; biases and batch norm."""
    for name, layer in network.named_modules():
        if isinstance(layer, FrozenWeights):
            source = float_network.get_submodule(name)
            layer.weight = source.weight.detach().clone()
            layer.weight_scale = torch.ones_like(layer.weight_scale)
            layer.bias = source.bias.detach().clone()
        elif isinstance(layer, FrozenBatchNorm):
            source = float_network.get_submodule(name)
            for name_of_tensor in STATISTICS:
                setattr(layer, name_of_tensor, getattr(source, name_of_tensor).detach().clone())
            layer.epsilon = source.eps


def _replace(network: nn.Module, kind: type[nn.Module], made: Callable[[nn.Module], nn.Module]) -> None:
    for name, layer in list(network.named_modules()):
        if isinstance(layer, kind):
            network.set_submodule(name, made(layer))


def _clamp(quantizer: FrozenQuantizer) -> Callable[[Tensor], Tensor]:
    lowest, highest = (bound * quantizer.scale for bound in (quantizer.lowest, quantizer.highest))
    return lambda values: values.clamp(lowest, highest)


def _unchanged(values: Tensor) -> Tensor:
    return values
