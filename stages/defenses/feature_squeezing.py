"""Feature squeezing: Xu, Evans and Qi, "Feature squeezing: detecting adversarial examples in deep neural networks",
NDSS 2018, https://arxiv.org/abs/1704.01155 (sections III and V).

Two squeezers coalesce inputs that differ by little: fewer bits a value, and a median filter. The network's prediction
is that of the input squeezed by both, one after the other; the paper evaluates the prediction with one squeezer at a
time. The detector is the paper's joint detection: the largest L1 distance between the network's probabilities for the
input and for the input squeezed by one of them. The paper's third squeezer for CIFAR-10, non-local means, is left out.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from stages.defenses.input_filter import InputFilter
from stages.knobs import Count
from stages.quantization.rounding import round_straight_through


class FeatureSqueezing(InputFilter):
    """Bit depth, then the median; neither has parameters or multiply-accumulates, and both can work in place.

    bits: 1 to 8, a value of the squeezed input. window: of the median, in pixels a side; at most the image's sides.
    """

    def __init__(self, bits: int, window: int) -> None:
        super().__init__()
        self.bits, self.window = bits, window

    def forward(self, inputs: Tensor) -> Tensor:
        return median(reduced_bit_depth(inputs, self.bits), self.window)

    def backward_view(self, inputs: Tensor) -> Tensor:
        """The rounding's gradient is the identity's; the median's own leads to the value that it picks."""
        return self(inputs)

    def suspicion(self, logits_of: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """The largest L1 distance [N] between probabilities of the input and of a squeezed one, in [0, 2]."""
        squeezed = (reduced_bit_depth(inputs, self.bits), median(inputs, self.window))
        probabilities = logits_of(inputs).softmax(1)
        return torch.stack([(logits_of(other).softmax(1) - probabilities).abs().sum(1) for other in squeezed]).amax(0)


def filter(
    input_shape: tuple[int, int, int], *, bits: Literal[1, 2, 3, 4, 5, 6, 7, 8] = 5, window: Count = 2
) -> FeatureSqueezing:
    """The filter for inputs of a shape (C, H, W).

    bits: of a squeezed value; a digital input has 8. window: of the median, pixels a side; 1 is no median. Defaults
    are the paper's for CIFAR-10 (section V-B: bit depth 5, median 2x2).
    Raises ValueError if the window is larger than the image.
    """
    if window > min(input_shape[1:]):
        raise ValueError(
            f"feature_squeezing: window is {window}, expected at most the sides of an image, {min(input_shape[1:])}"
        )
    return FeatureSqueezing(bits, window)


def reduced_bit_depth(inputs: Tensor, bits: int) -> Tensor:
    """The nearest of 2^bits values from 0 to 1, with the identity's gradient."""
    steps = 2**bits - 1
    return round_straight_through(inputs * steps) / steps


def median(inputs: Tensor, window: int) -> Tensor:
    """The median of each window x window neighbourhood of each channel, [N, C, H, W] as the inputs.

    A window of even size has its pixel right below its centre (in 2x2 the lower right), and of the two values in the
    middle the greater is taken, as in the paper. Beyond a border the image is reflected about its edge (d c b a | a b c
    d), so that the border itself is repeated first. The gradient goes to the value that was taken.
    """
    if window == 1:
        return inputs
    rows, columns = (_reflected(size, window, inputs.device) for size in inputs.shape[2:])
    patches = inputs[:, :, rows][:, :, :, columns].unfold(2, window, 1).unfold(3, window, 1).flatten(4)
    return patches.sort(dim=-1).values[..., window * window // 2]


def _reflected(size: int, window: int, device: torch.device) -> Tensor:
    """Which of `size` positions stand at -(window // 2), ..., size - 1 + (window - 1) // 2."""
    positions = torch.arange(-(window // 2), size + (window - 1) // 2, device=device)
    positions = torch.where(positions < 0, -1 - positions, positions)
    return torch.where(positions >= size, 2 * size - 1 - positions, positions)
