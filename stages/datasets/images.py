"""One encoded image as an array, or one sentence that says why it is none."""

import io

import numpy as np
from PIL import Image

from stages.datasets.arrays import SourceError

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP")
MODES = {1: "L", 3: "RGB"}


def decode_image(data: bytes, input_shape: tuple[int, int, int], source: str) -> np.ndarray:
    """Decodes one JPEG, PNG or WebP image as it is stored: nothing is resized, turned or converted.

    Args:
        data: the encoded image.
        input_shape: the `(C, H, W)` that the image must have; 1 channel is grey, 3 are red, green, blue.
        source: what an error names.

    Returns:
        uint8 `[H, W, C]`.

    Raises:
        SourceError: bytes that are no such image.
    """
    channels, height, width = input_shape
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "unknown format" if isinstance(error, Image.UnidentifiedImageError) else error
        raise SourceError(f"{source}: the image cannot be decoded ({reason}), expected JPEG, PNG or WebP") from error
    if (image.mode, image.size) != (MODES[channels], (width, height)):
        raise SourceError(
            f"{source}: the image is {image.mode} of {image.width} x {image.height} pixels, "
            f"expected {MODES[channels]} of {width} x {height}"
        )
    return np.asarray(image).reshape(height, width, channels)
