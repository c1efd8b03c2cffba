"""Small archives of sound in the layouts of Speech Commands, made up."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from stages.datasets.speech_commands import CLASSES

NOISES = ("running_tap.wav", "pink_noise.wav", "exercise_bike.wav")


def sound(samples, seed, rate=16_000):
    """Noise of a loudness of its own, int16."""
    generator = np.random.default_rng(seed)
    return (generator.uniform(10, 3000) * generator.standard_normal(samples)).clip(-32768, 32767).astype(np.int16)


def encoded(samples, kind="WAV", rate=16_000, subtype="PCM_16"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype, format=kind)
    return file.getvalue()


def archive(path: Path, files: dict[str, bytes]) -> Path:
    """A tar.gz of these files, in this order."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def official_files(words=CLASSES[:10], others=("bed", "cat"), speakers=12):
    """The files of a small official archive: of each word a clip a speaker, of whom 0 is for val and 1 for test."""
    names = [f"{word}/{speaker:08x}_nohash_0.wav" for word in (*words, *others) for speaker in range(speakers)]
    files = {f"./{name}": encoded(sound(16_000 - 100 * (place % 3), place)) for place, name in enumerate(names)}
    for place, noise in enumerate(NOISES):
        files[f"./_background_noise_/{noise}"] = encoded(sound(40_000, 1000 + place))
    files["./_background_noise_/README.md"] = b"noise"
    for name, speaker in (("validation_list.txt", 0), ("testing_list.txt", 1)):
        listed = [clip for clip in names if clip.split("/")[1].startswith(f"{speaker:08x}")]
        files[f"./{name}"] = "\n".join(listed).encode()
    return files


def test_files(each=2):
    """The files of a small archive of the test set."""
    names = [f"./{name}/{number}.wav" for name in CLASSES for number in range(each)]
    return {name: encoded(sound(16_000, 2000 + place)) for place, name in enumerate(names)}


test_files.__test__ = False


def parquet(path: Path, speakers=40, samples=16_000) -> Path:
    """A Parquet file as that of the test set: of each class a clip a speaker."""
    rows = []
    for label, name in enumerate(CLASSES):
        for speaker in range(speakers):
            silence = name == "_silence_"
            file = f"{name}/{speaker}.wav" if silence else f"{name}/{speaker:08x}_nohash_0.wav"
            data = encoded(sound(samples, label * speakers + speaker), "FLAC")
            known = "" if silence else f"{speaker:08x}"
            rows.append({"file": file, "audio": {"bytes": data, "path": file}, "label": label, "speaker_id": known})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path
