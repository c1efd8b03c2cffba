"""The stages that attack, probe, score and report, on a study of made-up sound whose networks are linear."""

import base64
import io
import json
import wave
from math import inf
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from stages import attack, probe, report, score
from stages.artifacts.adversarial import load_adversarial_set
from stages.artifacts.datasets import load_dataset, save_dataset
from stages.datasets.arrays import Dataset, Split
from stages.datasets.tensors import as_input
from stages.params import load_params
from stages.plan import tasks
from stages.quantization.frozen_layers import FrozenInput
from tests.attacks.linear import linear_classifier

ROOT = Path(__file__).parents[1]
SHAPE, CLASSES = (1, 1, 400), ("yes", "no", "_silence_")
VARIANT = "speech_commands_test_split-dscnn-fp32-none-s0"
RATIOS = [10, 20, 40]


def classifier_of(path, device="cpu"):
    classifier = linear_classifier(len(CLASSES), SHAPE, seed=1 if "-int8-" in Path(path).name else 0)
    classifier.front_end = FrozenInput((0.5,), 1.0, bits=16)
    return classifier


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The finished study: its folder, params and tasks."""
    folder = tmp_path_factory.mktemp("sound")
    written = yaml.safe_load((ROOT / "studies/smoke/params.yaml").read_text())
    del written["export"]
    written["grid"] |= {"datasets": ["speech_commands_test_split"], "models": ["dscnn"], "also": []}
    written["grid"] |= {"schemes": ["fp32", "int8"], "defenses": ["none"]}
    written["data"] |= {"validation": 12, "calibration": 3}
    written["training"]["augmentation"] = {"crop_padding": 0, "horizontal_flip": False, "time_shift": 100}
    written["attacks"] = {"pgd_snr": {"steps": 3}, "noise_snr": {}, "noise": {}, "ddn": {"steps": 3}}
    budgets = {"snr": RATIOS, "linf": ["8/65535", "16/65535"], "l2": [0.1]}
    headlines = {"snr": 20, "linf": "8/65535", "l2": 0.1}
    written["evaluation"] |= {"epsilons": budgets, "headline_epsilon": headlines, "samples": 12, "grid": "digital"}
    written["evaluation"] |= {"transfer": ["pgd_snr"], "extended": True, "diagnose": 0, "limits": {}}
    written["report"] |= {"quality_targets": {}, "examples": 3, "claims": ""}
    written.pop("extended", None)
    (folder / "params.yaml").write_text(yaml.safe_dump(written))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in (attack, probe, score):
            patch.setattr(stage, "load_classifier", classifier_of)
        params = load_params()
        planned = tasks(params)
        prepare(folder)
        stages = {"attack": attack, "probe": probe, "score": score, "report": report}
        for task in planned:
            for product in task.job.products:
                Path(product).parent.mkdir(parents=True, exist_ok=True)
            if task.job.rule in ("train", "quantize"):
                footprint = dict.fromkeys(("parameters", "macs", "weight_bytes", "peak_activation_bytes"), 1)
                Path(f"{task.variant.network}.json").write_text(
                    json.dumps({"variant": task.variant.parts, "footprint": footprint})
                )
            elif task.job.rule in stages:
                stages[task.job.rule].run(task, params, SimpleNamespace(path=Path))
    return folder


def prepare(folder):
    """Clips of a loudness of their own, as the float network labels them."""
    generator = np.random.default_rng(0)
    loudness = generator.uniform(200, 6000, (30, 1, 1, 1))
    clips = (loudness * generator.standard_normal((30, *SHAPE))).clip(-32768, 32767).astype(np.int16)
    labels = classifier_of("x-fp32-")(as_input(torch.from_numpy(clips))).argmax(1).numpy()
    split = Split(clips, labels)
    path = folder / "data/prepared/speech_commands_test_split.safetensors"
    path.parent.mkdir(parents=True)
    parts = {"mean": (0.5,), "std": 0.1, "train": split, "val": split, "test": split}
    save_dataset(path, Dataset("speech_commands_test_split", SHAPE, CLASSES, **parts, calibration=np.arange(3)))


@pytest.fixture
def clips(study):
    return load_dataset(study / "data/prepared/speech_commands_test_split.safetensors").test


def test_prepared_sound_comes_back_as_16_bits_with_digests_of_samples(study, clips):
    assert clips.inputs.dtype == np.int16
    facts = json.loads((study / "data/prepared/speech_commands_test_split.json").read_text())
    assert set(facts["digests"]["test"]) == {"samples", "labels"}


@pytest.mark.parametrize("name", ["pgd_snr", "noise_snr"])
def test_sets_hold_16_bit_samples_within_the_ratio_of_each_clip(study, clips, name):
    found = load_adversarial_set(study / f"data/adversarial/{VARIANT}-{name}.safetensors")
    assert found.norm == "snr"
    assert found.epsilons == [*RATIOS, *([-inf] if name == "pgd_snr" else [])]
    originals = clips.inputs[found.samples].astype(float)
    samples = found.inputs * 65535.0 - 2**15
    assert np.abs(samples - np.round(samples)).max() < 0.01
    changes = (np.round(samples) - originals).reshape(*found.success.shape, -1)
    lengths = np.linalg.norm(originals.reshape(len(originals), -1), axis=1)
    for row, ratio in enumerate(RATIOS):
        reached = 20 * np.log10(lengths / np.linalg.norm(changes[row], axis=1))
        assert reached.min() > ratio - 0.01
        assert np.median(reached) < ratio + 1
    np.testing.assert_allclose(found.distance, np.linalg.norm(changes, axis=2) / 65535, rtol=1e-3, atol=1e-6)


def test_other_budgets_are_kept_on_the_same_grid(study, clips):
    found = load_adversarial_set(study / f"data/adversarial/{VARIANT}-noise.safetensors")
    changes = found.inputs * 65535.0 - 2**15 - clips.inputs[found.samples]
    assert [round(np.abs(change).max()) for change in changes] == [8, 16]


def test_rows_carry_the_ratio_and_the_distances_that_were_heard(study):
    rows = pd.read_parquet(study / f"data/scores/{VARIANT}-pgd_snr.parquet")
    own = rows[rows["threat"] == "white_box"]
    assert sorted(set(own["epsilon"])) == [-inf, *RATIOS]
    assert set(rows.loc[rows["threat"] == "transfer", "epsilon"]) == set(RATIOS)
    crafted = load_adversarial_set(study / f"data/adversarial/{VARIANT}-pgd_snr.safetensors")
    np.testing.assert_allclose(own.loc[own["epsilon"] == 20, "l2"], crafted.distance[1], rtol=1e-3)
    table = pd.read_csv(study / "data/results/results.csv")
    worst = table[(table["threat"] == "worst_case") & (table["norm"] == "snr") & (table["scheme"] == "fp32")]
    assert worst["epsilon"].tolist() == RATIOS
    assert worst["accuracy"].is_monotonic_increasing
    assert worst["accuracy"].iloc[0] < worst["accuracy"].iloc[-1]
    assert not table["flags"].fillna("").str.contains("non_monotone|no_collapse").any()


def test_probes_plant_and_double_within_the_ratio(study):
    rows = pd.read_parquet(study / f"data/probes/{VARIANT}-pgd_snr.parquet")
    assert set(rows["probe"]) == {"doubled", "planted"}
    assert (rows["epsilon"] == 20).all()


def played(uri):
    with wave.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:audio/wav;base64,")))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def test_the_page_plays_clean_and_adversarial_clips(study, clips):
    page = (study / "data/results/report.html").read_text()
    sources = [part.partition('"')[0] for part in page.split('<audio controls preload="metadata" src="')[1:]]
    shown, left = divmod(len(sources), 5)  # originals, and of two networks what was made of them and how it differs
    assert shown > 0
    assert left == 0
    assert "media-src data:" in page
    assert "Clean and adversarial clips" in page
    assert "SNR 20 dB, predicted label" in page
    original, crafted = played(sources[0]), played(sources[shown])
    known = {clip.tobytes() for clip in clips.inputs}
    assert original.tobytes() in known
    assert crafted.tobytes() not in known
    change = crafted.astype(float) - original
    assert 19.99 < 20 * np.log10(np.linalg.norm(original.astype(float)) / np.linalg.norm(change)) < 22
    difference = played(sources[2 * shown]).astype(float)
    assert np.corrcoef(difference, change)[0, 1] > 0.999
    assert np.abs(difference).max() > 3000


def test_the_file_of_examples_says_where_they_are_heard(study):
    assert "plays them" in (study / "data/results/figures/examples.svg").read_text()


def test_the_axis_of_budgets_is_the_ratio(study):
    figure = (study / "data/results/figures/accuracy_vs_epsilon.svg").read_text()
    assert "Signal-to-noise ratio (dB)" in figure
