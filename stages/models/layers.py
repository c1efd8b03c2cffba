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

    `mean` lies on the grid of 8-bit images and `std` is one number for all channels, so that a quantized first layer
    works on the integers `255 * (inputs - mean)`, or `65535 * (inputs - mean)` where inputs have 16 bits.
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


class Dropout(nn.Module):
    """Sets values to zero at random while training, and scales the others up (Srivastava et al. 2014, JMLR 15:1929-58).

    A mask depends on the layer's seed, drawn when it is made, and on how many masks it has made. That number is one of
    the network's tensors, so that a training that goes on from a checkpoint draws what it would have drawn.
    """

    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability
        self.seed = int(torch.randint(2**62, ()))
        self.register_buffer("masks", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training:
            return inputs
        generator = torch.Generator().manual_seed(self.seed + int(self.masks))
        self.masks += 1
        kept = torch.rand(inputs.shape, generator=generator) >= self.probability
        return inputs * kept.to(inputs) / (1 - self.probability)


class FloatLayers:
    """Float layers. `edge` marks the first and the last layer, whose weights have a width of their own.

    A kernel's size and a padding are one number, or (height, width).
    """

    def __init__(self, mean: Sequence[float], std: float):
        self.mean, self.std = mean, std

    def input(self) -> nn.Module:
        return Normalise(self.mean, self.std)

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

    def max_pool(self, kernel_size: int) -> nn.Module:
        return nn.MaxPool2d(kernel_size)

    def flatten(self) -> nn.Module:
        return nn.Flatten()

    def dropout(self, probability: float) -> nn.Module:
        return Dropout(probability)
