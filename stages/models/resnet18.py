"""ResNet-18 for large images (He et al. 2016, arXiv 1512.03385, table 1), the ImageNet network of bit-flip papers.

Four stages of two blocks with 64, 128, 256 and 512 channels behind a strided 7x7 convolution. As in `resnet8`
convolutions have biases and shortcuts where the shape changes are strided 1x1 convolutions without batch norm. The
first pooling takes the maximum of 2x2 values, which layer sets have, and not of overlapping 3x3. At 3x224x224 and 1,000
classes: 11,692,520 trainable parameters and 1,814.07 M multiply-accumulates.
"""

from torch import Tensor, nn

from stages.models.resnet20 import stage

MIN_SIZE = (32, 32)  # height and width, halved five times
BLOCKS = 2  # of each width


class ResNet18(nn.Module):
    def __init__(self, layers, input_shape: tuple[int, int, int], num_classes: int):
        super().__init__()
        self.input = layers.input()
        self.convolution = layers.convolution(input_shape[0], 64, 7, stride=2, padding=3, edge=True)
        self.norm = layers.batch_norm(64)
        self.activation = layers.activation()
        self.first_pool = layers.max_pool(2)
        self.stage1 = stage(layers, 64, 64, stride=1, blocks=BLOCKS)
        self.stage2 = stage(layers, 64, 128, stride=2, blocks=BLOCKS)
        self.stage3 = stage(layers, 128, 256, stride=2, blocks=BLOCKS)
        self.stage4 = stage(layers, 256, 512, stride=2, blocks=BLOCKS)
        self.pool = layers.average_pool()
        self.classifier = layers.linear(512, num_classes, edge=True)

    def features(self, inputs: Tensor) -> Tensor:
        hidden = self.first_pool(self.activation(self.norm(self.convolution(self.input(inputs)))))
        return self.pool(self.stage4(self.stage3(self.stage2(self.stage1(hidden)))))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classifier(self.features(inputs))


def network(layers, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """`[N,C,H,W]` in [0,1] -> logits `[N,num_classes]`."""
    return ResNet18(layers, input_shape, num_classes)
