"""The clips of `speech_commands_test_split` as their features, which attackers then change instead of the sound.

Images of 8 bits, 49 frames by 10 coefficients (`stages/models/mfcc.py`): what the input of a quantized network holds.
"""

from pathlib import Path

from stages.datasets import speech_commands_test_split
from stages.datasets.arrays import Split
from stages.datasets.clips import features

INPUT_SHAPE = (1, 49, 10)
CLASSES = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "_silence_", "_unknown_")
COUNTS = {"train": 2_949, "val": 394, "test": 1_547}
MEAN = speech_commands_test_split.MEAN
STD = speech_commands_test_split.STD


def load(mirror: Path | None = None) -> dict[str, Split]:
    """The features of what `speech_commands_test_split` reads: same splits, same order."""
    return features(speech_commands_test_split.load(mirror))
