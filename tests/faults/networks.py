"""Small frozen networks of any width with random weights, and images that they tell apart."""

import torch
from torch import nn

from stages.models.layers import FloatLayers
from stages.quantization.formats import Format
from stages.quantization.frozen_layers import FrozenBatchNorm, FrozenLayers, FrozenQuantizer, FrozenWeights

SHAPE, CLASSES = (1, 8, 8), 4
MEAN, STD = (0.0,), 0.5


class Small(nn.Module):
    """A residual network: a convolution, a block with a shortcut, a linear layer."""

    def __init__(self, layers):
        super().__init__()
        self.input = layers.input()
        self.convolution = layers.convolution(1, 4, 3, padding=1, edge=True)
        self.norm = layers.batch_norm(4)
        self.activation = layers.activation()
        self.inner = layers.convolution(4, 6, 3, stride=2, padding=1)
        self.shortcut = layers.convolution(4, 6, 1, stride=2)
        self.sum = layers.sum()
        self.activation2 = layers.activation()
        self.pool = layers.average_pool()
        self.classifier = layers.linear(6, CLASSES, edge=True)

    def forward(self, inputs):
        hidden = self.activation(self.norm(self.convolution(self.input(inputs))))
        hidden = self.activation2(self.sum(self.inner(hidden), self.shortcut(hidden)))
        return self.classifier(self.pool(hidden))


def frozen(bits: int, seed: int = 0, activation_bits: int = 8) -> nn.Module:
    """A frozen network whose inner weights have `bits` bits."""
    generator = torch.Generator().manual_seed(seed)
    network = Small(FrozenLayers(MEAN, STD, Format(bits, activation_bits))).eval()
    for layer in network.modules():
        if isinstance(layer, FrozenWeights):
            reach = 2 ** (layer.bits - 1)
            drawn = torch.randn(layer.weight.shape, generator=generator) * reach / 3
            integers = drawn.round().clamp(-reach, reach - 1) if layer.bits > 1 else drawn.sign() + (drawn == 0)
            layer.weight.copy_(integers)
            layer.weight_scale.copy_(torch.rand(len(layer.weight), generator=generator) + 0.5).div_(reach)
            layer.bias.copy_(torch.randn(len(layer.bias), generator=generator) / 10)
        elif isinstance(layer, FrozenBatchNorm):
            layer.weight.copy_(torch.rand(len(layer.weight), generator=generator) + 0.5)
            layer.running_mean.copy_(torch.randn(len(layer.weight), generator=generator) / 10)
        elif isinstance(layer, FrozenQuantizer):
            layer.scale.fill_(2.0 / 2**layer.bits)
    return balanced(network)


def floating(seed: int = 0) -> nn.Module:
    """The same in float."""
    torch.manual_seed(seed)
    return balanced(Small(FloatLayers(MEAN, STD)).eval().requires_grad_(False))


def balanced(network: nn.Module) -> nn.Module:
    """The same with classes that all occur: logits whose means over images are zero, and whose deviations are alike."""
    with torch.no_grad():
        logits = network(drawn(200, seed=1))
        last = network.classifier
        scale = last.weight_scale if isinstance(last, FrozenWeights) else last.weight.T
        scale.div_(logits.std(0))
        last.bias.copy_((last.bias - logits.mean(0)) / logits.std(0))
    return network


def drawn(count: int, seed: int) -> torch.Tensor:
    """Images of noise in patterns: darker or brighter, and to one side."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(count, *SHAPE, generator=generator)
    ramp = torch.linspace(0, 1, SHAPE[-1]) * torch.randint(-1, 2, (count, 1, 1, 1), generator=generator)
    return (noise * torch.rand(count, 1, 1, 1, generator=generator) + ramp).clamp(0, 1)


def images(network: nn.Module, count: int = 48, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images, and as labels the network's own classes."""
    inputs = drawn(count, seed)
    with torch.no_grad():
        return inputs, network(inputs).argmax(1)


def state(network: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all tensors, float32 as integers so that what is no number compares, too."""
    return {
        name: (tensor.view(torch.int32) if tensor.dtype == torch.float32 else tensor).clone()
        for name, tensor in network.state_dict().items()
    }


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)
