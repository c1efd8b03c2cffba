"""The test set of Speech Commands v0.02 (Warden 2018, https://arxiv.org/abs/1804.03209), divided into three by speaker.

A small stand-in for `speech_commands` where its 2.4 GB are not at hand. Results on it are none on Speech Commands: its
networks train on a twelfth of the data, and are tested on a third of the official test set. Each speaker is in one
split alone: the SHA-256 of the speaker's name decides, and for silence, which has no speaker, that of the file's name.
"""

import hashlib
from pathlib import Path

import numpy as np

from stages.datasets.arrays import SourceError, Split, canonical_split
from stages.datasets.clips import as_images, decode_clip
from stages.datasets.parquet import read_table

INPUT_SHAPE = (1, 1, 16_000)
CLASSES = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "_silence_", "_unknown_")
COUNTS = {"train": 2_949, "val": 394, "test": 1_547}
# Of the features of train, which they scale.
MEAN = (202 / 255,)
STD = 0.063
DIGESTS = {
    "train": {
        "samples": "ca08da7264f998e3c825a790e03f4a39a6c5b84cf5a89c405cd669a9992c48c4",
        "labels": "c8d87091d585b3daaa9dfa04a004d19bf3ef7fbd9e679a1c341b5e706e3237b6",
    },
    "val": {
        "samples": "b9a35bbcabbcf0b8366a62573bd4db664f06d5535d0eefcc63afdb7747ca70b2",
        "labels": "b72a3a66211a19aa3e14bdf224df1bf51ff6f2f1b04a259b70d63e7cbdc3a2b8",
    },
    "test": {
        "samples": "320cfeb23ec1b57f260bf9bc08d6da7da9433f5ee2e04be67c04c26aadfa0ce7",
        "labels": "059cf95aeac488dd1b1c5e22ff90b89f40f562ad692f26fa248b00b3e67f44c0",
    },
}

TENTHS = {"val": range(0, 1), "train": range(1, 7), "test": range(7, 10)}  # of the speakers


def load(mirror: Path | None = None) -> dict[str, Split]:
    """Reads the clips.

    Args:
        mirror: a folder that holds `speech_commands_test/test.parquet`, whose columns are `file`, `audio` (a struct of
            `bytes`, FLAC, and `path`), `label` and `speaker_id`.

    Returns:
        `train` (2,949), `val` (394) and `test` (1,547), in canonical order.

    Raises:
        SourceError: the file is missing, truncated, altered or mislabelled, or there is no mirror.
    """
    if mirror is None:
        raise SourceError(
            "speech_commands_test_split: cannot be downloaded, expected a folder in data.mirror that holds "
            "speech_commands_test/test.parquet"
        )
    return read_clips(mirror / "speech_commands_test" / "test.parquet", DIGESTS)


def read_clips(path: Path, expected: dict[str, dict[str, str]]) -> dict[str, Split]:
    """Reads a Parquet file of clips and proves that its splits have the expected digests, as `load`."""
    table = read_table(path, "audio", "file", "speaker_id")
    labels, files = table["label"].to_numpy(), np.array(table["file"].to_pylist())
    unknown = labels[(labels < 0) | (labels >= len(CLASSES))]
    if len(unknown):
        raise SourceError(f"{path}: a clip has label {unknown[0]}, expected 0 to {len(CLASSES) - 1}")
    speakers = [speaker or file for speaker, file in zip(table["speaker_id"].to_pylist(), files, strict=True)]
    tenths = np.array([tenth(speaker) for speaker in speakers])
    encoded = zip(table["audio.bytes"], files, strict=True)
    clips = [decode_clip(data.as_py(), f"{path}: {file}") for data, file in encoded]
    splits = {}
    for split in ("train", "val", "test"):
        rows = np.flatnonzero(np.isin(tenths, TENTHS[split]))
        images = as_images([clips[row] for row in rows])
        splits[split] = canonical_split(images, labels[rows], files[rows], expected[split], f"{path} ({split})")
    return splits


def tenth(speaker: str) -> int:
    """Which tenth of all speakers one belongs to."""
    return int(hashlib.sha256(speaker.encode()).hexdigest(), 16) % 10
