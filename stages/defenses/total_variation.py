"""Denoising by total variation: Rudin, Osher and Fatemi, Physica D 60 (1992), by the iterations of Chambolle, "An
algorithm for total variation minimization and applications", Journal of Mathematical Imaging and Vision 20 (2004)
(equation 9). As a defense: Guo, Rana, Cissé and van der Maaten, "Countering adversarial images using input
transformations", ICLR 2018, https://arxiv.org/abs/1711.00117, with random dropping of pixels, which is left out here.
"""

import math

import torch
from torch import Tensor

from stages.defenses.input_filter import InputFilter
from stages.knobs import Count, Positive
from stages.models.footprint import Footprint

STEP = 0.25  # of the dual variable; the paper proves convergence up to 1/8 and finds it up to 1/4
OPERATIONS = 16  # a value and iteration: the divergence 4, its gradient 3, the norm 4, the update 5
FLOAT_BYTES = 4
TINY = 1e-12  # under the root, where its gradient would be infinite


class TotalVariation(InputFilter):
    """The image u near the input f for which |u - f|^2 / 2 + weight * TV(u) is least, each channel by itself.

    TV is the sum over pixels of the gradient's length, by differences to the next row and the next column. weight: in
    input units. iterations: of the dual variable, from zero; few of them denoise less.
    """

    def __init__(self, weight: float, iterations: int) -> None:
        super().__init__()
        self.weight, self.iterations = weight, iterations

    def forward(self, inputs: Tensor) -> Tensor:
        scaled = inputs / self.weight
        rows, columns = torch.zeros_like(inputs), torch.zeros_like(inputs)
        for _ in range(self.iterations):
            down, right = _gradient(_divergence(rows, columns) - scaled)
            length = 1 + STEP * (down.square() + right.square() + TINY).sqrt()
            rows, columns = (rows + STEP * down) / length, (columns + STEP * right) / length
        return (inputs - self.weight * _divergence(rows, columns)).clamp(0, 1)

    def backward_view(self, inputs: Tensor) -> Tensor:
        """The iterations have a gradient of their own."""
        return self(inputs)

    def footprint(self, input_shape: tuple[int, int, int]) -> Footprint:
        """No multiply-accumulates worth the name; of a channel in float32 the input and the two dual variables."""
        channels, height, width = input_shape
        return Footprint(0, 0, 0, channels * height * width + 3 * FLOAT_BYTES * height * width)

    def operations(self, input_shape: tuple[int, int, int]) -> int:
        return self.iterations * OPERATIONS * math.prod(input_shape)


def filter(input_shape: tuple[int, int, int], *, weight: Positive = 0.05, iterations: Count = 20) -> TotalVariation:
    """The filter for inputs of a shape (C, H, W). weight: of the total variation. iterations: how many."""
    return TotalVariation(weight, iterations)


def total_variation(images: Tensor) -> Tensor:
    """The total variation [N] of images [N, C, H, W], in input units."""
    down, right = _gradient(images)
    return (down.square() + right.square()).sqrt().flatten(1).sum(1)


def _gradient(images: Tensor) -> tuple[Tensor, Tensor]:
    """Differences to the next row and the next column, 0 at the last."""
    down = torch.cat([images[:, :, 1:] - images[:, :, :-1], torch.zeros_like(images[:, :, :1])], 2)
    right = torch.cat([images[..., 1:] - images[..., :-1], torch.zeros_like(images[..., :1])], 3)
    return down, right


def _divergence(rows: Tensor, columns: Tensor) -> Tensor:
    """Minus the adjoint of `_gradient`, for fields that are 0 where it is."""
    return torch.cat([rows[:, :, :1], rows[:, :, 1:] - rows[:, :, :-1]], 2) + torch.cat(
        [columns[..., :1], columns[..., 1:] - columns[..., :-1]], 3
    )
