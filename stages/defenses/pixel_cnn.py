"""A small PixelCNN: the density of an image as a product over its pixels, each given those before it.

Van den Oord, Kalchbrenner and Kavukcuoglu, "Pixel recurrent neural networks", ICML 2016,
https://arxiv.org/abs/1601.06759, and van den Oord et al., "Conditional image generation with PixelCNN decoders",
NeurIPS 2016, https://arxiv.org/abs/1606.05328: convolutions whose masks let a pixel see the pixels above it and to its
left. Salimans, Karpathy, Chen and Kingma, "PixelCNN++", ICLR 2017, https://arxiv.org/abs/1701.05517: a pixel's channels
follow a mixture of discretized logistic distributions in which each channel's mean shifts with the channels before it,
so that the network is asked once a pixel and not once a channel.

The network is evaluated in two ways: all pixels of a known image at once (`PixelCNN`), and pixel by pixel while the
image comes into being (`PixelByPixel`), which keeps what earlier pixels left behind and so costs, for a whole image, no
more operations than one look at it.

In float64 both are exact: weights and the inputs of convolutions are rounded to multiples of 2^-16, so that sums of
their products, below 2^21, have one value in whichever order they are taken. No result depends on the batch, on threads
or on which of the two ways it came from. In float32, for training, nothing is rounded.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COMPONENTS = 5  # of the mixture
FIRST_SIZE = 7  # width of the first layer's window, which sees the image itself
SIZE = 3  # width of the other windows
MIDDLE = 128  # of the 256 levels; a power of 2, so that levels have exact values
OFFSET = 1 / 16  # of a mean, 8 levels, in which the network counts
FIRST_LOG_SCALES = (-5.0, -2.0)  # of the components before training, from half a level to 17 levels
FIRST_SLOPE = 1.0  # of the coefficients before training, 0.76: channels go together
LOWEST_LOG_SCALE = -7.0  # a logistic narrower than an eighth of a level is none of data
GRID = 2.0**16


def centred(levels: Tensor) -> Tensor:
    """Levels 0 to 255 as the network sees them, in [-1, 1)."""
    return (levels - MIDDLE) / MIDDLE


def on_grid(values: Tensor) -> Tensor:
    """In float64 the nearest multiples of 2^-16; any other type as it is."""
    return (values * GRID).round() / GRID if values.dtype == torch.float64 else values


def suggested_by_neighbours(pixels: Tensor) -> Tensor:
    """The mean of the left and the upper neighbour of each pixel of [N, C, H, W]; 0 where there is none.

    In the first row it is the left one, in the first column the upper one.
    """
    left, upper = F.pad(pixels, (1, 0))[..., :-1], F.pad(pixels, (0, 0, 1, 0))[..., :-1, :]
    left[..., 0], upper[..., 0, :] = upper[..., 0], left[..., 0, :]
    return (left + upper) / 2


class CausalConv2d(nn.Conv2d):
    """A convolution of which a pixel sees the pixels above it and to its left; `sees_itself` (mask B) also its own.

    The window is `size` wide and reaches `size // 2` rows up.
    """

    def __init__(self, in_channels: int, out_channels: int, size: int, *, sees_itself: bool) -> None:
        self.reach = size // 2
        super().__init__(in_channels, out_channels, (self.reach + 1, size))
        self.beside = self.reach + sees_itself  # how many pixels of its own row a pixel sees

    def mask(self) -> Tensor:
        """Of the weights [out, in, reach + 1, size]: 1 where they are seen, 0 where they are hidden."""
        mask = torch.ones_like(self.weight)
        mask[:, :, -1, self.beside :] = 0
        return mask

    def visible_weight(self) -> Tensor:
        """The weights [out, in, reach + 1, size], 0 where the mask hides, on the grid."""
        return on_grid(self.weight * self.mask())

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, out, H, W] of inputs [N, in, H, W]; beyond the borders they are 0."""
        padded = F.pad(on_grid(inputs), (self.reach, self.reach, self.reach, 0))
        return F.conv2d(padded, self.visible_weight(), on_grid(self.bias))


class Pointwise(nn.Conv2d):
    """A linear map of each pixel's channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, out, H, W] of inputs [N, in, H, W]."""
        return F.conv2d(on_grid(inputs), on_grid(self.weight), on_grid(self.bias))


class Block(nn.Module):
    """A residual block: what the neighbourhood adds to a pixel's hidden values."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.look = CausalConv2d(width, width, SIZE, sees_itself=True)
        self.mix = Pointwise(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.mix(self.look(hidden.relu()).relu())


class Mixture(NamedTuple):
    """What follows a pixel's past: logistic mixtures, K components for C channels, at pixels [...].

    Values are `centred`. A component shifts channel c's mean by its coefficients times how far the channels before c
    are from what their neighbours suggest.
    """

    suggested: Tensor  # [N, C, ...]
    log_weights: Tensor  # [N, K, ...]
    means: Tensor  # [N, K, C, ...]
    log_scales: Tensor  # [N, K, C, ...]
    coefficients: Tensor  # [N, K, C (C - 1) / 2, ...], in [-1, 1]

    @staticmethod
    def sizes(channels: int) -> tuple[int, int, int, int]:
        """How many numbers a component has: its weight, means, log scales and coefficients."""
        return 1, channels, channels, channels * (channels - 1) // 2

    @classmethod
    def of(cls, parameters: Tensor, suggested: Tensor) -> "Mixture":
        """From a network's output [N, K sum(sizes), ...] and what the neighbours suggest [N, C, ...]."""
        sizes = cls.sizes(suggested.shape[1])
        weights, offsets, log_scales, slopes = parameters.unflatten(1, (COMPONENTS, sum(sizes))).split(sizes, dim=2)
        return cls(
            suggested,
            weights[:, :, 0].log_softmax(1),
            suggested[:, None] + OFFSET * offsets,
            log_scales.clamp_min(LOWEST_LOG_SCALE),
            slopes.tanh(),
        )

    def component_log_probabilities(self, channel: int, values: Tensor, before: Tensor) -> Tensor:
        """Each component's log-probability [N, K, ...] of the values [N, ...] of a channel, in nats.

        before: [N, C, ...], of which the channels below `channel` are looked at. Sizes [...] broadcast.
        A level's probability is that between its edges, half a level to each side; the first and the last level have
        everything beyond, too. With sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)) no tail is lost.
        """
        mean, first = self.means[:, :, channel], channel * (channel - 1) // 2
        for earlier in range(channel):
            mean = mean + self.coefficients[:, :, first + earlier] * (before - self.suggested)[:, None, earlier]
        precision = torch.exp(-self.log_scales[:, :, channel])
        values, half = values[:, None], 0.5 / MIDDLE
        below = F.logsigmoid((values + half - mean) * precision)
        above = F.logsigmoid((mean - values + half) * precision)
        inside = torch.log(-torch.expm1(-2 * half * precision))
        lowest, highest = values <= -1, values >= 1 - 2 * half
        return (
            torch.where(highest, 0.0, below)
            + torch.where(lowest, 0.0, above)
            + torch.where(lowest | highest, 0.0, inside)
        )

    def log_likelihood(self, pixels: Tensor) -> Tensor:
        """The log-probability [N, ...] of pixels [N, C, ...], in nats."""
        joint = self.log_weights
        for channel in range(pixels.shape[1]):
            joint = joint + self.component_log_probabilities(channel, pixels[:, channel], pixels)
        return joint.logsumexp(1)


class PixelCNN(nn.Module):
    """The network: a first layer that does not see the pixel itself, residual blocks, and a mixture's parameters.

    channels: of the image. width: hidden values a pixel. blocks: how many; each lets a pixel see a row further up.
    """

    def __init__(self, channels: int, width: int, blocks: int) -> None:
        super().__init__()
        self.channels, self.width = channels, width
        self.first = CausalConv2d(channels, width, FIRST_SIZE, sees_itself=False)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.head = Pointwise(width, COMPONENTS * sum(Mixture.sizes(channels)))
        self._start_simple()

    @torch.no_grad()
    def _start_simple(self) -> None:
        """Begin as the same mixture around every pixel's neighbours, of narrow and wide components."""
        self.head.weight.zero_()
        self.head.bias.zero_()
        _, _, log_scales, slopes = self.head.bias.unflatten(0, (COMPONENTS, -1)).split(Mixture.sizes(self.channels), 1)
        log_scales += torch.linspace(*FIRST_LOG_SCALES, COMPONENTS)[:, None]
        slopes += FIRST_SLOPE

    def forward(self, pixels: Tensor) -> Tensor:
        """Numbers of the mixtures [N, K sum(sizes), H, W] of centred pixels [N, C, H, W]."""
        hidden = self.first(pixels)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden.relu())

    def mixtures(self, pixels: Tensor) -> Mixture:
        """What follows each pixel's past in centred images [N, C, H, W]."""
        # Whatever the network computes in, a sum over mixtures needs more than 8 bits.
        return Mixture.of(self(pixels).to(pixels.dtype), suggested_by_neighbours(pixels))

    def bits_per_dimension(self, levels: Tensor) -> Tensor:
        """Minus the mean log2-probability [N] of a value of the images, levels [N, C, H, W] from 0 to 255."""
        pixels = centred(levels)
        nats = -self.mixtures(pixels).log_likelihood(pixels).flatten(1).sum(1)
        return nats / (math.log(2) * levels[0].numel())

    def macs_per_pixel(self) -> int:
        """Multiply-accumulates that a pixel's mixture costs: of its layers, without the weights that masks hide."""
        windows = sum(int(layer.mask().sum()) for layer in self.modules() if isinstance(layer, CausalConv2d))
        return windows + sum(layer.weight.numel() for layer in self.modules() if isinstance(layer, Pointwise))

    def remembered_per_column(self) -> int:
        """Hidden values that `PixelByPixel` keeps for the pixels to come, a column of the image; without the image."""
        return sum((block.look.reach + 1) * self.width for block in self.blocks)


class PixelByPixel:
    """A PixelCNN, in float64, at one pixel after the other of a batch of images [N, C, height, width].

    For each row `next_row()`, and in it for each column `mixture(column)` and then `put(column, pixels)`.
    """

    def __init__(self, network: PixelCNN, count: int, width: int) -> None:
        self.row = -1
        self.first = _Window(network.first, count, width)
        self.looks = [_Window(block.look, count, width) for block in network.blocks]
        self.mixes = [_Linear(block.mix) for block in network.blocks]
        self.head = _Linear(network.head)

    def next_row(self) -> None:
        self.row += 1
        for window in (self.first, *self.looks):
            window.next_row()

    def mixture(self, column: int) -> Mixture:
        """The mixture [N, ..., 1] of the pixel at a column, given all before it."""
        hidden = self.first.at(column)
        for look, mix in zip(self.looks, self.mixes, strict=True):
            look.put(column, on_grid(hidden.relu()))
            hidden = hidden + mix(on_grid(look.at(column).relu()))
        return Mixture.of(self.head(on_grid(hidden.relu()))[..., None], self._suggested(column)[..., None])

    def put(self, column: int, pixels: Tensor) -> None:
        """What is at a column: centred pixels [N, C]."""
        self.first.put(column, pixels)

    def _suggested(self, column: int) -> Tensor:
        """As `suggested_by_neighbours`."""
        here = self.first.reach + column
        left, upper = self.first.rows[-1, :, here - 1], self.first.rows[-2, :, here]
        if column == 0:
            return upper
        return left if self.row == 0 else (left + upper) / 2


class _Linear:
    """A pointwise layer for values [N, in] of one pixel."""

    def __init__(self, layer: Pointwise) -> None:
        self.weight, self.bias = on_grid(layer.weight.detach())[:, :, 0, 0].T.contiguous(), on_grid(layer.bias.detach())

    def __call__(self, values: Tensor) -> Tensor:
        return torch.addmm(self.bias, values, self.weight)


class _Window:
    """A causal layer that remembers its inputs, those of a row after `reach` columns of zeros."""

    def __init__(self, layer: CausalConv2d, count: int, width: int) -> None:
        weight = layer.visible_weight().detach()
        self.bias, self.reach, self.beside = on_grid(layer.bias.detach()), layer.reach, layer.beside
        self.weight_above = weight[:, :, :-1]
        self.weight_beside = weight[:, :, -1, : self.beside].permute(2, 1, 0).flatten(0, 1).contiguous()
        self.rows = weight.new_zeros(self.reach + 1, count, width + 2 * self.reach, weight.shape[1])  # the last is ours
        self.above = weight.new_zeros(0)

    def next_row(self) -> None:
        """What the rows above give to every column, at once."""
        self.rows = self.rows.roll(-1, 0)
        self.rows[-1] = 0
        above = F.conv2d(self.rows[:-1].permute(1, 3, 0, 2), self.weight_above, self.bias)
        self.above = above[:, :, 0].permute(2, 0, 1).contiguous()  # [width, N, out]

    def put(self, column: int, values: Tensor) -> None:
        self.rows[-1, :, column + self.reach] = values

    def at(self, column: int) -> Tensor:
        """The layer's output [N, out]."""
        beside = self.rows[-1, :, column : column + self.beside].flatten(1)
        return torch.addmm(self.above[column], beside, self.weight_beside)
