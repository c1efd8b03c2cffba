"""Random classifiers through the pipeline: what their attackers are called, fresh draws, flags, and settings."""

from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from stages import attack, probe
from stages.artifacts.adversarial import load_adversarial_set
from stages.artifacts.classifiers import load_classifier
from stages.artifacts.network_files import load_description
from stages.artifacts.scores import SCORES, UNCERTAINTY
from stages.attacks import pgd
from stages.defenses import shield
from stages.defenses.shielded import Shielded
from stages.metrics.results import results
from stages.params import ParamsError, load_params
from stages.plan import networks, tasks
from tests.attacks.linear import LinearNetwork
from tests.test_network_stages import Project

NAME = "fashion_mnist-tiny_cnn-{}-{}-s0"
UNCERTAIN = [field.name for field in UNCERTAINTY]
SHIELD = {"filters": [{"bit_depth": {"bits": 4}}], "layers": ["activations"], "rate": 0.2, "passes": 3}
EVALUATION = {
    "samples": 40,
    "transfer": [],
    "epsilons": {"linf": [0, "8/255"], "l2": [0, 0.5]},
    "headline_epsilon": {"linf": "8/255", "l2": 0.5},
}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Makes a study of networks with some defenses, all of its networks included."""

    def make(defenses, attacks=None, schemes=("int8",), **evaluation):
        attacks = attacks or {"pgd": {"steps": 3}, "boundary": {"iterations": 3, "start_tries": 4}}
        text = yaml.safe_load((Path(__file__).parents[1] / "studies/smoke/params.yaml").read_text())
        # `attacks` of the smoke study would be kept, as sections are merged.
        monkeypatch.setattr(yaml, "safe_load", lambda _: text | {"attacks": {}})
        project = Project(
            tmp_path,
            monkeypatch,
            grid={"schemes": list(schemes), "defenses": list(defenses), "also": []},
            defenses={name: settings for name, settings in defenses.items() if settings is not None},
            training={"epochs": 1},
            attacks=attacks,
            evaluation=EVALUATION | evaluation,
            report={"quality_targets": {}},
        )
        for variant in networks(project.params):
            project.run(variant.rule, variant.name)
        return project

    threads = torch.get_num_threads()
    yield make
    torch.set_num_threads(threads)


def evaluated(project) -> pd.DataFrame:
    """The scores of all attack and score jobs."""
    frames = []
    for task in tasks(project.params):
        if task.job.rule in ("attack", "score"):
            project.run(task.job.rule, task.job.item)
        if task.job.rule == "score":
            frames.append(pd.read_parquet(task.job.outputs[0]))
    return pd.concat(frames, ignore_index=True)


def test_a_random_filter_that_is_attacked_without_averages_is_flagged(study):
    attacks = {
        "pgd": {"steps": 3},
        "pgd_eot": {"attack": "pgd", "steps": 3, "eot_samples": 4},
        "boundary": {"iterations": 3, "start_tries": 4},
    }
    project = study({"random_resize_pad": None}, attacks)
    table = results(evaluated(project), {})
    attacked = table[(table["epsilon"] > 0) & (table["threat"] != "worst_case")].set_index("attack")
    assert set(attacked.loc[["pgd"], "threat"]) == {"white_box"} and set(attacked.loc[["pgd"], "eot_samples"]) == {1}
    assert attacked.loc[["pgd"], "flags"].str.contains("random_needs_eot").all()
    assert set(attacked.loc[["pgd_eot"], "threat"]) == {"adaptive"}
    assert set(attacked.loc[["pgd_eot"], "eot_samples"]) == {4}
    assert not attacked.loc[["pgd_eot", "boundary"], "flags"].str.contains("random_needs_eot").any()


def test_a_random_classifier_is_judged_on_fresh_draws_that_are_the_same_for_all_attacks(study, monkeypatch):
    project = study({"shield": SHIELD})
    name = NAME.format("int8", "shield")
    seeds = []
    reseed = Shielded.reseed
    monkeypatch.setattr(Shielded, "reseed", lambda self, seed: (seeds.append(seed), reseed(self, seed)))
    seen = {}
    for item in ("pgd", "boundary", "clean"):
        for rule in ("attack", "score") if item != "clean" else ("score",):
            seeds.clear()
            project.run(rule, f"{name}-{item}")
            seen[rule, item] = set(seeds)
    judged = seen["score", "clean"]
    assert len(judged) == 1 and seen["score", "pgd"] == judged == seen["score", "boundary"]
    assert not judged & (seen["attack", "pgd"] | seen["attack", "boundary"]) and seen["attack", "pgd"]
    crafted = load_adversarial_set(Path(f"data/adversarial/{name}-pgd.safetensors"))
    rows = pd.read_parquet(f"data/scores/{name}-pgd.parquet")
    rows = rows[rows["epsilon"] == crafted.epsilons[1]]
    classifier = load_classifier(Path("data/filtered", name))
    classifier.reseed(judged.pop())
    prediction = classifier(torch.from_numpy(crafted.inputs[1]).contiguous(memory_format=torch.channels_last)).argmax(1)
    assert rows["prediction"].tolist() == prediction.tolist()


def test_jobs_on_a_random_classifier_are_written_twice_to_the_same_bytes(study):
    project = study({"shield": SHIELD}, eot_samples=2)
    name = NAME.format("int8", "shield")
    jobs = [("filter", name), *((rule, f"{name}-{a}") for a in ("pgd", "boundary") for rule in ("attack", "score"))]
    for rule, item in jobs:
        assert project.run(rule, item) == project.run(rule, item), item
    assert load_adversarial_set(Path(f"data/adversarial/{name}-pgd.safetensors")).threat == "adaptive"


def test_scores_hold_what_the_passes_say_where_there_are_passes(study):
    project = study({"none": None, "shield": SHIELD})
    for defense in ("none", "shield"):
        project.run("score", f"{NAME.format('int8', defense)}-clean")
    shielded = pd.read_parquet(f"data/scores/{NAME.format('int8', 'shield')}-clean.parquet")
    plain = pd.read_parquet(f"data/scores/{NAME.format('int8', 'none')}-clean.parquet")
    assert list(plain.columns) == SCORES.names and list(shielded.columns) == [*SCORES.names, *UNCERTAIN]
    assert shielded[UNCERTAIN].notna().all(axis=None) and shielded["stochastic"].all()
    assert shielded["confidence"].between(0.1, 1).all() and (shielded["mutual_information"] >= 0).all()
    threshold = load_classifier(Path("data/filtered", NAME.format("int8", "shield"))).filter.threshold.item()
    assert (shielded["detected"] == (shielded["entropy"] > threshold)).all()
    validation_share = shielded["detected"].mean()  # validation and test images are the same here, draws are not
    assert 0 < validation_share < 0.12


def test_planted_examples_are_found_behind_a_shield(study, monkeypatch):
    monkeypatch.setattr(probe, "PLANTED_SAMPLES", 4)
    budget = {"epsilons": {"linf": [0, "64/255"]}, "headline_epsilon": {"linf": "64/255"}}
    project = study({"shield": SHIELD}, {"pgd": {"steps": 3}}, extended=True, eot_samples=2, **budget)
    item = f"{NAME.format('int8', 'shield')}-pgd"
    assert project.run("probe", item) == project.run("probe", item)
    rows = pd.read_parquet(f"data/probes/{item}.parquet")
    assert set(rows["probe"]) == {"doubled", "planted"}


def test_a_shield_may_stand_before_another_defense_and_have_several_settings(study):
    defenses = {"shield__early": SHIELD | {"before": "jacobian"}, "shield__late": {"rate": 0.3}}
    project = study(defenses)
    early, late = (load_classifier(Path("data/filtered", NAME.format("int8", name))) for name in defenses)
    jacobian = load_classifier(Path("data/quantized", NAME.format("int8", "jacobian")))
    undefended = load_classifier(Path("data/quantized", NAME.format("int8", "none")))
    assert torch.equal(early.network.convolution2.weight, jacobian.network.convolution2.weight)
    assert torch.equal(late.network.convolution2.weight, undefended.network.convolution2.weight)
    assert early.dropout.layers == ["activation1", "activation2", "activation3"] and late.dropout.layers == ["pool"]
    described = load_description(Path("data/filtered", NAME.format("int8", "shield__early")))
    assert described["filter"] == {
        "defense": "shield",
        "settings": SHIELD,
        "operations": 16 * 16 + 3 * (8 * 64 + 16 * 16 + 32 * 4),
    }
    task = project.tasks["attack", f"{NAME.format('int8', 'shield__early')}-pgd"]
    assert "stages/defenses/bit_depth.py" in task.job.modules and "stages/defenses/shield.py" in task.job.modules


@pytest.mark.parametrize(
    ("defenses", "sentence"),
    [
        ({"shield": {"filters": ["pixel_defend"]}}, "shield.filters.0: 'pixel_defend' is no filter that could be part"),
        ({"shield": {"filters": ["shield"]}}, "'shield' is no filter that could be part of one"),
        ({"shield": {"filters": ["gausian"]}}, "part of one, did you mean 'gaussian'?"),
        ({"shield": {"filters": [{"jpeg": {"quality": 0}}]}}, "filters.0.jpeg.quality: 0 should be greater than"),
        ({"shield": {"filters": [{"jpeg": {}, "median": {}}]}}, "a filter's name, or {name: {setting: value}}"),
        ({"shield": {"before": "median"}}, "shield.before: 'median' is a filter, expected a defense that trains"),
        ({"shield": {"before": "jacobean"}}, "shield.before: 'jacobean' is unknown, did you mean 'jacobian'?"),
        ({"jacobian": {"before": "none"}}, "jacobian.before: 'jacobian' is no filter"),
        ({"jacobian__strong": {}}, "jacobian__strong: 'strong' labels a defense that trains, expected a filter"),
        ({"shield__A": {}}, "the label 'A' should be lower-case letters, digits and '_'"),
        ({"sheld__a": {}}, "defenses.sheld__a: is unknown, did you mean 'shield'?"),
    ],
)  # fmt: skip
def test_impossible_shields_are_refused(tmp_path, defenses, sentence):
    refused(tmp_path, sentence, defenses=defenses)


def test_dropout_is_also_for_sound_and_filters_are_for_what_they_say(tmp_path):
    sound = {
        "data": {"validation": 300, "calibration": 100},
        "grid": {"datasets": ["speech_commands"], "models": ["dscnn"], "defenses": ["shield"], "also": []},
        "training": {"augmentation": {"crop_padding": 0, "horizontal_flip": False}},
        "evaluation": {
            "epsilons": {"linf": [0, "64/65535"], "l2": [0, 0.5]},
            "headline_epsilon": {"linf": "64/65535", "l2": 0.5},
        },
        "export": {"onnx": False},
        "report": {"quality_targets": {}},
    }
    refused(tmp_path, "'shield' filters images by 'jpeg'", **sound, defenses={"shield": {"filters": ["jpeg"]}})
    for filters in ([], ["median", {"low_pass": {"cutoff": 3000}}]):
        assert loaded(tmp_path, **sound, defenses={"shield": {"filters": filters}})
    images = {"grid": {"defenses": ["low_pass"], "also": []}}
    refused(tmp_path, "'low_pass' filters sound, expected another defense on 'fashion_mnist', whose inputs", **images)


@pytest.mark.parametrize(
    ("attacks", "sentence"),
    [
        ({"pgd": {"eot_samples": 0}}, "attacks.pgd.eot_samples: 0 should be a whole number of draws, at least 1"),
        ({"pgd": {"eot_samples": True}}, "attacks.pgd.eot_samples: True should be a whole number"),
        ({"square": {"eot_samples": 5}}, "attacks.square.eot_samples: 'square' has no gradients to average"),
    ],
)
def test_impossible_draws_are_refused(tmp_path, attacks, sentence):
    refused(tmp_path, sentence, attacks=attacks)


def loaded(folder, **sections):
    written = yaml.safe_load((Path(__file__).parents[1] / "studies/smoke/params.yaml").read_text())
    for section, values in sections.items():
        written[section] |= values
    (folder / "params.yaml").write_text(yaml.safe_dump(written))
    return load_params(folder / "params.yaml")


def refused(folder, sentence, **sections):
    with pytest.raises(ParamsError) as error:
        loaded(folder, **sections)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("stochastic", "draws", "threat"), [(True, 1, "white_box"), (True, 20, "adaptive"), (False, 20, "adaptive")]
)
def test_an_attacker_is_adaptive_who_goes_round_all_that_there_is(stochastic, draws, threat):
    network = LinearNetwork(torch.randn(3, 16), torch.zeros(3))
    defense = shield.filter((1, 4, 4), layers=["last_hidden"] if stochastic else [], rate=0.2 if stochastic else 0.0)
    classifier = Shielded(torch.nn.Sequential(torch.nn.Flatten(), network), defense, (1, 4, 4), 3)
    assert attack.threat_of(pgd, classifier, draws) == (threat, draws if stochastic else 1)


def test_a_report_shows_what_rejection_is_worth(study):
    attacks = {"pgd": {"steps": 3}, "pgd_evading": {"steps": 3}}
    budget = {"epsilons": {"linf": [0, "8/255"]}, "headline_epsilon": {"linf": "8/255"}}
    project = study({"none": None, "shield": SHIELD}, attacks, eot_samples=2, diagnose=0, **budget, extended=False)
    evaluated(project)
    project.run("report", "all")
    folder = Path("data/results")
    table = pd.read_csv(folder / "uncertainty.csv")
    assert table["attack"].tolist() == ["pgd", "pgd_evading", "clean"] and set(table["defense"]) == {"shield"}
    assert "Accuracy of the rest" in (folder / "figures/rejection.svg").read_text()
    assert "pgd_evading" in (folder / "figures/attackers.svg").read_text()
    html = (folder / "report.html").read_text()
    assert "What rejecting uncertain inputs is worth" in html
    costs = pd.read_csv(folder / "variants.csv").set_index("defense")["filter_operations"]
    assert costs["shield"] > 0 and pd.isna(costs["none"])
    rows = pd.read_csv(folder / "results.csv")
    assert rows.loc[rows["defense"] == "shield", "detected"].notna().any()


def test_a_study_without_votes_has_no_figure_of_rejection(study):
    project = study({"none": None, "feature_squeezing": None})
    (report,) = (task.job for task in project.tasks.values() if task.job.rule == "report")
    assert not [product for product in report.products if "rejection" in product or "uncertainty" in product]
