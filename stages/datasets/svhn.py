"""SVHN, cropped digits (Netzer et al. 2011, http://ufldl.stanford.edu/housenumbers), from a mirror or its authors.

The 531,131 easier images of `extra_32x32.mat` are left out: with them a job would need more than 3 GB.
"""

from pathlib import Path

import numpy as np
from scipy.io import loadmat

from stages.datasets.arrays import Split
from stages.datasets.sources import source_file

INPUT_SHAPE = (3, 32, 32)
CLASSES = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
COUNTS = {"train": 73_257, "test": 26_032}
# As published for the training images: mean (0.4377, 0.4438, 0.4728), deviations (0.1980, 0.2010, 0.1970).
MEAN = (112 / 255, 113 / 255, 121 / 255)
STD = 0.199

URL = "http://ufldl.stanford.edu/housenumbers"
# Of the files, as torchvision publishes them beside the MD5 e26dedcc434d2e4c54c9b2d4a06d8373 (train) and
# eb5a983be6a315427106f1b164d9cef3 (test).
SHA256 = {
    "train": "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
    "test": "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
}


def load(mirror: Path | None = None) -> dict[str, Split]:
    """Reads the training and the test images.

    Args:
        mirror: a folder that holds `svhn/train_32x32.mat` and `svhn/test_32x32.mat`; without one, they are downloaded
            once into the user's cache folder.

    Returns:
        `train` (73,257) and `test` (26,032), in canonical order.

    Raises:
        SourceError: a file is missing, cannot be downloaded, or has another checksum.
    """
    folder = mirror and mirror / "svhn"
    return {split: read_mat(source_file(f"{URL}/{split}_32x32.mat", SHA256[split], folder)) for split in SHA256}


def read_mat(path: Path) -> Split:
    """Reads `X` uint8 `[H, W, C, N]` and `y` `[N, 1]`, 1 to 10, where 10 stands for the digit 0.

    Images have no file names: the canonical order is by (label, position in the file).
    """
    content = loadmat(path, variable_names=("X", "y"))
    labels = content["y"].ravel().astype(np.int64) % 10
    order = np.argsort(labels, kind="stable")
    return Split(np.ascontiguousarray(content["X"].transpose(3, 2, 0, 1)[order]), labels[order])
