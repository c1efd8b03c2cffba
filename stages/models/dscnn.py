"""DS-CNN (Zhang et al. 2017, arXiv 1711.07128), which spots keywords in MLPerf Tiny (Banbury et al. 2021, 2106.07597).

As in the benchmark, convolutions have biases beside batch norm. With 12 words: 23,756 trainable parameters (24,908 with
batch-norm statistics) and 2.66 M multiply-accumulates, those of features left out. Of the first convolution's padding,
nine rows for a stride of 2, the odd one is in front; there it is behind.
"""

from torch import Tensor, nn

from stages.models.mfcc import CLIP, MFCC

CHANNELS = 64
BLOCKS = 4


class DepthwiseSeparable(nn.Module):
    """A 3x3 convolution of each channel by itself, then a 1x1 convolution of all."""

    def __init__(self, layers):
        super().__init__()
        self.depthwise = layers.convolution(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS)
        self.norm1 = layers.batch_norm(CHANNELS)
        self.activation1 = layers.activation()
        self.pointwise = layers.convolution(CHANNELS, CHANNELS, 1)
        self.norm2 = layers.batch_norm(CHANNELS)
        self.activation2 = layers.activation()

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.activation1(self.norm1(self.depthwise(inputs)))
        return self.activation2(self.norm2(self.pointwise(hidden)))


class DSCNN(nn.Module):
    def __init__(self, layers, input_shape: tuple[int, int, int], num_classes: int):
        super().__init__()
        self.front_end = MFCC() if tuple(input_shape) == CLIP else nn.Identity()
        self.input = layers.input()
        self.convolution = layers.convolution(input_shape[0], CHANNELS, (10, 4), stride=2, padding=(5, 1), edge=True)
        self.norm = layers.batch_norm(CHANNELS)
        self.activation = layers.activation()
        self.dropout1 = layers.dropout(0.2)
        self.blocks = nn.Sequential(*(DepthwiseSeparable(layers) for _ in range(BLOCKS)))
        self.dropout2 = layers.dropout(0.4)
        self.pool = layers.average_pool()
        self.classifier = layers.linear(CHANNELS, num_classes, edge=True)

    def features(self, inputs: Tensor) -> Tensor:
        hidden = self.activation(self.norm(self.convolution(self.input(self.front_end(inputs)))))
        return self.pool(self.dropout2(self.blocks(self.dropout1(hidden))))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classifier(self.features(inputs))


def network(layers, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Features `[N,1,49,10]`, or the sound `[N,1,1,16000]` that they are made of, in [0,1] -> `[N,num_classes]`."""
    return DSCNN(layers, input_shape, num_classes)
