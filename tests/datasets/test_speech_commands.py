"""Both forms of Speech Commands, on small archives in the same layout, and on the real test set where it is at hand."""

import os
from pathlib import Path

import numpy as np
import pytest

from stages.datasets import speech_commands, speech_commands_test_split, speech_commands_test_split_mfcc
from stages.datasets.arrays import SourceError, canonical_split, digests
from stages.datasets.clips import decode_clip, decode_sound, features
from stages.datasets.speech_commands import CLASSES, SILENCE, UNKNOWN, read_archive, read_test_archive
from stages.datasets.speech_commands_test_split import read_clips, tenth
from tests.datasets.sound import archive, encoded, official_files, parquet, sound, test_files

MIRROR = Path(os.environ.get("TINYROBUST_DATA_MIRROR") or "no mirror")


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    files = official_files()
    return files, archive(tmp_path_factory.mktemp("official") / "train.tar.gz", files)


def counts(split):
    return np.bincount(split.labels, minlength=len(CLASSES)).tolist()


def test_the_lists_of_the_archive_divide_it_and_a_tenth_is_unknown_and_silent(official):
    splits = read_archive(official[1])
    # Of 12 speakers one is for validation and one for the test; of ten words each, a tenth is one clip a speaker.
    assert counts(splits["train"]) == [10] * 12
    assert counts(splits["val"]) == [1] * 12
    assert splits["train"].inputs.shape == (120, 1, 1, 16_000)
    assert splits["train"].inputs.dtype == np.int16


def test_clips_are_what_the_archive_holds_padded_to_a_second(official):
    files, path = official
    splits = read_archive(path)
    known = [name for name in files if name.startswith("./down/")]
    expected = [decode_clip(files[name], name) for name in sorted(known)]
    np.testing.assert_array_equal(splits["val"].inputs[0].ravel(), expected[0])
    np.testing.assert_array_equal(splits["train"].inputs[:10].reshape(10, -1), expected[2:])
    short = decode_sound(encoded(sound(15_900, 0)), "a clip")
    np.testing.assert_array_equal(decode_clip(encoded(short), "a clip"), [*short, *[0] * 100])


def test_unknown_clips_are_those_of_other_words_and_the_same_in_any_order(official, tmp_path):
    files, path = official
    turned = archive(tmp_path / "turned.tar.gz", dict(reversed(files.items())))
    found, again = read_archive(path), read_archive(turned)
    for split in ("train", "val"):
        assert digests(found[split]) == digests(again[split])
    unknown = {clip.tobytes() for clip in found["train"].inputs[found["train"].labels == UNKNOWN]}
    others = {decode_clip(files[name], name).tobytes() for name in files if name.startswith(("./bed/", "./cat/"))}
    assert len(unknown) == 10
    assert unknown < others


def test_silence_is_noise_turned_down_and_validation_hears_another(official):
    files, path = official
    splits = read_archive(path)
    recordings = {
        name: decode_sound(content, name)
        for name, content in files.items()
        if "_noise_/" in name and b"RIFF" in content[:4]
    }
    tap = recordings["./_background_noise_/running_tap.wav"].astype(float)
    for split, heard in (("val", True), ("train", False)):
        clip = splits[split].inputs[splits[split].labels == SILENCE][0].ravel().astype(float)
        # The correlation with the recording where it fits best: 1 where it is of it.
        spectrum = np.fft.rfft(tap, 65_536) * np.fft.rfft(clip, 65_536).conj()
        best = int(np.fft.irfft(spectrum)[: len(tap) - 16_000 + 1].argmax())
        assert (np.corrcoef(tap[best : best + 16_000], clip)[0, 1] > 0.99) == heard


def test_the_test_set_is_its_own_archive(tmp_path):
    split = read_test_archive(archive(tmp_path / "test.tar.gz", test_files()))
    assert counts(split) == [2] * 12


def test_the_whole_dataset_is_train_val_and_test(official, tmp_path, monkeypatch):
    sources = {
        speech_commands.ARCHIVE: official[1],
        speech_commands.TEST_ARCHIVE: archive(tmp_path / "test.tar.gz", test_files()),
    }
    asked = []

    def source_file(url, sha256, folder):
        asked.append((url, sha256, folder))
        return sources[url.rpartition("/")[2]]

    monkeypatch.setattr(speech_commands, "source_file", source_file)
    assert set(speech_commands.load(tmp_path)) == {"train", "val", "test"}
    assert [(url.rpartition("/")[2], sha256) for url, sha256, _ in asked] == list(speech_commands.SHA256.items())
    assert asked[0][2] == tmp_path / "speech_commands"


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("./validation_list.txt", "no validation_list.txt in it, expected the list of that split's clips"),
        ("./_background_noise_/", "too little in _background_noise_ for train, expected sound files"),
        ("./yes/", "no clips of 'yes' for train, expected some of each class"),
    ],
)
def test_an_archive_that_lacks_something_is_refused(official, tmp_path, gone, message):
    left = {name: content for name, content in official[0].items() if not name.startswith(gone)}
    with pytest.raises(SourceError, match=message):
        read_archive(archive(tmp_path / "damaged.tar.gz", left))


def test_a_test_archive_without_a_class_is_refused(tmp_path):
    left = {name: content for name, content in test_files(1).items() if "stop" not in name}
    with pytest.raises(SourceError, match="no clips in the folder 'stop', expected some of each class"):
        read_test_archive(archive(tmp_path / "damaged.tar.gz", left))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no sound", "x: the sound cannot be decoded .*, expected WAV or FLAC"),
        (encoded(sound(16_000, 0), rate=8_000), "8000 Hz, 1 channels and PCM_16 samples, expected 16000 Hz"),
        (encoded(np.stack([sound(16_000, 0)] * 2, 1)), "2 channels"),
        (encoded(sound(16_000, 0), subtype="PCM_24"), "PCM_24 samples, expected 16000 Hz, 1 channel and PCM_16"),
        (encoded(sound(16_001, 0)), "16001 samples, expected at most 16000"),
    ],
)
def test_what_is_no_clip_is_refused(data, message):
    with pytest.raises(SourceError, match=message):
        decode_clip(data, "x")


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_samples_come_back_as_they_were(kind):
    samples = sound(16_000, 7)
    samples[:2] = -32768, 32767
    np.testing.assert_array_equal(decode_clip(encoded(samples, kind), "x"), samples)


@pytest.fixture(scope="module")
def small_split(tmp_path_factory):
    path = parquet(tmp_path_factory.mktemp("mirror") / "speech_commands_test" / "test.parquet")
    found = {}

    def unproven(images, labels, names, expected, source):
        order = np.lexsort((names, labels))
        return canonical_split(images, labels, names, digests_of(images[order], labels[order]), source)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speech_commands_test_split, "canonical_split", unproven)
        found = read_clips(path, dict.fromkeys(("train", "val", "test")))
    return path, found


def digests_of(images, labels):
    from stages.datasets.arrays import Split

    return digests(Split(images.transpose(0, 3, 1, 2), labels))


def test_speakers_are_in_one_split_alone(small_split):
    path, splits = small_split
    tenths = np.array([tenth(f"{speaker:08x}") for speaker in range(40)])
    words = {"val": (tenths == 0).sum(), "train": ((tenths > 0) & (tenths < 7)).sum(), "test": (tenths >= 7).sum()}
    for split, expected in words.items():
        assert [count for label, count in enumerate(counts(splits[split])) if label != SILENCE] == [expected] * 11
    assert sum(counts(splits[split])[SILENCE] for split in splits) == 40
    with pytest.raises(SourceError, match=r"test.parquet \(train\): the labels of its .* clips, sorted by label"):
        speech_commands_test_split.load(path.parents[1])


def test_without_a_mirror_there_is_no_test_split():
    with pytest.raises(SourceError, match=r"expected a folder in data\.mirror that holds"):
        speech_commands_test_split.load(None)


def test_features_are_8_bit_images_in_the_same_order(small_split):
    _, splits = small_split
    few = {"val": splits["val"].take(np.arange(5))}
    made = features(few)["val"]
    assert made.inputs.shape == (5, *speech_commands_test_split_mfcc.INPUT_SHAPE)
    assert made.inputs.dtype == np.uint8
    assert made.inputs.std() > 1
    np.testing.assert_array_equal(made.labels, few["val"].labels)
    np.testing.assert_array_equal(features({"val": few["val"].take(np.array([3]))})["val"].inputs[0], made.inputs[3])


@pytest.mark.skipif(not (MIRROR / "speech_commands_test").is_dir(), reason="TINYROBUST_DATA_MIRROR has no real clips")
def test_the_real_clips_are_the_pinned_ones():
    splits = speech_commands_test_split.load(MIRROR)
    assert {name: len(split) for name, split in splits.items()} == speech_commands_test_split.COUNTS
