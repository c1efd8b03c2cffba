"""Augmentation of image batches, on tensors in memory."""

import torch
import torch.nn.functional as F
from torch import Tensor


def crop_and_flip(images: Tensor, *, crop_padding: int, horizontal_flip: bool, generator: torch.Generator) -> Tensor:
    """Random shifts by up to `crop_padding` pixels over zeros, then a mirror image of every second one on average.

    images: `[N,C,H,W]` of any dtype; the result has the same shape and dtype. Draws come from `generator` (on the CPU).
    """
    count, _, height, width = images.shape
    device = images.device
    if crop_padding:
        padded = F.pad(images, (crop_padding,) * 4)
        top, left = torch.randint(2 * crop_padding + 1, (2, count, 1), generator=generator).to(device)
        rows = (top + torch.arange(height, device=device))[:, None, :, None]
        columns = (left + torch.arange(width, device=device))[:, None, None, :]
        samples = torch.arange(count, device=device)[:, None, None, None]
        channels = torch.arange(images.shape[1], device=device)[None, :, None, None]
        images = padded[samples, channels, rows, columns]
    if horizontal_flip:
        mirrored = (torch.rand(count, generator=generator) < 0.5).to(device)
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    return images
