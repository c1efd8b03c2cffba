"""ResNet-8, the image model of MLPerf Tiny (Banbury et al. 2021, arXiv 2106.07597).

Biases on all convolutions, no batch norm on the shortcuts. At 3x32x32 and 10 classes: 78,186 trainable parameters
(78,666 with batch-norm statistics) and 12.50 M multiply-accumulates.
"""

from torch import Tensor, nn

MIN_SIZE = (8, 8)  # height and width, halved twice


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a strided 1x1 convolution where the shape changes."""

    def __init__(self, layers, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        self.convolution1 = layers.convolution(channels_in, channels_out, 3, stride=stride, padding=1)
        self.norm1 = layers.batch_norm(channels_out)
        self.activation1 = layers.activation()
        self.convolution2 = layers.convolution(channels_out, channels_out, 3, padding=1)
        self.norm2 = layers.batch_norm(channels_out)
        same_shape = stride == 1 and channels_in == channels_out
        self.shortcut = nn.Identity() if same_shape else layers.convolution(channels_in, channels_out, 1, stride=stride)
        self.sum = layers.sum()
        self.activation2 = layers.activation()

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.activation1(self.norm1(self.convolution1(inputs)))
        hidden = self.norm2(self.convolution2(hidden))
        return self.activation2(self.sum(hidden, self.shortcut(inputs)))


class ResNet8(nn.Module):
    def __init__(self, layers, input_shape: tuple[int, int, int], num_classes: int):
        super().__init__()
        self.input = layers.input()
        self.convolution = layers.convolution(input_shape[0], 16, 3, padding=1, edge=True)
        self.norm = layers.batch_norm(16)
        self.activation = layers.activation()
        self.block1 = Block(layers, 16, 16, stride=1)
        self.block2 = Block(layers, 16, 32, stride=2)
        self.block3 = Block(layers, 32, 64, stride=2)
        self.pool = layers.average_pool()
        self.classifier = layers.linear(64, num_classes, edge=True)

    def features(self, inputs: Tensor) -> Tensor:
        hidden = self.activation(self.norm(self.convolution(self.input(inputs))))
        return self.pool(self.block3(self.block2(self.block1(hidden))))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classifier(self.features(inputs))


def network(layers, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """`[N,C,H,W]` in [0,1] -> logits `[N,num_classes]`."""
    return ResNet8(layers, input_shape, num_classes)
