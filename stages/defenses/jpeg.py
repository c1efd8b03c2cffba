"""JPEG compression as a filter: ISO/IEC 10918-1 (tables K.1 and K.2), with the colours of JFIF and the quality scale of
libjpeg. As a defense: Dziugaite, Ghahramani and Roy 2016, https://arxiv.org/abs/1608.00853, and Guo et al. 2018,
https://arxiv.org/abs/1711.00117.

What entropy coding writes is read back unchanged, so it is left out: lossy are the quantization of the cosine
transform's coefficients, the resolution of colours, and the roundings to 8 bits.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from stages.attacks.grid import nearest_levels
from stages.datasets.levels import LEVELS
from stages.defenses.input_filter import InputFilter, with_gradient_of
from stages.knobs import Count
from stages.models.footprint import Footprint

Rounding = Callable[[Tensor], Tensor]

BLOCK = 8  # pixels a side
MIDDLE = 128  # the level that coefficients are taken from

LUMINANCE = (
    *((16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56)),
    *((14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92)),
    *((49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99)),
)
CHROMINANCE = (
    *((17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99), (24, 26, 56, 99, 99, 99, 99, 99)),
    *((47, 66, 99, 99, 99, 99, 99, 99), *((99,) * 8 for _ in range(4))),
)
FROM_RGB = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
TO_RGB = ((1, 0, 1.402), (1, -0.344136286, -0.714136286), (1, 1.772, 0))
COSINES = tuple(
    tuple(
        math.sqrt((1 if frequency == 0 else 2) / BLOCK) * math.cos((2 * position + 1) * frequency * math.pi / 16)
        for position in range(BLOCK)
    )
    for frequency in range(BLOCK)
)
INVERSE = tuple(zip(*COSINES, strict=True))


class JPEG(InputFilter):
    """What is left of an image that was compressed and read again, on the 8-bit grid.

    quality: 1 to 100, of libjpeg's scale. subsampling: "4:2:0", colours at half the resolution each way, or "4:4:4".
    Images of one channel are grey; of three, red, green and blue.
    """

    def __init__(self, quality: int, subsampling: str) -> None:
        super().__init__()
        self.subsampling = subsampling
        self.tables = [scaled(table, quality) for table in (LUMINANCE, CHROMINANCE)]

    def forward(self, inputs: Tensor) -> Tensor:
        return self._read_again(inputs, torch.round, torch.round)

    def backward_view(self, inputs: Tensor) -> Tensor:
        """The gradient is that of a codec whose coefficients are rounded smoothly and whose levels are not rounded."""
        with torch.no_grad():
            values = self(inputs)
        return with_gradient_of(self._read_again(inputs, smoothly_rounded, lambda levels: levels), values)

    def footprint(self, input_shape: tuple[int, int, int]) -> Footprint:
        """Both transforms along both sides of each block, and the change of colours; of the image a row of blocks."""
        channels, height, width = input_shape
        values = self._coded_values(input_shape)
        colours = 2 * 9 * height * width * (channels == 3)
        return Footprint(0, 4 * BLOCK * values + colours, 0, width * channels * (height + 2 * BLOCK))

    def operations(self, input_shape: tuple[int, int, int]) -> int:
        """Beside the multiply-accumulates a division, a rounding and a multiplication a coefficient."""
        return self.footprint(input_shape).macs + 3 * self._coded_values(input_shape)

    def _coded_values(self, input_shape: tuple[int, int, int]) -> int:
        channels, height, width = input_shape
        colours = 0.5 if self.subsampling == "4:2:0" else 2
        return math.ceil(height * width * (1 + colours * (channels == 3)))

    def _read_again(self, inputs: Tensor, rounded: Rounding, to_level: Rounding) -> Tensor:
        """`rounded`: of coefficients, in quantization steps. `to_level`: of values in 0 to 255."""
        levels = nearest_levels(inputs)
        coded = partial(self._coded, rounded=rounded, to_level=to_level)
        if inputs.shape[1] == 1:
            return coded(levels, 0) / LEVELS
        planes = to_level(_mixed(levels, FROM_RGB))
        luminance, colours = planes[:, :1], planes[:, 1:] + MIDDLE
        if self.subsampling == "4:2:0":
            small = to_level(functional.avg_pool2d(_whole_blocks(colours), 2))
            # Bilinear interpolation has the weights (9, 3, 3, 1) / 16 of libjpeg.
            large = functional.interpolate(coded(small, 1), scale_factor=2, mode="bilinear", align_corners=False)
            colours = to_level(large)[:, :, : inputs.shape[2], : inputs.shape[3]]
        else:
            colours = coded(colours, 1)
        whole = torch.cat([coded(luminance, 0), colours - MIDDLE], 1)
        return to_level(_mixed(whole, TO_RGB).clamp(0, LEVELS)) / LEVELS

    def _coded(self, levels: Tensor, table: int, rounded: Rounding, to_level: Rounding) -> Tensor:
        """Levels [N, C, H, W] with the coefficients of each block quantized by a table."""
        height, width = levels.shape[2:]
        padded = functional.pad(levels, (0, -width % BLOCK, 0, -height % BLOCK), mode="replicate") - MIDDLE
        blocks = padded.unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).transpose(3, 4)
        steps = torch.tensor(self.tables[table], dtype=levels.dtype, device=levels.device)
        coefficients = rounded(_transformed(blocks, COSINES) / steps) * steps
        blocks = _transformed(coefficients, INVERSE).transpose(3, 4).flatten(4, 5).flatten(2, 3)
        return to_level((blocks + MIDDLE).clamp(0, LEVELS))[:, :, :height, :width]


def filter(
    input_shape: tuple[int, int, int],
    *,
    quality: Count = 75,
    subsampling: Literal["4:2:0", "4:4:4"] = "4:2:0",
) -> JPEG:
    """The filter for inputs of a shape (C, H, W). quality: 1 to 100. subsampling: of colours.

    Raises ValueError if the quality is not in that range, or if there are neither one nor three channels.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"jpeg: quality is {quality}, expected 1 to 100")
    if input_shape[0] not in (1, 3):
        raise ValueError(f"jpeg: images have {input_shape[0]} channels, expected 1 or 3")
    return JPEG(quality, subsampling)


def scaled(table: tuple[tuple[int, ...], ...], quality: int) -> list[list[int]]:
    """A quantization table at a quality of 1 to 100, as libjpeg scales it."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return [[min(max((step * percent + 50) // 100, 1), 255) for step in row] for row in table]


def smoothly_rounded(values: Tensor) -> Tensor:
    """The nearest integer plus the cube of what was rounded away, whose gradient is not 0: Shin and Song,
    "JPEG-resistant adversarial images", NIPS 2017 workshop on machine learning and computer security."""
    nearest = torch.round(values)
    return nearest + (values - nearest) ** 3


def _mixed(channels: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    """Three channels [N, 3, H, W] times a 3 x 3 matrix."""
    parts = channels.split(1, 1)
    rows = [sum(weight * part for weight, part in zip(row, parts, strict=True)) for row in matrix]
    return torch.cat(rows, 1)


def _transformed(blocks: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    """The matrix along both sides of blocks [..., 8, 8].

    Terms are added one after the other, so that no block's result depends on how many there are.
    """
    for _ in range(2):
        weights = torch.tensor(matrix, dtype=blocks.dtype, device=blocks.device)
        blocks = sum(blocks[..., place, None, :] * weights[:, place, None] for place in range(BLOCK)).transpose(-1, -2)
    return blocks


def _whole_blocks(planes: Tensor) -> Tensor:
    """Planes [N, C, H, W] with the last column repeated until blocks of half their size are whole, and an even height.

    As libjpeg does, whose further rows repeat the last one of half the size.
    """
    return functional.pad(planes, (0, -planes.shape[3] % (2 * BLOCK), 0, planes.shape[2] % 2), mode="replicate")
