"""The score stage: one row a sample, clean, attacked, and under the sets of surrogates."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from stages import score
from stages.artifacts.adversarial import load_adversarial_set
from stages.datasets.arrays import evaluation_samples
from stages.datasets.tensors import as_input
from stages.defenses.filtered import Filtered
from stages.defenses.input_filter import InputFilter
from tests.linear_study import CLEAN_MISTAKES, L2_EPSILONS, TEST_IMAGES, LinearStudy

FLOAT, INT8 = "fashion_mnist-tiny_cnn-fp32-none-s0", "fashion_mnist-tiny_cnn-int8-none-s0"
EPSILONS = [0, 8 / 255, 16 / 255]
TYPES = {
    "dataset": "str",
    "model": "str",
    "scheme": "str",
    "defense": "str",
    "seed": "int64",
    "threat": "str",
    "surrogate": "str",
    "attack": "str",
    "norm": "str",
    "minimal_norm": "bool",
    "grid": "str",
    "epsilon": "float64",
    "flips": "int64",
    "sample": "int64",
    "label": "int64",
    "prediction": "int64",
    "correct": "bool",
    "detected": "object",  # null without a detector
    "l0": "int64",
    "l1": "float32",
    "l2": "float32",
    "linf": "float32",
    "forwards": "float64",
    "backwards": "float64",
    "eot_samples": "int64",
    "stochastic": "bool",
    "gradient_norm": "float64",
}


def scored(study, item):
    study.run("score", item)
    return pd.read_parquet(f"data/scores/{item}.parquet")


def attacked_and_scored(study, attack, variant=FLOAT):
    for crafted_on in (FLOAT, INT8):
        study.run("attack", f"{crafted_on}-{attack}")
    return scored(study, f"{variant}-{attack}")


@pytest.fixture
def study(tmp_path, monkeypatch):
    return LinearStudy(tmp_path, monkeypatch)


def test_clean_rows(study):
    rows = scored(study, f"{FLOAT}-clean")
    assert rows.dtypes.astype(str).to_dict() == TYPES and list(rows.columns) == list(TYPES)
    assert rows["sample"].tolist() == list(range(TEST_IMAGES))
    assert rows["label"].tolist() == study.test.labels.tolist()
    assert rows["correct"].tolist() == [sample >= CLEAN_MISTAKES for sample in range(TEST_IMAGES)]
    assert ((rows["prediction"] == rows["label"]) == rows["correct"]).all()
    constants = {
        "dataset": "fashion_mnist",
        "model": "tiny_cnn",
        "scheme": "fp32",
        "defense": "none",
        "seed": 0,
        "threat": "clean",
        "surrogate": "",
        "attack": "clean",
        "norm": "",
        "minimal_norm": False,
        "grid": "",
        "epsilon": 0,
        "flips": 0,
        "l0": 0,
        "l1": 0,
        "l2": 0,
        "linf": 0,
        "forwards": 1,
        "backwards": 0,
        "eot_samples": 0,
        "stochastic": False,
    }
    assert (rows[list(constants)] == pd.Series(constants)).all(axis=None)


def test_gradient_norms_of_evaluated_samples_are_the_closed_form(study):
    rows = scored(study, f"{FLOAT}-clean")
    evaluated = np.sort(evaluation_samples(study.test.labels, 20))
    assert np.array_equal(np.flatnonzero(rows["gradient_norm"].notna()), evaluated)
    classifier = study.classifier(Path(FLOAT))
    probabilities = classifier(as_input(torch.from_numpy(study.test.inputs))).softmax(1)
    residuals = probabilities - torch.nn.functional.one_hot(torch.from_numpy(study.test.labels), 3)
    expected = (residuals @ classifier.network.last.weight).norm(dim=1).detach().numpy()
    np.testing.assert_allclose(rows["gradient_norm"][evaluated], expected[evaluated], rtol=1e-4)


def test_a_saturated_softmax_masks_the_gradients_of_correct_samples(study):
    study.logits_scale = 1e6
    rows = scored(study, f"{FLOAT}-clean").dropna(subset="gradient_norm")
    assert (rows.loc[rows["correct"], "gradient_norm"] == 0).all() and rows["correct"].any()
    assert (rows.loc[~rows["correct"], "gradient_norm"] > 0).all() and not rows["correct"].all()


def test_a_tiny_gradient_is_not_zero(study):
    study.logits_scale = 110  # squares of gradients near 1e-30 are 0 in float32
    norms = scored(study, f"{FLOAT}-clean")["gradient_norm"].dropna()
    assert (norms > 0).all()
    assert ((norms > 0) & (norms.astype("float32") ** 2 == 0)).any()


def test_attacked_rows(study):
    rows = attacked_and_scored(study, "pgd")
    assert rows.dtypes.astype(str).to_dict() == TYPES and list(rows.columns) == list(TYPES)
    own, replayed = rows[rows["threat"] == "white_box"], rows[rows["threat"] == "transfer"]
    assert len(own) + len(replayed) == len(rows)
    assert own.groupby("epsilon").size().to_dict() == dict.fromkeys([*EPSILONS, 1.0], 20)
    assert replayed.groupby("epsilon").size().to_dict() == dict.fromkeys(EPSILONS, 20)
    assert set(own["surrogate"]) == {""} and set(replayed["surrogate"]) == {INT8}
    constants = {"scheme": "fp32", "seed": 0, "attack": "pgd", "norm": "linf", "grid": "digital", "flips": 0}
    assert (rows[list(constants)] == pd.Series(constants)).all(axis=None)
    assert rows["gradient_norm"].isna().all()
    assert (rows["forwards"] == np.where(rows["epsilon"] > 0, 4, 0)).all()
    assert (rows["backwards"] == np.where(rows["epsilon"] > 0, 3, 0)).all()


@pytest.mark.parametrize("threat", ["white_box", "transfer"])
def test_every_set_is_judged_by_the_target(study, threat):
    rows = attacked_and_scored(study, "pgd")
    crafted = load_adversarial_set(Path(f"data/adversarial/{FLOAT if threat == 'white_box' else INT8}-pgd.safetensors"))
    for epsilon, inputs in zip(EPSILONS, crafted.inputs, strict=False):
        chosen = rows[(rows["threat"] == threat) & (rows["epsilon"] == epsilon)]
        predictions = study.classifier(Path(FLOAT))(torch.from_numpy(inputs)).argmax(1)
        assert chosen["prediction"].tolist() == predictions.tolist()
        assert chosen["sample"].tolist() == crafted.samples.tolist()
        assert chosen["correct"].tolist() == (predictions.numpy() == crafted.labels).tolist()


def test_a_set_fools_its_own_network_more_than_another(study):
    rows = attacked_and_scored(study, "pgd")
    accuracy = rows[rows["epsilon"] == EPSILONS[-1]].groupby("threat")["correct"].mean()
    assert accuracy["white_box"] < accuracy["transfer"]


@pytest.mark.parametrize("attack", ["noise", "fgsm", "pgd", "square"])
def test_at_epsilon_0_accuracy_is_clean_accuracy_on_the_same_samples(study, attack):
    attacked = attacked_and_scored(study, attack, INT8)
    clean = scored(study, f"{INT8}-clean").set_index("sample")["correct"]
    for _, rows in attacked[attacked["epsilon"] == 0].groupby("threat"):
        assert rows["correct"].tolist() == clean[rows["sample"]].tolist()
    assert 0 < clean.mean() < 1


def test_attacks_that_are_not_replayed_have_own_rows_only(study):
    assert set(attacked_and_scored(study, "noise")["threat"]) == {"noise"}
    assert set(attacked_and_scored(study, "fgsm")["threat"]) == {"white_box"}


def test_rows_of_a_black_box_attack_hold_its_queries(study):
    rows = attacked_and_scored(study, "square")
    assert set(rows["threat"]) == {"black_box"} and set(rows["surrogate"]) == {""}
    assert sorted(set(rows["epsilon"])) == EPSILONS
    assert rows["forwards"].tolist() == [20 * (epsilon > 0) for epsilon in rows["epsilon"]]
    assert not rows["backwards"].any()


def test_sizes_of_perturbations(study):
    rows = attacked_and_scored(study, "fgsm")
    crafted = load_adversarial_set(Path(f"data/adversarial/{FLOAT}-fgsm.safetensors"))
    changes = (crafted.inputs * 255).round() - study.test.inputs[crafted.samples]
    for row, epsilon in enumerate(EPSILONS):
        chosen, flat = rows[rows["epsilon"] == epsilon], changes[row].reshape(20, -1)
        assert chosen["l0"].tolist() == (flat != 0).sum(1).tolist()
        np.testing.assert_allclose(chosen["l2"], np.linalg.norm(flat, axis=1) / 255, rtol=1e-5)
        np.testing.assert_allclose(chosen["linf"], np.abs(flat).max(1) / 255, rtol=1e-5)
    assert rows["l0"].max() == 16


@pytest.mark.parametrize(
    ("grid", "variant", "shown"),
    [
        ("digital", FLOAT, "digital"),
        ("digital", INT8, "digital"),
        ("pre_quantizer", FLOAT, ""),  # nothing quantizes its inputs
        ("pre_quantizer", INT8, "pre_quantizer"),
    ],
)
def test_the_grid_is_named_where_there_is_one(tmp_path, monkeypatch, grid, variant, shown):
    study = LinearStudy(tmp_path, monkeypatch, grid=grid)
    assert set(attacked_and_scored(study, "pgd", variant)["grid"]) == {shown}


def test_the_same_job_writes_the_same_bytes(study):
    def written(item):
        scored(study, item)
        return Path(f"data/scores/{item}.parquet").read_bytes()

    attacked_and_scored(study, "pgd")
    for item in (f"{FLOAT}-clean", f"{FLOAT}-pgd"):
        assert written(item) == written(item)


@pytest.mark.parametrize("threat", ["white_box", "transfer"])
def test_a_minimal_norm_set_is_scored_at_every_epsilon_of_its_norm(study, threat):
    rows = attacked_and_scored(study, "deepfool")
    crafted = load_adversarial_set(
        Path(f"data/adversarial/{FLOAT if threat == 'white_box' else INT8}-deepfool.safetensors")
    )
    classifier = study.classifier(Path(FLOAT))
    originals = as_input(torch.from_numpy(study.test.inputs[crafted.samples]))
    chosen = rows[rows["threat"] == threat]
    assert sorted(set(chosen["epsilon"])) == [*L2_EPSILONS, np.inf] and set(chosen["norm"]) == {"l2"}
    assert chosen["minimal_norm"].all()
    for epsilon, group in chosen.groupby("epsilon"):
        near = torch.from_numpy(crafted.distance[0] <= epsilon)
        inputs = torch.where(near[:, None, None, None], torch.from_numpy(crafted.inputs[0]), originals)
        assert group["prediction"].tolist() == classifier(inputs).argmax(1).tolist()
        assert (group["l2"] <= np.float32(epsilon)).all()
    assert (chosen.loc[chosen["epsilon"] == np.inf, "l2"] == crafted.distance[0]).all()
    assert (chosen["forwards"] == crafted.forwards[0]).all()
    if threat == "white_box":
        standing = chosen.groupby("epsilon")["correct"].mean()
        assert standing.is_monotonic_decreasing and standing[0] > standing[0.1] > standing[np.inf] == 0


def test_a_distance_equal_to_epsilon_is_within_it(study):
    for crafted_on in (FLOAT, INT8):
        study.run("attack", f"{crafted_on}-deepfool")
    crafted = load_adversarial_set(Path(f"data/adversarial/{FLOAT}-deepfool.safetensors"))
    farthest = crafted.distance[0].argmax()
    originals = np.zeros_like(crafted.inputs[0])
    held = crafted.within(float(crafted.distance[0][farthest]), originals)
    assert np.array_equal(held, crafted.inputs[0])
    held = crafted.within(float(crafted.distance[0][farthest]) * 0.999, originals)
    assert not held[farthest].any() and held[crafted.distance[0] == 0].any()


def test_a_random_network_is_named_as_such(study, monkeypatch):
    load = study.classifier

    def random(path, device):
        classifier = load(path)
        classifier.stochastic, classifier.reseed = True, lambda seed: None
        return classifier

    attacked_and_scored(study, "pgd")
    monkeypatch.setattr(score, "load_classifier", random)
    assert scored(study, f"{FLOAT}-pgd")["stochastic"].all()


@pytest.mark.parametrize(("variant", "realised"), [(FLOAT, 0.002), (INT8, 1 / 255)])
def test_before_a_quantizer_sizes_are_those_after_its_rounding(tmp_path, monkeypatch, variant, realised):
    budgets = {"epsilons": {"linf": [0, 0.002], "l2": [0.05]}, "headline_epsilon": {"linf": 0.002, "l2": 0.05}}
    study = LinearStudy(tmp_path, monkeypatch, grid="pre_quantizer", **budgets)
    rows = attacked_and_scored(study, "fgsm", variant)
    np.testing.assert_allclose(rows.loc[rows["epsilon"] == 0.002, "linf"], realised, rtol=1e-4)


def test_before_a_filter_sizes_are_those_that_were_crafted(tmp_path, monkeypatch):
    budgets = {"epsilons": {"linf": [0, 0.002], "l2": [0.05]}, "headline_epsilon": {"linf": 0.002, "l2": 0.05}}
    study = LinearStudy(tmp_path, monkeypatch, grid="pre_quantizer", **budgets)
    load = study.classifier

    def filtered(path, device):
        classifier = load(path)
        defended = Filtered(classifier.network, Doubtful(), classifier.input_shape, classifier.num_classes)
        defended.input = classifier.input  # the quantizer, behind the filter
        return defended

    attacked_and_scored(study, "fgsm")
    monkeypatch.setattr(score, "load_classifier", filtered)
    rows = scored(study, f"{INT8}-fgsm")
    np.testing.assert_allclose(rows.loc[rows["epsilon"] == 0.002, "linf"], 0.002, rtol=1e-4)


class Doubtful(InputFilter):
    """Halves inputs, and suspects bright ones."""

    def forward(self, inputs):
        return inputs / 2

    def suspicion(self, logits_of, inputs):
        return inputs.flatten(1).mean(1)


def test_a_detector_is_asked_of_every_input(study, monkeypatch):
    attacked_and_scored(study, "pgd")
    load = study.classifier

    def filtered(path, device):
        classifier = load(path)
        defended = Filtered(classifier.network, Doubtful(), classifier.input_shape, classifier.num_classes)
        defended.filter.threshold.fill_(0.5)
        return defended

    monkeypatch.setattr(score, "load_classifier", filtered)
    clean = scored(study, f"{FLOAT}-clean")
    bright = study.test.inputs.reshape(len(clean), -1).mean(1) / 255 > 0.5
    assert clean["detected"].tolist() == bright.tolist() and 0 < bright.sum() < len(bright)
    rows = scored(study, f"{FLOAT}-pgd")
    crafted = load_adversarial_set(Path(f"data/adversarial/{FLOAT}-pgd.safetensors"))
    own = rows[(rows["surrogate"] == "") & (rows["epsilon"] == EPSILONS[-1])]
    (row,) = np.flatnonzero(np.isclose(crafted.epsilons, EPSILONS[-1]))
    brightness = crafted.inputs[row].reshape(len(own), -1).mean(1)
    assert own["detected"].tolist() == (brightness > 0.5).tolist()
    predictions = linear_predictions(load, crafted.inputs[row] / 2)
    assert own["prediction"].tolist() == predictions


def linear_predictions(load, inputs):
    with torch.no_grad():
        return load(Path(f"data/trained/{FLOAT}"))(torch.from_numpy(inputs)).argmax(1).tolist()


def test_of_a_defense_that_takes_long_fewer_samples_are_scored(tmp_path, monkeypatch):
    limits = {"defenses": {"none": {"samples": 5, "attacks": ["fgsm"]}}}
    study = LinearStudy(tmp_path, monkeypatch, limits=limits)
    study.run("attack", f"{FLOAT}-fgsm")
    assert len(load_adversarial_set(Path(f"data/adversarial/{FLOAT}-fgsm.safetensors")).labels) == 5
    rows = scored(study, f"{FLOAT}-fgsm")
    assert (rows.groupby("epsilon").size() == 5).all()
    clean = scored(study, f"{FLOAT}-clean")
    # Clean, all images that others are attacked on.
    assert len(clean) == 20 and set(rows["sample"]) < set(clean["sample"]) and clean["sample"].is_monotonic_increasing
    assert set(clean.loc[clean["gradient_norm"].notna(), "sample"]) == set(rows["sample"])


def test_of_sets_replayed_on_a_limited_defense_the_first_samples_are_scored(tmp_path, monkeypatch):
    limits = {"defenses": {"feature_squeezing": {"samples": 5, "attacks": ["pgd"]}}}
    study = LinearStudy(tmp_path, monkeypatch, defenses=("none", "feature_squeezing"), limits=limits)
    target = FLOAT.replace("none", "feature_squeezing")
    for crafted_on in (FLOAT, INT8, target):
        study.run("attack", f"{crafted_on}-pgd")
    rows = scored(study, f"{target}-pgd")
    crafted = load_adversarial_set(Path(f"data/adversarial/{FLOAT}-pgd.safetensors"))
    assert len(crafted.samples) == 20
    assert set(rows["surrogate"]) == {"", FLOAT, INT8}
    for _, group in rows.groupby(["surrogate", "epsilon"]):
        assert group["sample"].tolist() == crafted.samples[:5].tolist()
