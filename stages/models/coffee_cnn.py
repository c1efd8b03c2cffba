"""The coffee-bean classifier of Costa & Pinto 2024, arXiv 2404.05688: plain convolutions without padding or batch norm.

At 3x224x224 and 4 classes (USK-Coffee): 250,436 parameters and 31.36 M multiply-accumulates.
"""

from torch import Tensor, nn

MIN_SIZE = (140, 140)  # height and width, of which a single position reaches the linear layers


class CoffeeCNN(nn.Module):
    def __init__(self, layers, input_shape: tuple[int, int, int], num_classes: int):
        super().__init__()
        channels, height, width = input_shape
        self.input = layers.input()
        self.convolution1 = layers.convolution(channels, 32, 8, stride=4, edge=True)
        self.activation1 = layers.activation()
        self.pool1 = layers.max_pool(2)
        self.convolution2 = layers.convolution(32, 64, 3, stride=2)
        self.activation2 = layers.activation()
        self.convolution3 = layers.convolution(64, 128, 3)
        self.activation3 = layers.activation()
        self.pool2 = layers.max_pool(2)
        self.convolution4 = layers.convolution(128, 64, 3)
        self.activation4 = layers.activation()
        self.flatten = layers.flatten()
        self.linear1 = layers.linear(64 * _positions(height) * _positions(width), 128)
        self.activation5 = layers.activation()
        self.dropout1 = layers.dropout(0.2)
        self.linear2 = layers.linear(128, 32)
        self.activation6 = layers.activation()
        self.dropout2 = layers.dropout(0.5)
        self.classifier = layers.linear(32, num_classes, edge=True)

    def features(self, inputs: Tensor) -> Tensor:
        hidden = self.pool1(self.activation1(self.convolution1(self.input(inputs))))
        hidden = self.activation2(self.convolution2(hidden))
        hidden = self.pool2(self.activation3(self.convolution3(hidden)))
        hidden = self.flatten(self.activation4(self.convolution4(hidden)))
        hidden = self.dropout1(self.activation5(self.linear1(hidden)))
        return self.dropout2(self.activation6(self.linear2(hidden)))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classifier(self.features(inputs))


def _positions(size: int) -> int:
    """The height or width that the last convolution leaves of an input's."""
    for kernel_size, stride in ((8, 4), (2, 2), (3, 2), (3, 1), (2, 2), (3, 1)):
        size = (size - kernel_size) // stride + 1
    return size


def network(layers, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """`[N,C,H,W]` in [0,1] -> logits `[N,num_classes]`."""
    return CoffeeCNN(layers, input_shape, num_classes)
