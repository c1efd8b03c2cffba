"""Three strided convolutions and a linear layer: a network for quick runs, about 6,000 parameters."""

from torch import Tensor, nn

MIN_SIZE = (8, 8)  # height and width, halved three times


class TinyCNN(nn.Module):
    def __init__(self, layers, input_shape: tuple[int, int, int], num_classes: int):
        super().__init__()
        self.input = layers.input()
        self.convolution1 = layers.convolution(input_shape[0], 8, 3, stride=2, padding=1, edge=True)
        self.norm1 = layers.batch_norm(8)
        self.activation1 = layers.activation()
        self.convolution2 = layers.convolution(8, 16, 3, stride=2, padding=1)
        self.norm2 = layers.batch_norm(16)
        self.activation2 = layers.activation()
        self.convolution3 = layers.convolution(16, 32, 3, stride=2, padding=1)
        self.norm3 = layers.batch_norm(32)
        self.activation3 = layers.activation()
        self.pool = layers.average_pool()
        self.classifier = layers.linear(32, num_classes, edge=True)

    def features(self, inputs: Tensor) -> Tensor:
        hidden = self.activation1(self.norm1(self.convolution1(self.input(inputs))))
        hidden = self.activation2(self.norm2(self.convolution2(hidden)))
        hidden = self.activation3(self.norm3(self.convolution3(hidden)))
        return self.pool(hidden)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classifier(self.features(inputs))


def network(layers, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """`[N,C,H,W]` in [0,1] -> logits `[N,num_classes]`."""
    return TinyCNN(layers, input_shape, num_classes)
