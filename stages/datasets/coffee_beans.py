"""Coffee beans at four roasting levels (Ontoum et al. 2022, https://arxiv.org/abs/2206.01841), 224 x 224 pixels.

The images are those of https://www.kaggle.com/datasets/gpiosenka/coffee-bean-dataset-resized-224-x-224, which needs an
account and publishes no checksum: only their number is proven, 300 of each class for training and 100 for testing.
"""

from pathlib import Path

from stages.datasets.arrays import Split
from stages.datasets.image_folder import read_mirror

INPUT_SHAPE = (3, 224, 224)
CLASSES = ("Dark", "Green", "Light", "Medium")
COUNTS = {"train": 1_200, "test": 400}
# Nobody publishes better ones: they scale inputs, and need not be exact.
MEAN = (128 / 255, 128 / 255, 128 / 255)
STD = 0.25


def load(mirror: Path | None = None) -> dict[str, Split]:
    """Reads all images.

    Args:
        mirror: a folder that holds `coffee_beans/train/<class>/*` and `coffee_beans/test/<class>/*`.

    Returns:
        `train` (1,200) and `test` (400), in canonical order.

    Raises:
        SourceError: there is no mirror, or its images are not those.
    """
    return read_mirror(mirror, "coffee_beans", INPUT_SHAPE, CLASSES, COUNTS)
