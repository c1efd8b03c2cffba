"""The median of each neighbourhood: of pixels one of the two squeezers of feature squeezing (Xu, Evans and Qi, NDSS
2018, https://arxiv.org/abs/1704.01155, section III-B), of sound the local smoothing of Yang, Li, Chen and Song, ICLR
2019, https://arxiv.org/abs/1809.10875."""

import math

from torch import Tensor

from stages.datasets.levels import is_sound
from stages.defenses import feature_squeezing
from stages.defenses.convolution import reflected
from stages.defenses.input_filter import InputFilter
from stages.knobs import Count

INPUTS = ("images", "sound")


class Median(InputFilter):
    """The median of window x window pixels, each channel by itself, or of a window of samples."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window

    def forward(self, inputs: Tensor) -> Tensor:
        if is_sound(inputs.shape[1:]):
            return median_of_samples(inputs, self.window)
        return feature_squeezing.median(inputs, self.window)

    def backward_view(self, inputs: Tensor) -> Tensor:
        """Its own gradient leads to the value that it picks."""
        return self(inputs)

    def operations(self, input_shape: tuple[int, int, int]) -> int:
        """What sorting by insertion compares at most: each pair of a window's values."""
        values = self.window if is_sound(input_shape) else self.window**2
        return math.prod(input_shape) * math.comb(values, 2)


def filter(input_shape: tuple[int, int, int], *, window: Count = 2) -> Median:
    """The filter for inputs of a shape (C, H, W). window: pixels a side, or samples; 1 is no median.

    Raises ValueError if the window is larger than the image, or the clip.
    """
    sound = is_sound(input_shape)
    longest = input_shape[2] if sound else min(input_shape[1:])
    if window > longest:
        whole = "the samples of a clip" if sound else "the sides of an image"
        raise ValueError(f"median: window is {window}, expected at most {whole}, {longest}")
    return Median(window)


def median_of_samples(clips: Tensor, window: int) -> Tensor:
    """The median of each sample and those around it, [N, 1, 1, T] as the clips: as `feature_squeezing.median`."""
    places = reflected(clips.shape[3], window // 2, (window - 1) // 2, clips.device)
    return clips[..., places].unfold(3, window, 1).sort(dim=-1).values[..., window // 2]
