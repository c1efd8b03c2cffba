"""What values the inputs of a dataset can have, which their shape says."""

from collections.abc import Sequence

LEVELS = 255  # of images: the highest of their levels, from 0
SOUND_LEVELS = 65535
SILENCE = "_silence_"  # the class of clips in which nobody speaks


def is_sound(input_shape: Sequence[int]) -> bool:
    """Whether inputs of this shape `(C, H, W)` are clips of sound: a row of samples, with 16 bits each."""
    shape = tuple(input_shape)
    return len(shape) == 3 and shape[:2] == (1, 1) and shape[2] > 1


def levels_of(input_shape: Sequence[int]) -> int:
    """The highest level that an input of this shape has, which is 1 in input units."""
    return SOUND_LEVELS if is_sound(input_shape) else LEVELS
