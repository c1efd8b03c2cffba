"""PixelDefend: Song, Kim, Nowozin, Ermon and Kushman, "PixelDefend: leveraging generative models to understand and
defend against adversarial examples", ICLR 2018, https://arxiv.org/abs/1710.10766 (algorithm 1).

Purification goes through the pixels from the top left to the lower right and through the channels of each, and puts
each value to the likeliest level within a radius of what it was, given the values that are purified already. The
density is that of a small PixelCNN. As a detector, an image is the more suspicious the less likely it is (section 3.3).
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from stages.attacks.grid import TOLERANCE, nearest_levels
from stages.classifier import evaluating
from stages.datasets.levels import LEVELS
from stages.defenses.input_filter import InputFilter
from stages.defenses.pixel_cnn import Mixture, PixelByPixel, PixelCNN, centred
from stages.knobs import Count, Epsilon
from stages.models.footprint import Footprint
from stages.training.checkpoint import Checkpoint
from stages.training.loop import Samples, Schedule, train

BATCH_SIZE = 128  # of purification; results do not depend on it
FLOAT_BYTES = 4  # of what the filter stores
TIES = 2.0**24  # log-likelihoods nearer than this many parts of a nat are equal, and the lowest level is taken

RADIUS = 38 / 255
BLOCKS = 5
WIDTH = 48
EPOCHS = 5


class PixelDefend(InputFilter):
    """Purification by a density model.

    radius: how far a value may move, in levels, 0 to 255. density: of images; with its first weights a filter that
    smooths at random, until `fit` has trained it.
    """

    def __init__(self, density: PixelCNN, radius: int) -> None:
        super().__init__()
        self.density, self.radius = density, radius

    def forward(self, inputs: Tensor) -> Tensor:
        """Purified inputs [N, C, H, W], on the 8-bit grid, of inputs rounded to that grid; without a gradient."""
        with torch.no_grad():
            density, levels = self._exact_density(), nearest_levels(inputs).double()
            batches = [purified(density, batch, self.radius) for batch in levels.split(BATCH_SIZE)]
        values = torch.cat(batches).to(inputs.dtype) / LEVELS
        return values.contiguous(memory_format=torch.channels_last)

    def suspicion(self, logits_of: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """Bits per dimension [N] of the inputs, rounded to the 8-bit grid, under the density.

        One image after the other, which is faster than together, as its hidden values stay in the processor's cache.
        """
        density, levels = self._exact_density(), nearest_levels(inputs).double()
        bits = torch.cat([density.bits_per_dimension(image) for image in levels.split(1)])
        return bits.to(self.threshold.dtype)  # or the image that the threshold is from would be above it, rounded

    def footprint(self, input_shape: tuple[int, int, int]) -> Footprint:
        """Of the density, asked once a pixel, in float32.

        The exponentials and logarithms of its mixtures are no multiply-accumulates. In memory are the image, purified
        in place, and the hidden values of the rows that pixels to come still see.
        """
        channels, height, width = input_shape
        parameters = sum(parameter.numel() for parameter in self.density.parameters())
        return Footprint(
            parameters=parameters,
            macs=height * width * self.density.macs_per_pixel(),
            weight_bytes=FLOAT_BYTES * parameters,
            peak_activation_bytes=FLOAT_BYTES * width * (channels * height + self.density.remembered_per_column()),
        )

    def _exact_density(self) -> PixelCNN:
        """The density in float64, in which an image's result depends on no other image of its batch."""
        return copy.deepcopy(self.density).double()


def filter(
    input_shape: tuple[int, int, int],
    *,
    radius: Epsilon = RADIUS,
    width: Count = WIDTH,
    blocks: Count = BLOCKS,
    epochs: Count = EPOCHS,
) -> PixelDefend:
    """The filter for inputs of a shape (C, H, W), its density not yet trained.

    radius: how far a value may move, in input units; the paper takes 16/255 for CIFAR-10. width, blocks: of the
    PixelCNN. epochs: of its training, see `fit`.
    """
    return PixelDefend(PixelCNN(input_shape[0], width, blocks), int(radius * LEVELS + TOLERANCE))


def fit(
    filter: PixelDefend,
    train_samples: Samples,
    validation_samples: Samples,
    *,
    seed: int,
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    label: str,
    epochs: Count = EPOCHS,
    **_,
) -> list[dict]:
    """Train the filter's density on images and their mirror images by its bits per dimension.

    Returns the history, one dict an epoch, whose `validation` is in bits per dimension.
    """
    schedule = Schedule(
        epochs=epochs,
        batch_size=32,
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=0.0,
        crop_padding=0,
        horizontal_flip=True,
    )
    return train(
        filter.density.requires_grad_(True),
        _loss,
        train_samples,
        validation_samples,
        schedule,
        seed=seed,
        dtype=dtype,
        checkpoint=checkpoint,
        label=label,
        validate=bits_per_dimension,
    )


def _loss(density: PixelCNN, inputs: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensor:
    """Mean bits per dimension of inputs [N, C, H, W] in [0, 1]."""
    return density.bits_per_dimension(nearest_levels(inputs)).mean()


@torch.no_grad()
def bits_per_dimension(density: PixelCNN, samples: Samples, dtype: torch.dtype, batch_size: int = 250) -> float:
    """The density's mean bits per dimension of samples."""
    with evaluating(density), torch.autocast(samples.labels.device.type, torch.bfloat16, dtype == torch.bfloat16):
        bits = [density.bits_per_dimension(batch.float()) for batch in samples.inputs.split(batch_size)]
    return torch.cat(bits).double().mean().item()


def purified(density: PixelCNN, levels: Tensor, radius: int) -> Tensor:
    """The levels [N, C, H, W], float64 from 0 to 255, each moved by at most `radius` to where it is likeliest.

    density: in float64, in which it is exact, so that an image comes out the same in any batch.
    """
    offsets = torch.arange(-radius, radius + 1, dtype=levels.dtype, device=levels.device)
    result = levels.clone()
    position = PixelByPixel(density, len(levels), levels.shape[3])
    for row in range(levels.shape[2]):
        position.next_row()
        for column in range(levels.shape[3]):
            pixel = _likeliest(position.mixture(column), levels[:, :, row, column], offsets)
            result[:, :, row, column] = pixel
            position.put(column, centred(pixel))
    return result


def _likeliest(mixture: Mixture, pixel: Tensor, offsets: Tensor) -> Tensor:
    """The levels [N, C] of a pixel, channel by channel the likeliest among those at the offsets [V] from its own."""
    chosen = torch.zeros_like(pixel)
    joint = mixture.log_weights  # [N, K, 1], of a component and the channels chosen so far
    for channel in range(pixel.shape[1]):
        candidates = (pixel[:, channel, None] + offsets).clamp(0, LEVELS)
        before = centred(chosen)[..., None]
        followed = joint + mixture.component_log_probabilities(channel, centred(candidates), before)
        best = (followed.logsumexp(1) * TIES).round().argmax(1, keepdim=True)
        chosen[:, channel] = candidates.gather(1, best)[:, 0]
        joint = followed.gather(2, best[:, None].expand(-1, followed.shape[1], -1))
    return chosen
