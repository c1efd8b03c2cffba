"""The clips of `speech_commands` as their features, which attackers then change instead of the sound.

Images of 8 bits, 49 frames by 10 coefficients (`stages/models/mfcc.py`): what the input of a quantized network holds.
"""

from pathlib import Path

from stages.datasets import speech_commands
from stages.datasets.arrays import Split
from stages.datasets.clips import features

INPUT_SHAPE = (1, 49, 10)
CLASSES = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "_silence_", "_unknown_")
COUNTS = {"train": 36_923, "val": 4_445, "test": 4_890}
MEAN = speech_commands.MEAN
STD = speech_commands.STD


def load(mirror: Path | None = None) -> dict[str, Split]:
    """The features of what `speech_commands` reads: same splits, same order."""
    return features(speech_commands.load(mirror))
