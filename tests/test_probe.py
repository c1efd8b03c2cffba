"""The probe stage, and known-broken and known-good networks through attack, probe, score and flags."""

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import nn

from stages import attack, probe, score
from stages.artifacts.datasets import save_dataset
from stages.artifacts.probes import PROBES
from stages.attacks import apgd, deepfool_linf, noise, pgd, square
from stages.attacks.attacked import Attacked
from stages.attacks.planted import plant
from stages.classifier import Classifier
from stages.datasets import fashion_mnist
from stages.datasets.arrays import Dataset, Split, evaluation_samples
from stages.datasets.tensors import as_input
from stages.defenses import fast_at
from stages.metrics.results import results
from stages.models.layers import FloatLayers
from stages.params import load_params
from stages.plan import tasks
from stages.plugins import constants, knobs, names
from tests.linear_study import LinearStudy
from tests.quantization.small_networks import MEAN, MODELS, SHAPE, STD, images, in_layers, load, quantized_case

ROOT = Path(__file__).parents[1]
VARIANT = "fashion_mnist-tiny_cnn-fp32-none-s0"
EPSILON = 8 / 255
PLANTED = 20  # of these an attack may miss one


@cache
def undefended() -> nn.Module:
    return quantized_case("tiny_cnn", "w4a4").network.requires_grad_(False)


@cache
def adversarially_trained() -> nn.Module:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = in_layers(MODELS["tiny_cnn"], FloatLayers(MEAN, STD)).train()
    inputs, labels = images("train", 1000)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for chosen in torch.randperm(1000, generator=generator).repeat(12).split(50):
        loss = fast_at.loss(network, inputs[chosen], labels[chosen], generator=generator, epsilon=EPSILON)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval().requires_grad_(False)


class Wrapped(nn.Module):
    """A network with something before it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def before(self, inputs):
        return inputs

    def features(self, inputs):
        return self.network.features(self.before(inputs))

    def forward(self, inputs):
        return self.network(self.before(inputs))


class SharpSoftmax(Wrapped):
    """Probabilities at temperature 1e-3 in the place of logits: saturated, so without a gradient."""

    def forward(self, inputs):
        return (self.network(inputs) / 1e-3).softmax(1)


class Posterized(Wrapped):
    """Inputs with 17 levels, by a rounding that has no gradient."""

    def before(self, inputs):
        return (inputs * 16).round() / 16


class RandomInputs(Classifier):
    """Noise on every input."""

    stochastic = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, SHAPE, 10)
        self.generator = torch.Generator().manual_seed(0)

    def reseed(self, seed):
        self.generator.manual_seed(seed)

    def noisy(self, inputs, generator):
        return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)

    def forward(self, inputs):
        return self.network(self.noisy(inputs, self.generator))

    def features(self, inputs):
        return self.network.features(self.noisy(inputs, self.generator))

    def gradient_view(self, generator=None, samples=1):
        classifier = self

        class View(nn.Module):
            def forward(self, inputs):
                draws = [classifier.network(classifier.noisy(inputs, generator)) for _ in range(samples)]
                return torch.stack(draws).mean(0)

        return View()


def classifier_of(network: nn.Module) -> Classifier:
    return Classifier(network, SHAPE, 10)


class StandIn:
    """The working directory of a study of one network, which is handed in."""

    def __init__(self, folder: Path, monkeypatch, classifier: Classifier, attacks: dict) -> None:
        written = yaml.safe_load((ROOT / "studies/smoke/params.yaml").read_text())
        del written["export"]  # the grid has float networks alone
        written["grid"] |= {"schemes": ["fp32"], "also": []}
        written["attacks"] = attacks
        budgets = {"epsilons": {"linf": [0, "8/255", "16/255"]}, "headline_epsilon": {"linf": "8/255"}}
        written["evaluation"] |= {"samples": 100, "transfer": [], "extended": True} | budgets
        written["report"]["quality_targets"] = {}
        (folder / "params.yaml").write_text(yaml.safe_dump(written))
        monkeypatch.chdir(folder)
        for stage in (attack, probe, score):
            monkeypatch.setattr(stage, "load_classifier", lambda path, device: classifier)
        monkeypatch.setattr(probe, "PLANTED_SAMPLES", PLANTED)
        self.params = load_params(folder / "params.yaml")
        arrays = load()["test"]
        chosen = np.arange(400) * len(arrays) // 400
        test = Split(arrays.inputs[chosen], arrays.labels[chosen])
        path = Path("data/prepared/fashion_mnist.safetensors")
        path.parent.mkdir(parents=True)
        dataset = Dataset("fashion_mnist", SHAPE, fashion_mnist.CLASSES, MEAN, STD, test, test, test, np.arange(3))
        save_dataset(path, dataset)

    def table(self) -> pd.DataFrame:
        """The result table of all attacks, with all flags."""
        read = {"score": [], "probe": []}
        for task in tasks(self.params):
            if task.job.rule in ("attack", "probe", "score"):
                for product in task.job.products:
                    Path(product).parent.mkdir(parents=True, exist_ok=True)
                stage = {"attack": attack, "probe": probe, "score": score}[task.job.rule]
                stage.run(task, self.params, SimpleNamespace(path=Path))
            if task.job.rule in read:
                read[task.job.rule].append(pd.read_parquet(task.job.outputs[0]))
        self.probes = pd.concat(read["probe"], ignore_index=True)
        return results(pd.concat(read["score"], ignore_index=True), {}, self.probes)


def flags_of(table: pd.DataFrame, attack_name: str) -> set[str]:
    """The flags of an attack's row at the headline epsilon; "all" is the worst case."""
    (joined,) = table[np.isclose(table["epsilon"], EPSILON) & (table["attack"] == attack_name)]["flags"]
    return set(joined.split(";")) - {""}


SOUND = {"noise": {}, "fgsm": {}, "pgd": {}}


def test_an_adversarially_trained_network_carries_no_flag(tmp_path, monkeypatch):
    study = StandIn(tmp_path, monkeypatch, classifier_of(adversarially_trained()), SOUND)
    table = study.table()
    assert (table["flags"] == "").all()
    planted = study.probes[study.probes["probe"] == "planted"]
    assert planted["correct"].notna().all()
    robust = table[(table["attack"] == "pgd") & np.isclose(table["epsilon"], EPSILON)]["accuracy"]
    assert 0.5 < robust.item() < 1


@pytest.mark.parametrize("broken", [SharpSoftmax, Posterized])
def test_masked_gradients_are_flagged_and_so_is_the_worst_case(tmp_path, monkeypatch, broken):
    table = StandIn(tmp_path, monkeypatch, classifier_of(broken(undefended())), SOUND).table()
    for attack_name in ("fgsm", "pgd", "all"):
        assert {"planted_missed", "zero_gradient"} <= flags_of(table, attack_name)
    assert flags_of(table, "noise") == set()


def test_a_random_network_without_eot_is_flagged_though_nothing_can_be_planted(tmp_path, monkeypatch):
    study = StandIn(tmp_path, monkeypatch, RandomInputs(undefended()), SOUND)
    table = study.table()
    for attack_name in ("fgsm", "pgd", "all"):
        assert flags_of(table, attack_name) == {"random_needs_eot"}
    # Its own noise is three times the attacker's budget.
    assert study.probes.loc[study.probes["probe"] == "planted", "correct"].isna().all()


def test_attacks_that_stop_too_early_are_flagged_and_a_sound_one_beside_them_is_not(tmp_path, monkeypatch):
    attacks = {"one_step": {"attack": "pgd", "steps": 1}, "square": {"queries": 20}, "pgd": {}}
    table = StandIn(tmp_path, monkeypatch, classifier_of(undefended()), attacks).table()
    assert {"not_converged", "planted_missed"} & flags_of(table, "one_step")
    assert {"not_converged", "planted_missed"} & flags_of(table, "square")
    assert flags_of(table, "pgd") == flags_of(table, "all") == set()


def planted_share_found(plugin, network, knobs=None, epsilon=EPSILON, grid="digital"):
    attacked = Attacked(classifier_of(network), digital=grid == "digital", eot_samples=1)
    inputs = images("test", PLANTED)[0]
    rows = probe.planted_rows(
        plugin, attacked, inputs, knobs or {}, epsilon=epsilon, digital=grid == "digital", name="x"
    )
    assert rows["correct"].notna().all()
    return 1 - rows["correct"].astype(float).mean()


@pytest.mark.parametrize("grid", ["digital", "pre_quantizer"])
def test_noise_is_no_attack(grid):
    assert planted_share_found(noise, undefended(), grid=grid) == 0


@pytest.mark.parametrize(
    ("plugin", "knobs", "grid"),
    [
        (pgd, {}, "pre_quantizer"),
        (apgd, {"steps": 10}, "digital"),
        (deepfool_linf, {}, "digital"),  # of minimal norm
        pytest.param(square, {"queries": 1000}, "digital", marks=pytest.mark.slow),
    ],
)
def test_attacks_that_work_find_what_was_planted(plugin, knobs, grid):
    assert planted_share_found(plugin, undefended(), knobs, grid=grid) >= 0.95


def test_what_straight_through_gradients_find_in_quantized_networks():
    assert planted_share_found(pgd, quantized_case("tiny_cnn", "w4a4").frozen, {"steps": 40}) >= 0.95
    assert planted_share_found(pgd, quantized_case("tiny_cnn", "w1a1").frozen) < 0.5


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A linear network whose 16 features are its inputs."""
    return LinearStudy(tmp_path, monkeypatch, extended=True)


def probed(study, name):
    study.run("probe", f"{VARIANT}-{name}")
    return pd.read_parquet(f"data/probes/{VARIANT}-{name}.parquet")


@pytest.mark.parametrize(("name", "norm", "epsilon"), [("pgd_twice", "linf", EPSILON), ("deepfool", "l2", 0.05)])
def test_rows_of_probes(study, name, norm, epsilon):
    rows = probed(study, name)
    assert list(rows.columns) == PROBES.names
    facts = {"dataset": "fashion_mnist", "model": "tiny_cnn", "scheme": "fp32", "defense": "none", "seed": 0}
    facts |= {"attack": name, "norm": norm, "epsilon": epsilon}
    assert (rows[list(facts)] == pd.Series(facts)).all(axis=None)
    samples = evaluation_samples(study.test.labels, 20).tolist()
    for kind, group in rows.groupby("probe"):
        assert group["sample"].tolist() == samples
        assert group["correct"].notna().all(), kind


def test_the_same_job_writes_the_same_bytes(study):
    def written():
        probed(study, "pgd")
        return Path(f"data/probes/{VARIANT}-pgd.parquet").read_bytes()

    first = written()
    torch.manual_seed(5)
    assert written() == first


def test_all_attacks_of_a_norm_are_tested_on_the_same_examples(study, monkeypatch):
    planted = []

    def remember(*arguments, **keywords):
        planted.append(plant(*arguments, **keywords))
        return planted[-1]

    monkeypatch.setattr(probe, "plant", remember)
    for name in ("fgsm", "pgd"):
        probed(study, name)
    fgsm_points, pgd_points = torch.stack([readout.point for readout in planted]).unflatten(0, (2, -1))
    assert torch.equal(fgsm_points, pgd_points)
    assert len(fgsm_points.unique(dim=0)) == len(fgsm_points) == 20


def test_a_doubled_budget_is_that_of_an_attack_with_twice_the_setting(study, monkeypatch):
    """PGD with twice 3 steps, seeded as PGD with 3 steps, leaves what PGD with 6 steps of that name leaves."""
    rows = probed(study, "pgd").query("probe == 'doubled'")
    samples = rows["sample"].to_numpy()
    inputs, labels = (
        as_input(torch.from_numpy(study.test.inputs[samples])),
        torch.from_numpy(study.test.labels[samples]),
    )
    attacked = Attacked(study.classifier(Path(VARIANT)), digital=True, eot_samples=1)
    setting = {"epsilons": [EPSILON], "digital": True, "name": f"{VARIANT}-pgd"}
    found = attack.craft(pgd, attacked, inputs, labels, knobs={"steps": 6}, **setting)
    assert rows["correct"].tolist() == (~found.success[0]).tolist()
    assert 0 < rows["correct"].mean() < 1


def test_twice_doubles_defaults_too():
    assert probe.twice(pgd, {"restarts": 3}) == {"restarts": 3, "steps": 20}
    assert probe.twice(pgd, {"steps": 7}) == {"steps": 14}
    assert probe.twice(square, {"queries": 60}) == {"queries": 120}


@pytest.mark.parametrize("name", [name for name in names("attacks") if "BUDGET" in constants("attacks", name)])
def test_a_budget_names_counts_among_the_settings(name):
    fields = knobs("attacks", name).model_fields
    for setting in constants("attacks", name)["BUDGET"]:
        assert fields[setting].annotation is int and fields[setting].default >= 1


def test_a_minimal_norm_attack_has_to_find_it_within_epsilon(monkeypatch):
    """Where it finds errors that are too far away, it has missed."""
    attacked = Attacked(classifier_of(undefended()), digital=False, eot_samples=1)
    inputs, labels = images("test", 30)
    setting = {"digital": False, "seed": 0}
    near, far = (
        probe.broken_within(deepfool_linf, attacked, inputs, labels, {}, epsilon=epsilon, **setting)
        for epsilon in (1 / 255, 1.0)
    )
    assert near.float().mean() < far.float().mean() == 1
    wrong = attacked(inputs).argmax(1) != labels
    assert wrong.any() and near[wrong].all()
