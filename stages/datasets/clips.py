"""Clips of sound: a second of 16-bit samples at 16 kHz, and the features that keyword spotters make of it."""

import io
from collections.abc import Sequence

import numpy as np
import soundfile

from stages.datasets.arrays import SourceError, Split
from stages.datasets.levels import LEVELS

SAMPLE_RATE = 16_000  # Hz
SAMPLES = 16_000  # of a clip
BATCH = 250  # clips of which features are made at once


def decode_sound(data: bytes, source: str) -> np.ndarray:
    """Decodes one WAV or FLAC file as it is stored: nothing is resampled, mixed or scaled.

    Args:
        data: the file.
        source: what an error names.

    Returns:
        int16 `[samples]`.

    Raises:
        SourceError: bytes that are no such file, or another sample rate, sample format or number of channels.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            found = (file.samplerate, file.channels, file.subtype)
            samples = file.read(dtype="int16")
    except soundfile.LibsndfileError as error:
        raise SourceError(f"{source}: the sound cannot be decoded ({error}), expected WAV or FLAC") from error
    if found != (SAMPLE_RATE, 1, "PCM_16"):
        raise SourceError(
            f"{source}: the sound has {found[0]} Hz, {found[1]} channels and {found[2]} samples, "
            f"expected {SAMPLE_RATE} Hz, 1 channel and PCM_16"
        )
    return samples


def decode_clip(data: bytes, source: str) -> np.ndarray:
    """As `decode_sound`, with silence after what is shorter than a second: int16 `[SAMPLES]`.

    Raises:
        SourceError: as `decode_sound`, or more than a second.
    """
    samples = decode_sound(data, source)
    if len(samples) > SAMPLES:
        raise SourceError(f"{source}: the sound has {len(samples)} samples, expected at most {SAMPLES}")
    return np.pad(samples, (0, SAMPLES - len(samples)))


def as_images(clips: Sequence[np.ndarray]) -> np.ndarray:
    """Clips int16 `[SAMPLES]` in the shape `[N, 1, SAMPLES, 1]` in which `arrays.canonical_split` takes images."""
    return np.stack(clips)[:, None, :, None]


def features(splits: dict[str, Split]) -> dict[str, Split]:
    """The MFCC of each clip as 8-bit images, uint8 `[N, 1, 49, 10]`: what the input of a quantized network holds."""
    import torch  # which takes seconds to import, and is needed for nothing else here

    from stages.datasets.tensors import as_input
    from stages.models.mfcc import MFCC

    front_end = MFCC().double()

    def of_clips(inputs: np.ndarray) -> np.ndarray:
        batches = torch.from_numpy(inputs).split(BATCH)
        with torch.no_grad():
            made = torch.cat([front_end(as_input(batch).double()) for batch in batches])
        return (made * LEVELS).round().clamp(0, LEVELS).to(torch.uint8).numpy()

    return {name: Split(of_clips(split.inputs), split.labels) for name, split in splits.items()}
