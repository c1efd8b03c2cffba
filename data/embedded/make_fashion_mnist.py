"""Makes the embedded Fashion-MNIST from the full one: python make_fashion_mnist.py FOLDER

FOLDER holds the four original files (`train-images-idx3-ubyte.gz`, ...), as the Debian package dataset-fashion-mnist
installs them. The first images of each class in the original order are taken, so that nothing is left to chance.
"""

import argparse
import gzip
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

PER_CLASS = {"train": 1_000, "test": 200}
ORIGINAL_NAMES = {"train": "train", "test": "t10k"}
NUM_CLASSES = 10
OUTPUT = Path(__file__).resolve().parent / "fashion_mnist"
SCHEMA = pa.schema(
    [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
)


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Reads uint8 IDX (http://yann.lecun.com/exdb/mnist/): magic number, a big-endian int32 a dimension, values."""
    content = gzip.decompress(path.read_bytes())
    if content[:4] != bytes([0, 0, 8, dimensions]):
        raise SystemExit(f"{path}: starts with {content[:4].hex()}, expected IDX of uint8 with {dimensions} dimensions")
    header = 4 + 4 * dimensions
    shape = np.frombuffer(content[4:header], ">i4")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def encode_png(image: np.ndarray) -> bytes:
    """The smallest PNG that Pillow makes of a uint8 `[H, W]` image."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def embed(folder: Path, split: str) -> None:
    """Writes one split, class-interleaved: any prefix of 10 n rows is balanced."""
    images = read_idx(folder / f"{ORIGINAL_NAMES[split]}-images-idx3-ubyte.gz", 3)
    labels = read_idx(folder / f"{ORIGINAL_NAMES[split]}-labels-idx1-ubyte.gz", 1)
    by_class = [np.flatnonzero(labels == label)[: PER_CLASS[split]] for label in range(NUM_CLASSES)]
    rows = [
        {"image": {"bytes": encode_png(images[index]), "path": f"{split}-{index:05d}.png"}, "label": int(labels[index])}
        for index in np.stack(by_class, axis=1).ravel()
    ]
    OUTPUT.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), OUTPUT / f"{split}.parquet", compression="zstd")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the four original files are")
    arguments = parser.parse_args()
    for split in PER_CLASS:
        embed(arguments.folder, split)
