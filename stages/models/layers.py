"""The layers a model is built from, in float.

A model (`stages/models/<name>.py`) names its layers through a layer set and never says which number format they have.
The same model file therefore gives the float network (`FloatLayers`), the network that Brevitas trains or calibrates
(`stages.quantization.brevitas_layers`), and the frozen integer network (`stages.quantization.frozen_layers`). All
three have the same module names, so tensors move between them by name.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """`(inputs - mean) / std` per channel, inputs `[N,C,H,W]` in [0,1].

    `mean` lies on the input's 8-bit grid and `std` is one number for all channels, so that a quantized first layer
    works on the integers `255 * (inputs - mean)`.
    """

    def __init__(self, mean: Sequence[float], std: float):
        super().__init__()
        self.std = std
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs - self.mean) / self.std


class Sum(nn.Module):
    """The sum of a residual block's two branches."""

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        return branch + shortcut


class AveragePool(nn.Module):
    """Mean over all positions: `[N,C,H,W]` -> `[N,C]`."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.mean((2, 3))


class FloatLayers:
    """Float layers. `edge` marks the first and the last layer, which stay at 8 bits in every number format."""

    def __init__(self, mean: Sequence[float], std: float):
        self.mean, self.std = mean, std

    def input(self) -> nn.Module:
        return Normalise(self.mean, self.std)

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
        return nn.Conv2d(channels_in, channels_out, kernel_size, stride, padding, groups=groups)

    def linear(self, features_in: int, features_out: int, *, edge: bool = False) -> nn.Module:
        return nn.Linear(features_in, features_out)

    def batch_norm(self, channels: int) -> nn.Module:
        return nn.BatchNorm2d(channels)

    def activation(self) -> nn.Module:
        return nn.ReLU()

    def sum(self) -> nn.Module:
        return Sum()

    def average_pool(self) -> nn.Module:
        return AveragePool()
