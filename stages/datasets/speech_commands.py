"""Speech Commands v0.02 (Warden 2018, https://arxiv.org/abs/1804.03209): ten words, silence, and unknown words.

Train and validation are the official ones: what neither list of the archive names, and what `validation_list.txt`
names. Beside the clips of the ten words each has a tenth as many of other words and a tenth as many of silence, as in
the paper's training code; there they are drawn anew in each epoch, here the SHA-256 of names decides, once. Silence is
a second of the archive's background noise at any volume; in validation it is all of a tap running, which train does not
hear. Test is the official archive of the test set, which brings its own of both.
"""

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from stages.datasets.arrays import SourceError, Split
from stages.datasets.clips import SAMPLES, as_images, decode_clip, decode_sound
from stages.datasets.sources import source_file

INPUT_SHAPE = (1, 1, 16_000)
CLASSES = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "_silence_", "_unknown_")
COUNTS = {"train": 36_923, "val": 4_445, "test": 4_890}
# Of the features of `speech_commands_test_split`: they scale inputs, and need not be exact.
MEAN = (202 / 255,)
STD = 0.063

URL = "https://storage.googleapis.com/download.tensorflow.org/data"
ARCHIVE, TEST_ARCHIVE = "speech_commands_v0.02.tar.gz", "speech_commands_test_set_v0.02.tar.gz"
# The first as torchaudio publishes it; of the second the publisher states nothing, and several projects this.
SHA256 = {
    ARCHIVE: "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
    TEST_ARCHIVE: "cc2a00c1147c2254e9be3fa0f779d8c17421dc349b86366567a8edfa9acd51df",
}

WORDS, SILENCE, UNKNOWN = CLASSES[:10], CLASSES.index("_silence_"), CLASSES.index("_unknown_")
NOISE = "_background_noise_"
VALIDATION_NOISE = "running_tap.wav"
LISTS = {"val": "validation_list.txt", "test": "testing_list.txt"}

Clips = dict[tuple[int, str], np.ndarray]  # by (label, name): the samples int16 [SAMPLES] of each clip


def load(mirror: Path | None = None) -> dict[str, Split]:
    """Reads the twelve-class task.

    Args:
        mirror: a folder that holds `speech_commands/speech_commands_v0.02.tar.gz` (2.4 GB) and
            `speech_commands/speech_commands_test_set_v0.02.tar.gz`; without one, they are downloaded once into the
            user's cache folder.

    Returns:
        `train` (36,923), `val` (4,445) and `test` (4,890), in canonical order.

    Raises:
        SourceError: an archive is missing, cannot be downloaded, has another checksum or lacks what it should have.
    """
    folder = mirror and mirror / "speech_commands"
    archive, test_archive = (source_file(f"{URL}/{name}", SHA256[name], folder) for name in SHA256)
    return read_archive(archive) | {"test": read_test_archive(test_archive)}


def read_archive(path: Path) -> dict[str, Split]:
    """Reads `train` and `val` from the official archive, with `<word>/<file>.wav`, the noise and the two lists.

    Raises:
        SourceError: a list, the noise or a word is missing, or a clip is no second of sound.
    """
    with tarfile.open(path, "r:gz") as archive:
        members = _members(archive)
        listed = {split: _listed(archive, members, name, path) for split, name in LISTS.items()}
        chosen = _chosen([file for file in members if _is_word(file)], listed)
        _refuse_missing(chosen, path)
        clips: dict[str, Clips] = {"train": {}, "val": {}}
        noise = {}
        # In the archive's order, since going back in it means to decompress it from its start.
        for file, member in members.items():
            if file.parent.name == NOISE and file.suffix == ".wav":
                noise[file.name] = decode_sound(archive.extractfile(member).read(), f"{path}: {file}")
            elif file in chosen:
                split, label = chosen[file]
                samples = decode_clip(archive.extractfile(member).read(), f"{path}: {file}")
                clips[split][label, _name(file)] = samples
    for split, content in clips.items():
        words = sum(label < SILENCE for label, _ in content)
        content |= _silence(noise, split, _tenth_of(words), path)
    return {split: _split(content) for split, content in clips.items()}


def read_test_archive(path: Path) -> Split:
    """Reads the official archive of the test set, `<class>/<file>.wav`.

    Raises:
        SourceError: a class is missing, or a clip is no second of sound.
    """
    clips: Clips = {}
    with tarfile.open(path, "r:gz") as archive:
        for file, member in _members(archive).items():
            if file.suffix == ".wav" and file.parent.name in CLASSES:
                label = CLASSES.index(file.parent.name)
                clips[label, _name(file)] = decode_clip(archive.extractfile(member).read(), f"{path}: {file}")
    for label, name in enumerate(CLASSES):
        if not any(found == label for found, _ in clips):
            raise SourceError(f"{path}: no clips in the folder '{name}', expected some of each class")
    return _split(clips)


def _members(archive: tarfile.TarFile) -> dict[PurePosixPath, tarfile.TarInfo]:
    """The files but for hidden ones, in the archive's order."""
    files = {PurePosixPath(member.name): member for member in archive.getmembers() if member.isfile()}
    return {file: member for file, member in files.items() if not file.name.startswith(".")}


def _listed(archive: tarfile.TarFile, members: dict, name: str, source: Path) -> set[str]:
    """The clips `<word>/<file>.wav` that a list of the archive names."""
    for file, member in members.items():
        if file.name == name:
            return set(archive.extractfile(member).read().decode("ascii").split())
    raise SourceError(f"{source}: no {name} in it, expected the list of that split's clips")


def _is_word(file: PurePosixPath) -> bool:
    return file.suffix == ".wav" and file.parent.name != NOISE


def _chosen(files: list[PurePosixPath], listed: dict[str, set[str]]) -> dict[PurePosixPath, tuple[str, int]]:
    """The split and label of each clip that is used: all of the ten words, and a tenth as many of the others."""
    chosen = {}
    for split in ("train", "val"):
        mine = [file for file in files if _split_of(file, listed) == split]
        words = [file for file in mine if file.parent.name in WORDS]
        others = sorted((file for file in mine if file.parent.name not in WORDS), key=lambda file: _digest(_name(file)))
        chosen |= {file: (split, WORDS.index(file.parent.name)) for file in words}
        chosen |= dict.fromkeys(others[: _tenth_of(len(words))], (split, UNKNOWN))
    return chosen


def _split_of(file: PurePosixPath, listed: dict[str, set[str]]) -> str:
    return next((split for split, names in listed.items() if _name(file) in names), "train")


def _refuse_missing(chosen: dict[PurePosixPath, tuple[str, int]], source: Path) -> None:
    found = set(chosen.values())
    for split in ("train", "val"):
        for label, name in enumerate(CLASSES):
            if label != SILENCE and (split, label) not in found:
                raise SourceError(f"{source}: no clips of '{name}' for {split}, expected some of each class")


def _silence(noise: dict[str, np.ndarray], split: str, count: int, source: Path) -> Iterator[tuple]:
    """Seconds of noise, where and how loud as the SHA-256 of their names says."""
    heard = sorted(name for name in noise if (name == VALIDATION_NOISE) == (split == "val"))
    if not heard or min(len(noise[name]) for name in heard) < SAMPLES:
        raise SourceError(f"{source}: too little in {NOISE} for {split}, expected sound files of a second or more")
    for number in range(count):
        name = f"{split}_{number:05}"
        which, where, volume = (_share(f"{name} {part}") for part in ("file", "start", "volume"))
        recording = noise[heard[int(which * len(heard))]]
        start = int(where * (len(recording) - SAMPLES + 1))
        yield (SILENCE, name), np.round(volume * recording[start : start + SAMPLES]).astype(np.int16)


def _split(clips: Clips) -> Split:
    """In canonical order, by (label, name)."""
    order = sorted(clips)
    images = as_images([clips[key] for key in order])
    return Split(images.transpose(0, 3, 1, 2), np.array([label for label, _ in order], np.int64))


def _name(file: PurePosixPath) -> str:
    """`<word>/<file>.wav`: of unknown words, files of different ones have the same name."""
    return f"{file.parent.name}/{file.name}"


def _tenth_of(count: int) -> int:
    return -(-count // 10)


def _share(name: str) -> float:
    """A number in [0, 1) that a name decides."""
    return int.from_bytes(_digest(name)[:4], "big") / 2**32


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
