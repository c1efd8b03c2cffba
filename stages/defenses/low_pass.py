"""A low-pass filter of sound, of linear phase: an ideal one cut off by a window (Oppenheim and Schafer, "Discrete-time
signal processing", the window method). As a defense, by sampling at a lower rate and back: Yang, Li, Chen and Song,
"Characterizing audio adversarial examples using temporal dependency", ICLR 2019, https://arxiv.org/abs/1809.10875.
"""

import math

import torch
from torch import Tensor

from stages.datasets.levels import is_sound
from stages.defenses.convolution import convolved
from stages.defenses.input_filter import InputFilter
from stages.knobs import Count, Positive
from stages.models.footprint import Footprint
from stages.models.mfcc import SAMPLE_RATE

INPUTS = ("sound",)

SAMPLE_BYTES = 2


class LowPass(InputFilter):
    """A weighted mean of each sample and those around it, by a sinc under a Hamming window; of silence silence.

    cutoff: the frequency, in Hz, that is left at half its amplitude. taps: the number of weights, odd. What takes
    3.3 / taps of the sample rate, around the cutoff, lies between what passes and what is stopped (by some 50 dB).
    """

    def __init__(self, cutoff: float, taps: int) -> None:
        super().__init__()
        places = torch.arange(taps, dtype=torch.float64) - taps // 2
        ideal = torch.sinc(2 * cutoff / SAMPLE_RATE * places)
        weights = ideal * torch.hamming_window(taps, periodic=False, dtype=torch.float64)
        self.weights = (weights / weights.sum()).float().tolist()

    def forward(self, inputs: Tensor) -> Tensor:
        return convolved(inputs, 3, self.weights).clamp(0, 1)

    def backward_view(self, inputs: Tensor) -> Tensor:
        """A weighted mean has a gradient of its own."""
        return self(inputs)

    def footprint(self, input_shape: tuple[int, int, int]) -> Footprint:
        """A multiply-accumulate a tap and sample; the clip, and the samples that the taps see as they were."""
        samples, taps = math.prod(input_shape), len(self.weights)
        return Footprint(0, taps * samples, 0, SAMPLE_BYTES * (samples + taps))

    def operations(self, input_shape: tuple[int, int, int]) -> int:
        return self.footprint(input_shape).macs


def filter(input_shape: tuple[int, int, int], *, cutoff: Positive = 3500.0, taps: Count = 15) -> LowPass:
    """The filter for clips of a shape (1, 1, T). cutoff: in Hz. taps: the number of weights.

    Raises ValueError if the inputs are no sound, if the cutoff is not below half the sample rate, or if the taps are
    even or reach beyond the clip.
    """
    if not is_sound(input_shape):
        raise ValueError(f"low_pass: inputs have the shape {tuple(input_shape)}, expected sound, (1, 1, samples)")
    if cutoff >= SAMPLE_RATE / 2:
        raise ValueError(
            f"low_pass: cutoff is {cutoff:g}, expected less than half the sample rate, {SAMPLE_RATE / 2:g} Hz"
        )
    if taps % 2 == 0 or taps // 2 > input_shape[2]:
        raise ValueError(f"low_pass: taps is {taps}, expected an odd number of at most {2 * input_shape[2] + 1}")
    return LowPass(cutoff, taps)
