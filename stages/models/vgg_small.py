"""A small VGG (Simonyan & Zisserman 2015, arXiv 1409.1556) as binary networks have it, without residual sums.

The layers of BinaryNet (Hubara et al. 2016, arXiv 1602.02830, section 2.1), each convolution with batch norm behind it
and every second one before max-pooling, at an eighth of its channels, and average pooling for its linear layers of
1,024. At 3x32x32 and 10 classes: 73,178 trainable parameters and 9.88 M multiply-accumulates.
"""

from torch import Tensor, nn

MIN_SIZE = (8, 8)  # height and width, halved three times

CHANNELS = (16, 32, 64)  # of each two convolutions before a max-pooling


class Stage(nn.Module):
    """Two 3x3 convolutions and max-pooling, which halves height and width."""

    def __init__(self, layers, channels_in: int, channels_out: int, edge: bool):
        super().__init__()
        self.convolution1 = layers.convolution(channels_in, channels_out, 3, padding=1, edge=edge)
        self.norm1 = layers.batch_norm(channels_out)
        self.activation1 = layers.activation()
        self.convolution2 = layers.convolution(channels_out, channels_out, 3, padding=1)
        self.norm2 = layers.batch_norm(channels_out)
        self.activation2 = layers.activation()
        self.pool = layers.max_pool(2)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.activation1(self.norm1(self.convolution1(inputs)))
        return self.pool(self.activation2(self.norm2(self.convolution2(hidden))))


class VGGSmall(nn.Module):
    def __init__(self, layers, input_shape: tuple[int, int, int], num_classes: int):
        super().__init__()
        self.input = layers.input()
        before = (input_shape[0], *CHANNELS)
        self.stages = nn.Sequential(
            *(
                Stage(layers, *channels, edge=place == 0)
                for place, channels in enumerate(zip(before, CHANNELS, strict=False))
            )
        )
        self.pool = layers.average_pool()
        self.classifier = layers.linear(CHANNELS[-1], num_classes, edge=True)

    def features(self, inputs: Tensor) -> Tensor:
        return self.pool(self.stages(self.input(inputs)))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classifier(self.features(inputs))


def network(layers, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """`[N,C,H,W]` in [0,1] -> logits `[N,num_classes]`."""
    return VGGSmall(layers, input_shape, num_classes)
