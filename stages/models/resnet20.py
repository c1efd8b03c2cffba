"""ResNet-20 for small images (He et al. 2016, arXiv 1512.03385, section 4.2), the network of most bit-flip papers.

Three stages of three blocks with 16, 32 and 64 channels. As in `resnet8` convolutions have biases and shortcuts where
the shape changes are strided 1x1 convolutions; the paper's own pad with zeros instead. At 3x32x32 and 10 classes:
273,066 trainable parameters and 40.81 M multiply-accumulates.
"""

from torch import Tensor, nn

from stages.models.resnet8 import Block

MIN_SIZE = (8, 8)  # height and width, halved twice
BLOCKS = 3  # of each width


class ResNet20(nn.Module):
    def __init__(self, layers, input_shape: tuple[int, int, int], num_classes: int):
        super().__init__()
        self.input = layers.input()
        self.convolution = layers.convolution(input_shape[0], 16, 3, padding=1, edge=True)
        self.norm = layers.batch_norm(16)
        self.activation = layers.activation()
        self.stage1 = stage(layers, 16, 16, stride=1, blocks=BLOCKS)
        self.stage2 = stage(layers, 16, 32, stride=2, blocks=BLOCKS)
        self.stage3 = stage(layers, 32, 64, stride=2, blocks=BLOCKS)
        self.pool = layers.average_pool()
        self.classifier = layers.linear(64, num_classes, edge=True)

    def features(self, inputs: Tensor) -> Tensor:
        hidden = self.activation(self.norm(self.convolution(self.input(inputs))))
        return self.pool(self.stage3(self.stage2(self.stage1(hidden))))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classifier(self.features(inputs))


def stage(layers, channels_in: int, channels_out: int, stride: int, blocks: int) -> nn.Sequential:
    """Blocks of one width, the first of which has the stride."""
    first = Block(layers, channels_in, channels_out, stride)
    return nn.Sequential(first, *(Block(layers, channels_out, channels_out, 1) for _ in range(blocks - 1)))


def network(layers, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """`[N,C,H,W]` in [0,1] -> logits `[N,num_classes]`."""
    return ResNet20(layers, input_shape, num_classes)
