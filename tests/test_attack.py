"""The attack stage: from a network and a dataset to an adversarial set."""

import json
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

from stages import attack
from stages.artifacts.adversarial import load_adversarial_set
from stages.attacks import fgsm, pgd
from stages.attacks.attacked import Attacked
from stages.attacks.result import judged
from stages.classifier import Classifier
from stages.datasets.arrays import evaluation_samples
from tests.attacks.linear import boundary_distance
from tests.linear_study import LinearStudy

VARIANT = "fashion_mnist-tiny_cnn-fp32-none-s0"
EPSILONS = [0, 8 / 255, 16 / 255]


def crafted(study, name):
    study.run("attack", f"{VARIANT}-{name}")
    return load_adversarial_set(Path(f"data/adversarial/{VARIANT}-{name}.safetensors"))


@pytest.fixture
def study(tmp_path, monkeypatch):
    return LinearStudy(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("name", "threat", "epsilons", "forwards", "backwards"),
    [
        ("noise", "noise", EPSILONS, 0.0, 0.0),
        ("fgsm", "white_box", EPSILONS, 1.0, 1.0),
        ("pgd", "white_box", [*EPSILONS, 1.0], 4.0, 3.0),
        ("square", "black_box", EPSILONS, 20.0, 0.0),
    ],
)
def test_the_set_says_what_it_is(study, name, threat, epsilons, forwards, backwards):
    found = crafted(study, name)
    facts = json.loads(Path(f"data/adversarial/{VARIANT}-{name}.json").read_text())
    attacked = len(epsilons) - 1  # at epsilon 0 nothing is done
    assert facts == {
        "variant": {
            "dataset": "fashion_mnist",
            "model": "tiny_cnn",
            "scheme": "fp32",
            "defense": "none",
            "seed": 0,
        },
        "attack": name,
        "norm": "linf",
        "minimal_norm": False,
        "threat": threat,
        "eot_samples": int(threat == "white_box"),
        "grid": "digital",
        "epsilons": epsilons,
        "forwards": [0.0, *[forwards] * attacked],
        "backwards": [0.0, *[backwards] * attacked],
    }
    assert found.inputs.shape == (len(epsilons), 20, 1, 4, 4)
    assert np.array_equal(found.samples, evaluation_samples(study.test.labels, 20))
    assert np.array_equal(found.labels, study.test.labels[found.samples])
    assert np.array_equal(found.queries, np.repeat(np.array(facts["forwards"], np.int64)[:, None], 20, 1))


@pytest.mark.parametrize("name", ["noise", "fgsm", "pgd", "square"])
def test_a_digital_set_is_made_of_levels_within_epsilon(study, name):
    found = crafted(study, name)
    levels = np.rint(found.inputs.astype(np.float64) * 255)
    assert np.array_equal((levels / 255).astype(np.float32), found.inputs)
    changes = np.abs(levels - study.test.inputs[found.samples]).max(axis=(2, 3, 4))
    assert np.array_equal(changes.max(axis=1)[:3], [0, 8, 16])
    np.testing.assert_allclose(found.distance, changes / 255, rtol=1e-5)


@pytest.mark.parametrize("grid", ["digital", "pre_quantizer"])
@pytest.mark.parametrize("name", ["noise", "fgsm", "pgd", "square"])
def test_success_and_distance_are_those_of_the_saved_inputs(tmp_path, monkeypatch, name, grid):
    study = LinearStudy(tmp_path, monkeypatch, grid=grid)
    found = crafted(study, name)
    classifier = study.classifier(Path(VARIANT))
    predictions = torch.stack([classifier(torch.from_numpy(inputs)).argmax(1) for inputs in found.inputs]).numpy()
    assert np.array_equal(found.success, predictions != found.labels)
    originals = study.test.inputs[found.samples].astype(np.float32) / np.float32(255)
    distances = np.abs(found.inputs.astype(np.float64) - originals).max(axis=(2, 3, 4))
    assert np.array_equal(found.distance, distances.astype(np.float32))


def test_a_pre_quantizer_set_is_real_valued_and_in_the_ball(tmp_path, monkeypatch):
    found = crafted(LinearStudy(tmp_path, monkeypatch, grid="pre_quantizer"), "noise")
    assert (np.abs(found.inputs[1] * 255 - np.rint(found.inputs[1] * 255)) > 0.01).mean() > 0.9
    assert (found.distance <= np.float32(found.epsilons)[:, None]).all()


def test_without_a_budget_only_clean_mistakes_succeed_and_pgd_with_the_full_range_always_does(study):
    found = crafted(study, "pgd")
    assert np.array_equal(found.success[0], found.samples < 4) and found.success[0].any()
    assert found.success[3].all()
    assert found.success[0].mean() < found.success[2].mean() < 1


def test_the_same_job_writes_the_same_bytes(study):
    def written():
        crafted(study, "pgd")
        return [path.read_bytes() for path in sorted(Path("data/adversarial").iterdir())]

    first = written()
    torch.manual_seed(5)
    assert written() == first and len(first) == 2


def test_a_deterministic_attack_does_not_depend_on_the_batch_size(study, monkeypatch):
    whole = crafted(study, "fgsm")
    monkeypatch.setattr(attack, "BATCH_SIZE", 7)
    parts = crafted(study, "fgsm")
    assert np.array_equal(parts.inputs, whole.inputs) and np.array_equal(parts.success, whole.success)


def test_iterative_attacks_also_own_the_full_range():
    assert attack.attacked_epsilons([0, 0.5], pgd) == [0, 0.5, 1.0]
    assert attack.attacked_epsilons([0, 0.5], fgsm) == [0, 0.5]


def test_a_minimal_norm_set_holds_the_nearest_errors_and_their_distances(study):
    found = crafted(study, "deepfool")
    facts = json.loads(Path(f"data/adversarial/{VARIANT}-deepfool.json").read_text())
    assert facts["epsilons"] == [None] and facts["minimal_norm"] and facts["norm"] == "l2"
    assert found.epsilons == [np.inf] and found.inputs.shape == (1, 20, 1, 4, 4)
    assert found.success.all()
    originals = study.test.inputs[found.samples].astype(np.float32) / np.float32(255)
    distances = np.linalg.norm((found.inputs[0].astype(np.float64) - originals).reshape(20, -1), axis=1)
    np.testing.assert_allclose(found.distance[0], distances, rtol=1e-6)
    levels = np.rint(found.inputs.astype(np.float64) * 255)
    assert np.array_equal((levels / 255).astype(np.float32), found.inputs)
    classifier, labels = study.classifier(Path(VARIANT)), torch.from_numpy(found.labels)
    nearest = boundary_distance(classifier, torch.from_numpy(originals), labels, "l2").clamp_min(0).numpy()
    # Half a level of rounding in each of 16 values.
    assert (distances >= nearest).all() and (distances <= 1.25 * nearest + 4 * 0.5 / 255).all()


def test_an_attack_under_another_name_runs_its_file_with_its_own_settings(study):
    twice, once = crafted(study, "pgd_twice"), crafted(study, "pgd")
    assert twice.attack == "pgd_twice"
    assert (twice.queries.max(), once.queries.max()) == (7, 4)


class Random(Classifier):
    """Its gradient view remembers what it was asked for."""

    stochastic = True
    asked: ClassVar[list] = []

    def reseed(self, seed):
        pass

    def gradient_view(self, generator=None, samples=1):
        self.asked.append(samples)
        return super().gradient_view(generator, samples)


@pytest.mark.parametrize(("eot_samples", "threat"), [(1, "white_box"), (5, "adaptive")])
def test_an_attacker_who_averages_over_a_random_network_is_adaptive(tmp_path, monkeypatch, eot_samples, threat):
    study = LinearStudy(tmp_path, monkeypatch, eot_samples=eot_samples)
    linear = study.classifier(Path(VARIANT))
    random = Random(linear.network, linear.input_shape, linear.num_classes)
    monkeypatch.setattr(attack, "load_classifier", lambda path, device: random)
    monkeypatch.setattr(Random, "asked", [])
    found = crafted(study, "pgd")
    assert (found.threat, found.eot_samples) == (threat, eot_samples)
    assert set(random.asked) == {eot_samples}
    assert (crafted(study, "square").threat, crafted(study, "square").eot_samples) == ("black_box", 0)


def test_without_chance_there_is_nothing_to_average(tmp_path, monkeypatch):
    found = crafted(LinearStudy(tmp_path, monkeypatch, eot_samples=5), "pgd")
    assert (found.threat, found.eot_samples) == ("white_box", 1)


@pytest.mark.parametrize("name", ["pgd", "deepfool"])
def test_a_digital_attack_meets_a_network_that_rounds(study, name):
    """What fools the float network only off the grid is not kept: the search looks at rounded inputs."""
    seen = []
    linear = study.classifier(Path(VARIANT))
    linear.network.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].detach()))
    attacked = Attacked(linear, digital=True, eot_samples=1)
    inputs = torch.rand(10, *linear.input_shape, generator=torch.Generator().manual_seed(0))
    inputs = (inputs * 255).round() / 255
    labels = linear(inputs).argmax(1)
    plugin = import_module(f"stages.attacks.{name}")
    epsilons = [np.inf] if name == "deepfool" else [4 / 255]
    found = attack.craft(plugin, attacked, inputs, labels, epsilons=epsilons, knobs={}, digital=True, name="x")
    assert all(((points * 255).round() / 255 == points).all() for points in seen)
    if name == "deepfool":
        assert found.success.all()
    view = attacked.gradient_view()
    assert torch.equal(view(inputs + 0.001), linear(inputs))


@pytest.mark.parametrize(
    ("change", "sentence"), [(0.2, r"a perturbation of linf 0.2"), (2.0, r"expected values in \[0, 1\]")]
)
def test_an_attack_that_leaves_its_ball_or_the_box_is_refused(study, change, sentence):
    def leave(classifier, inputs, labels, *, epsilons, generator):
        uncounted = torch.zeros(1, len(inputs), dtype=torch.int64)
        return judged(
            classifier, inputs[None] + change, inputs, labels, norm="linf", queries=uncounted, backwards=uncounted
        )

    linear = study.classifier(Path(VARIANT))
    plugin = SimpleNamespace(attack=leave, NORM="linf", __name__="stages.attacks.leave")
    inputs = torch.full((2, *linear.input_shape), 0.5)
    setting = {"epsilons": [0.1], "knobs": {}, "digital": False, "name": "x"}
    with pytest.raises(ValueError, match=rf"^stages.attacks.leave: .*{sentence}"):
        attack.craft(plugin, linear, inputs, torch.zeros(2, dtype=torch.int64), **setting)
