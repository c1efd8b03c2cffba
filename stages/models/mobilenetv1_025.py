"""MobileNetV1 (Howard et al. 2017, arXiv 1704.04861) of width 0.25, the person detector of MLPerf Tiny.

As in the benchmark (Banbury et al. 2021, arXiv 2106.07597), convolutions have biases beside batch norm. At 3x96x96 and
2 classes (Visual Wake Words): 216,322 trainable parameters (221,794 with batch-norm statistics) and 7.49 M
multiply-accumulates. Where a stride halves an even size, the row and column of zeros is in front; there it is behind.
"""

from torch import Tensor, nn

MIN_SIZE = (32, 32)  # height and width, halved five times

FIRST = 8  # channels of the first convolution
BLOCKS = (  # channels and stride
    (16, 1),
    (32, 2),
    (32, 1),
    (64, 2),
    (64, 1),
    (128, 2),
    (128, 1),
    (128, 1),
    (128, 1),
    (128, 1),
    (128, 1),
    (256, 2),
    (256, 1),
)


class DepthwiseSeparable(nn.Module):
    """A 3x3 convolution of each channel by itself, then a 1x1 convolution of all."""

    def __init__(self, layers, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        self.depthwise = layers.convolution(channels_in, channels_in, 3, stride=stride, padding=1, groups=channels_in)
        self.norm1 = layers.batch_norm(channels_in)
        self.activation1 = layers.activation()
        self.pointwise = layers.convolution(channels_in, channels_out, 1)
        self.norm2 = layers.batch_norm(channels_out)
        self.activation2 = layers.activation()

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.activation1(self.norm1(self.depthwise(inputs)))
        return self.activation2(self.norm2(self.pointwise(hidden)))


class MobileNetV1(nn.Module):
    def __init__(self, layers, input_shape: tuple[int, int, int], num_classes: int):
        super().__init__()
        self.input = layers.input()
        self.convolution = layers.convolution(input_shape[0], FIRST, 3, stride=2, padding=1, edge=True)
        self.norm = layers.batch_norm(FIRST)
        self.activation = layers.activation()
        channels_in = (FIRST, *(channels for channels, _ in BLOCKS))
        self.blocks = nn.Sequential(
            *(
                DepthwiseSeparable(layers, before, channels, stride)
                for before, (channels, stride) in zip(channels_in, BLOCKS, strict=False)
            )
        )
        self.pool = layers.average_pool()
        self.classifier = layers.linear(channels_in[-1], num_classes, edge=True)

    def features(self, inputs: Tensor) -> Tensor:
        hidden = self.activation(self.norm(self.convolution(self.input(inputs))))
        return self.pool(self.blocks(hidden))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classifier(self.features(inputs))


def network(layers, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """`[N,C,H,W]` in [0,1] -> logits `[N,num_classes]`."""
    return MobileNetV1(layers, input_shape, num_classes)
