"""Clips of sound that a page can play."""

import base64
import io
import wave

import numpy as np

SAMPLE_RATE = 16_000  # Hz


def wav(samples: np.ndarray) -> str:
    """A data URI of a clip, int16 [T]."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(SAMPLE_RATE)
        writer.writeframes(samples.astype("<i2").tobytes())
    return "data:audio/wav;base64," + base64.b64encode(file.getvalue()).decode()
