"""Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, https://arxiv.org/abs/1708.07747), a class-balanced sixth of it.

The source tree holds the first 1,000 training and 200 test images of each class, and says in `data/embedded` where they
come from.
"""

from pathlib import Path

from stages.datasets.arrays import Split
from stages.datasets.parquet import read_split

INPUT_SHAPE = (1, 28, 28)
CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
COUNTS = {"train": 10_000, "test": 2_000}
MEAN = (73 / 255,)
STD = 0.354
DIGESTS = {
    "train": {
        "pixels": "c0c6726b84344f71ed5f3f778113ef72d81c3e38038638a076d9f7b48ef3af3c",
        "labels": "a054c239a40ee7f2a5745e7e4bc11a51e9cb40c98134b602c1068e6a207487c6",
    },
    "test": {
        "pixels": "80f041a1db53aeefce90d32bb6094e616abf55eed82a9c247b6c2a44a773acf7",
        "labels": "783ded2cd634604d77909249bf721cf46185a8401e95753ab3636fc8edcb816c",
    },
}

FOLDER = Path(__file__).resolve().parents[2] / "data" / "embedded" / "fashion_mnist"


def load(mirror: Path | None = None) -> dict[str, Split]:
    """Reads the embedded images; a mirror has nothing to add.

    Returns:
        `train` (10,000) and `test` (2,000), in canonical order.

    Raises:
        SourceError: a file of the source tree is missing, truncated or altered.
    """
    return {
        split: read_split(FOLDER / f"{split}.parquet", "image", INPUT_SHAPE, CLASSES, DIGESTS[split])
        for split in DIGESTS
    }
