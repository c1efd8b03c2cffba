"""Mel-frequency cepstral coefficients (Davis & Mermelstein 1980, doi 10.1109/TASSP.1980.1163420), what a network hears.

49 frames of 10 coefficients for a second of sound, as in MLPerf Tiny (Banbury et al. 2021, arXiv 2106.07597): frames of
30 ms every 20 ms under a Hann window, the magnitudes of their Fourier transforms in 40 mel bands from 20 Hz to 4 kHz,
the logarithm, and a cosine transform. Its training code divides each clip by its largest sample first; here nothing is,
since a device would have to have heard all of the clip to do so.
"""

from math import pi, sqrt

import torch
from torch import Tensor, nn

from stages.datasets.levels import LEVELS
from stages.datasets.tensors import SILENCE
from stages.quantization.frozen_layers import FrozenInput

CLIP = (1, 1, 16_000)  # a second of sound, as a dataset has it
FEATURES = (1, 49, 10)  # what becomes of it: frames in time, and coefficients
SAMPLE_RATE = 16_000  # Hz

FRAME, HOP, FOURIER = 480, 320, 512  # samples
MEL_BANDS = 40
MEL_EDGES = (20.0, 4_000.0)  # Hz
LEAST = 1e-6  # added to what the logarithm is taken of

# A coefficient of 0 is level 206 of 255, and one level is 0.6, about as in MLPerf Tiny's 8-bit network (0.58): silence,
# whose first coefficient of -123.6 is the lowest there is, is level 0, and loud speech reaches 255.
COEFFICIENT_STEP, COEFFICIENT_ZERO = 0.6, 206


class MFCC(nn.Module):
    """Clips `[N,1,1,16000]` in [0,1] -> features `[N,1,49,10]`, of which [0,1] is what 8-bit inputs can hold.

    A clip is taken as the 16-bit samples that a microphone would give; gradients pass straight through that rounding.
    In float64: how a sum is ordered, which may depend on the batch, changes features by 1e-14 or so, which the next
    rounding to float32 or 8 bits takes away in all but one of some million cases.
    """

    def __init__(self) -> None:
        super().__init__()
        self.samples = FrozenInput((SILENCE,), 1.0, bits=16)
        for name, constant in {"window": hann_window(), "mel": mel_bands(), "cosines": cosines()}.items():
            self.register_buffer(name, constant, persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        samples = self.samples(inputs).integers.double().flatten(1) / 2**15
        frames = samples.unfold(1, FRAME, HOP) * self.window
        magnitudes = torch.fft.rfft(frames, FOURIER).abs()
        coefficients = (magnitudes @ self.mel + LEAST).log() @ self.cosines
        return ((coefficients / COEFFICIENT_STEP + COEFFICIENT_ZERO) / LEVELS)[:, None].to(inputs.dtype)


def hann_window() -> Tensor:
    """The weights of a frame's samples, float64 `[FRAME]`."""
    return 0.5 - 0.5 * torch.cos(2 * pi * torch.arange(FRAME, dtype=torch.float64) / FRAME)


def mel_bands() -> Tensor:
    """How much of each frequency is in each band, float64 `[FOURIER / 2 + 1, MEL_BANDS]`.

    Triangles of height 1 on the mel scale of HTK, 1127 ln(1 + f / 700 Hz), each from the centre of the one before to
    that of the one after it. None holds a constant.
    """
    frequencies = torch.arange(FOURIER // 2 + 1, dtype=torch.float64) * SAMPLE_RATE / FOURIER
    lowest, highest = _mel(torch.tensor(MEL_EDGES, dtype=torch.float64))
    corners = torch.linspace(lowest, highest, MEL_BANDS + 2, dtype=torch.float64)
    spacing = corners[1] - corners[0]
    bands = (1 - (_mel(frequencies)[:, None] - corners[1:-1]).abs() / spacing).clamp(min=0)
    bands[0] = 0
    return bands


def cosines() -> Tensor:
    """The cosine transform (DCT-II) of bands to coefficients, float64 `[MEL_BANDS, coefficients]`.

    As in HTK: orthonormal, but for the first coefficient, which is sqrt(2) times as large.
    """
    band, coefficient = torch.arange(MEL_BANDS, dtype=torch.float64), torch.arange(FEATURES[2], dtype=torch.float64)
    return sqrt(2 / MEL_BANDS) * torch.cos(pi / MEL_BANDS * (band[:, None] + 0.5) * coefficient)


def _mel(frequencies: Tensor) -> Tensor:
    return 1127 * torch.log1p(frequencies / 700)
