import io
import zlib

import numpy as np
import pytest
from PIL import Image

from stages.datasets.arrays import SourceError
from stages.datasets.images import decode_image

SHAPE = (3, 4, 5)
IMAGE = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_lossless_images_are_decoded_to_the_level(kind, options):
    assert (decode_image(encode(IMAGE, kind, **options), SHAPE, "row 0") == IMAGE).all()


def test_jpeg():
    ramp = np.broadcast_to(np.arange(0, 160, 10, dtype=np.uint8)[:, None, None], (16, 16, 3))
    decoded = decode_image(encode(ramp, "JPEG", quality=95), (3, 16, 16), "row 0")
    assert np.abs(decoded.astype(int) - ramp).max() <= 3


def test_truncated_jpeg():
    data = encode(IMAGE.repeat(16, 0).repeat(16, 1), "JPEG", quality=95)
    with pytest.raises(SourceError, match=r"^row 0: the image cannot be decoded \((?i:.*truncated)"):
        decode_image(data[: len(data) // 2], (3, 64, 80), "row 0")


def test_image_of_another_format():
    with pytest.raises(
        SourceError, match=r"^row 0: the image cannot be decoded \(unknown format\), expected JPEG, PNG or WebP"
    ):
        decode_image(encode(IMAGE, "BMP"), SHAPE, "row 0")


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (IMAGE[:3], "RGB of 5 x 3 pixels"),
        (IMAGE[..., 0], "L of 5 x 4 pixels"),
        (IMAGE[..., [0, 1, 2, 0]], "RGBA of 5 x 4 pixels"),
    ],
)
def test_image_of_another_shape(image, found):
    with pytest.raises(SourceError, match=f"^row 0: the image is {found}, expected RGB of 5 x 4$"):
        decode_image(encode(image), SHAPE, "row 0")


def test_image_of_absurd_size_is_not_decoded():
    header = bytearray(encode(IMAGE))
    header[16:24] = (100_000).to_bytes(4) * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4)
    with pytest.raises(SourceError, match=r"^row 0: the image cannot be decoded \(Image size \(10000000000 pixels\)"):
        decode_image(bytes(header), SHAPE, "row 0")
