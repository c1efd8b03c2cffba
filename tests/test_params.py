import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import made_up_plugins
import pytest
import yaml
from ruamel.yaml import YAML

from stages.__main__ import preset, presets
from stages.params import ParamsError, load_params

ROOT = Path(__file__).parents[1]
WRITTEN = {
    "study": {"title": "T", "question": "Q"},
    "device": "auto",
    "precision": "fp32",
    "threads": 1,
    "resources": {"memory": 2000, "runtime": 10, "gpus": 0, "rules": {"train": {"runtime": 60, "gpus": 1}}},
    "ledger": {"remote": ""},
    "data": {"mirror": "", "validation": 20, "calibration": 10},
    "grid": {
        "datasets": ["digits"],
        "models": ["small"],
        "schemes": ["fp32", "w8"],
        "defenses": ["none"],
        "seeds": [0],
        "also": [{"scheme": "w4"}],
    },
    "training": {
        "epochs": 1,
        "batch_size": 8,
        "learning_rate": 0.1,
        "momentum": 0,
        "weight_decay": 5e-4,
        "augmentation": {"crop_padding": 2, "horizontal_flip": False},
    },
    "schemes": {"w4": {"epochs": 2}},
    "defenses": {"hard": {"epsilon": "8/255"}},
    "attacks": {"noise": None, "climb": {"steps": 3}},
    "evaluation": {
        "epsilons": {"linf": [0, "8/255", "16/255"]},
        "headline_epsilon": {"linf": "8/255"},
        "samples": 40,
        "grid": "digital",
        "eot_samples": 1,
        "extended": False,
        "diagnose": 0,
        "transfer": ["climb"],
        "surrogates": "all",
        "limits": {},
    },
    "report": {"quality_targets": {"digits": {"small": 0.5}}, "examples": 4, "claims": ""},
}


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load WRITTEN after some dotted keys were set (or removed, by the value ...)."""
    made_up_plugins.install(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)

    def load(**changes):
        written = deepcopy(WRITTEN)
        for dotted, value in changes.items():
            *sections, key = dotted.split(".")
            section = written
            for name in sections:
                section = section[name]
            section[key] = value
            if value is ...:
                del section[key]
        Path("params.yaml").write_text(yaml.safe_dump(written))
        return load_params()

    return load


@pytest.fixture
def faults(load):
    def faults(**changes):
        with pytest.raises(ParamsError) as caught:
            load(**changes)
        return str(caught.value).splitlines()

    return faults


def test_values_are_what_the_file_writes_with_epsilons_as_numbers(load):
    params = load()
    expected = deepcopy(WRITTEN)
    expected["defenses"]["hard"]["epsilon"] = expected["evaluation"]["headline_epsilon"]["linf"] = 8 / 255
    expected["evaluation"]["epsilons"]["linf"] = [0.0, 8 / 255, 16 / 255]
    expected["attacks"]["noise"] = {}
    expected["ledger"]["remote"] = []
    assert params.values == expected
    assert params.written == WRITTEN
    assert params.evaluation.epsilons == {"linf": [0.0, 8 / 255, 16 / 255]}
    assert params.attacks["climb"] == {"steps": 3}


def test_numbers_are_read_as_dvc_reads_them(load):
    load()
    file = Path("params.yaml")
    file.write_text(file.read_text().replace("weight_decay: 0.0005", "weight_decay: 5e-4"))
    assert load_params().training.weight_decay == 5e-4


@pytest.mark.parametrize(
    "key, value, sentence",
    [
        ("threadz", 1, "threadz: unknown key, did you mean 'threads'?"),
        ("grid.sedes", [1], "grid.sedes: unknown key, did you mean 'seeds'?"),
        ("attacks.climb", {"stepz": 3}, "attacks.climb.stepz: unknown key, did you mean 'steps'?"),
        (
            "training.augmentation.crop_pading",
            1,
            "training.augmentation.crop_pading: unknown key, did you mean 'crop_padding'?",
        ),
        ("data.other", 1, "data.other: unknown key, expected one of: mirror, validation, calibration"),
        ("grid.also", [{"scheem": "w4"}], "grid.also.0.scheem: unknown key, did you mean 'scheme'?"),
        ("training.epochs", ..., "training.epochs: is missing, expected a value"),
        ("report", ..., "report: is missing, expected a value"),
        ("training.epochs", "10", "training.epochs: '10' should be a valid integer"),
        ("training.epochs", True, "training.epochs: True should be a valid integer"),
        ("training.epochs", 0, "training.epochs: 0 should be greater than or equal to 1"),
        ("training.learning_rate", 0, "training.learning_rate: 0 should be greater than 0"),
        ("training.momentum", 1.5, "training.momentum: 1.5 should be less than or equal to 1"),
        ("training", None, "training: None should be a mapping of keys to values"),
        ("attacks.climb", [3], "attacks.climb: [3] should be a mapping of keys to values"),
        ("device", "gpu", "device: 'gpu' should be 'auto', 'cpu' or 'cuda'"),
        ("grid.seeds", 0, "grid.seeds: 0 should be a valid list"),
        ("grid.seeds", [], "grid.seeds: [] list should have at least 1 item after validation, not 0"),
        ("grid.seeds", [0, 0], "grid.seeds: [0, 0] should name 0 only once"),
        ("grid.models", ["smal"], "grid.models.0: 'smal' is unknown, did you mean 'small'?"),
        ("grid.models", ["x"], "grid.models.0: 'x' is unknown, expected one of: small, tall"),
        ("grid.schemes", ["fp16"], "grid.schemes.0: 'fp16' is unknown, did you mean 'fp32'?"),
        ("grid.also", [{}], "grid.also.0: {} names no axis, expected one of: dataset, model, scheme, defense, seed"),
        ("attacks.clime", {}, "attacks.clime: is unknown, did you mean 'climb'?"),
        ("schemes.fp32", {}, "schemes.fp32: is unknown, expected one of: w4, w8"),
        ("defenses.hard", {}, "defenses.hard.epsilon: is missing, expected a value"),
        ("defenses.hard.epsilon", "9/8", "defenses.hard.epsilon: '9/8' should be less than or equal to 1"),
        ("report.claims", ..., "report.claims: is missing, expected a value"),
        ("report.claims", "pape", "report.claims: 'pape' is unknown, did you mean 'paper'?"),
        ("report.claims", "claim", "report.claims: 'claim' is unknown, expected one of: paper"),
        (
            "report.quality_targets",
            {"digits": {"smal": 1}},
            "report.quality_targets.digits.smal: 'smal' is unknown, did you mean 'small'?",
        ),
        (
            "grid.models",
            ["tall"],
            "grid.models: 'tall' does not fit 'digits', whose inputs are 16x12 pixels: expected at least 17x1",
        ),
        (
            "grid.datasets",
            ["tones"],
            "grid.datasets: 'tones' has inputs of shape (49, 10), expected (channels, height, width)",
        ),
        (
            "evaluation.epsilons",
            [0, "8/255"],
            "evaluation.epsilons: [0, '8/255'] should be a mapping of keys to values",
        ),
        (
            "evaluation.epsilons.linf",
            ["8/255", 0],
            "evaluation.epsilons.linf: ['8/255', 0] should be ascending, each value once",
        ),
        (
            "evaluation.epsilons.linf",
            [0, 0, "8/255"],
            "evaluation.epsilons.linf: [0, 0, '8/255'] should be ascending, each value once",
        ),
        (
            "evaluation.epsilons.linf",
            [0, "8/255", 1],
            "evaluation.epsilons.linf: 1 should be left out, since iterative attacks run there by themselves as a "
            "check",
        ),
        (
            "evaluation.epsilons.linf",
            [0, "8/255", 1.5],
            "evaluation.epsilons.linf.2: 1.5 should be below 1, the largest change that an input can take",
        ),
        (
            "evaluation.epsilons.l3",
            [0],
            "evaluation.epsilons.l3: 'l3' should be 'linf', 'l2', 'l1', 'l0' or 'snr'",
        ),
        (
            "attacks.near",
            {},
            "evaluation.epsilons: ['linf'] should also have 'l2', the norm of attacks.near",
        ),
        (
            "evaluation.headline_epsilon.linf",
            0.5,
            "evaluation.headline_epsilon.linf: 0.5 should be one of evaluation.epsilons.linf",
        ),
        (
            "attacks.quick",
            {"attack": "clim"},
            "attacks.quick.attack: 'clim' is unknown, did you mean 'climb'?",
        ),
        (
            "attacks.quick",
            {"attack": "climb", "stepz": 1},
            "attacks.quick.stepz: unknown key, did you mean 'steps'?",
        ),
        (
            "evaluation.epsilons.linf",
            ["8/255", 0.5],
            "evaluation.epsilons.linf.1: 0.5 should be a multiple of 1/255, written like 8/255, since evaluation.grid "
            "is 'digital'",
        ),
        ("data.validation", 1, "data.validation: 1 should be at least 2, one for each class of 'digits'"),
        (
            "training.augmentation.crop_padding",
            7,
            "training.augmentation.crop_padding: 7 should be at most 6, half the side of 'digits'",
        ),
        ("evaluation.samples", 41, "evaluation.samples: 41 should be at most 40, the test images of 'digits'"),
        ("evaluation.diagnose", 41, "evaluation.diagnose: 41 should be at most 40, the test images of 'digits'"),
        (
            "data.calibration",
            81,
            "data.calibration: 81 should be at most 80, the training images beside validation of 'digits'",
        ),
        (
            "training.batch_size",
            81,
            "training.batch_size: 81 should be at most 80, the training images beside validation of 'digits'",
        ),
        (
            "evaluation.transfer",
            ["noise"],
            "evaluation.transfer.0: 'noise' has the threat 'noise', expected an attack with 'white_box', crafted on "
            "the surrogate",
        ),
        (
            "evaluation.transfer",
            ["clim"],
            "evaluation.transfer.0: 'clim' is not listed in attacks, did you mean 'climb'?",
        ),
    ],
)
def test_each_fault_is_one_sentence_with_key_value_and_what_was_expected(faults, key, value, sentence):
    assert faults(**{key: value}) == [f"params.yaml: {sentence}"]


@pytest.mark.parametrize("section", ["schemes", "defenses", "attacks", "faults"])
def test_a_name_is_no_number(faults, section):
    assert faults(**{section: {1: {}}}) == [f"params.yaml: {section}.1: 1 should be a valid string"]


def test_a_name_that_is_a_number_is_no_format_that_may_be_meant(faults):
    assert faults(**{"schemes": {8: {"scheme": "w8"}}, "grid.schemes": ["w7"]}) == [
        "params.yaml: grid.schemes.0: 'w7' is unknown, did you mean 'w8'?",
        "params.yaml: schemes.8: 8 should be a valid string",
    ]


def test_black_box_sets_are_not_replayed(faults):
    assert faults(**{"attacks.ask": {"queries": 5}, "evaluation.transfer": ["ask"]}) == [
        "params.yaml: evaluation.transfer.0: 'ask' has the threat 'black_box', expected an attack with 'white_box', "
        "crafted on the surrogate"
    ]


@pytest.mark.parametrize(
    ("name", "plugin", "sentence"),
    [
        ("long.climb", "climb", "should be lower-case letters, digits and '_', starting with a letter"),
        ("a/../b", "climb", "should be lower-case letters, digits and '_', starting with a letter"),
        ("my climb", "climb", "should be lower-case letters, digits and '_', starting with a letter"),
        ("", "climb", "should be lower-case letters, digits and '_', starting with a letter"),
        ("clean", "climb", "has a meaning of its own, expected another name"),
        ("size", "climb", "has a meaning of its own, expected another name"),
        ("ask", "climb", "is another attack than 'ask', expected another name for it"),
    ],
)
def test_a_name_of_an_attack_names_nothing_else(tmp_path, monkeypatch, name, plugin, sentence):
    made_up_plugins.install(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    written = deepcopy(WRITTEN)
    written["attacks"][name] = {"attack": plugin}
    Path("params.yaml").write_text(yaml.safe_dump(written))
    with pytest.raises(ParamsError) as caught:
        load_params()
    (fault,) = str(caught.value).splitlines()
    assert fault.startswith(f"params.yaml: attacks.{name}") and fault.endswith(sentence)


def test_epsilons_that_tables_cannot_tell_apart_are_refused(faults):
    (fault,) = faults(**{"evaluation.grid": "pre_quantizer", "evaluation.epsilons.linf": [0, 8 / 255, 8 / 255 + 1e-7]})
    assert fault.endswith("should be more than 1e-06 apart, to be told apart in tables")


def test_sets_that_stop_early_are_not_replayed(load, faults):
    assert load(**{"attacks.climb.stop_when_broken": False})
    assert faults(**{"attacks.climb.stop_when_broken": True}) == [
        "params.yaml: evaluation.transfer.0: 'climb' has stop_when_broken, expected an attack at full effort: sets "
        "that stop early do not transfer"
    ]


def test_all_faults_are_named_at_once(faults):
    sentences = faults(**{"threads": 0, "attacks.climb.steps": "3", "schemes.w5": {}, "study.titel": "T"})
    assert [sentence.split(":")[1].strip() for sentence in sentences] == [
        "study.titel",
        "threads",
        "schemes.w5",
        "attacks.climb.steps",
    ]


def test_the_pre_quantizer_grid_takes_any_epsilon(load):
    changes = {"evaluation.epsilons.linf": [0.01, 0.5], "evaluation.headline_epsilon.linf": 0.01}
    assert load(**{"evaluation.grid": "pre_quantizer", **changes}).evaluation.epsilons == {"linf": [0.01, 0.5]}


def test_every_norm_of_the_attacks_has_budgets_and_no_other(load, faults):
    both = {"attacks.near": {}, "evaluation.epsilons.l2": [0, 0.5, 3], "evaluation.headline_epsilon.l2": 0.5}
    assert load(**both).evaluation.epsilons["l2"] == [0, 0.5, 3]  # off the grid, and above 1
    assert faults(**{key: both[key] for key in both if key != "attacks.near"}) == [
        "params.yaml: evaluation.epsilons.l2: no attack has this norm, expected those of attacks: linf"
    ]
    assert faults(**{key: both[key] for key in both if "headline" not in key}) == [
        "params.yaml: evaluation.headline_epsilon: ['linf'] should have the norms of evaluation.epsilons: l2, linf"
    ]


def test_an_attack_may_run_twice_under_two_names(load, faults):
    params = load(**{"attacks.long": {"attack": "climb", "steps": 50}, "evaluation.transfer": ["climb", "long"]})
    assert [params.plugin(name) for name in ("climb", "long")] == ["climb", "climb"]
    assert params.attacks["long"] == {"attack": "climb", "steps": 50}
    assert faults(**{"attacks.deaf": {"attack": "ask"}, "evaluation.transfer": ["deaf"]}) == [
        "params.yaml: evaluation.transfer.0: 'deaf' has the threat 'black_box', expected an attack with 'white_box', "
        "crafted on the surrogate"
    ]


def test_a_test_of_attacks_needs_a_budget(faults):
    assert faults(**{"evaluation.extended": True, "evaluation.headline_epsilon.linf": 0}) == [
        "params.yaml: evaluation.headline_epsilon.linf: 0 should be above 0, where evaluation.extended tests attacks"
    ]


def test_every_multiple_of_1_over_255_is_digital(load):
    epsilons = [f"{j}/255" for j in range(255)]
    assert load(**{"evaluation.epsilons.linf": epsilons}).evaluation.epsilons["linf"] == [j / 255 for j in range(255)]


def test_a_model_need_only_fit_the_datasets_that_the_grid_crosses_it_with(load):
    params = load(**{"grid.also": [{"dataset": "towers", "model": "tall", "scheme": "w4"}]})
    assert params.grid.cells()[-1] == ("towers", "tall", "w4", "none", 0)


def test_cells_are_the_product_and_what_is_beside_it_each_once(load):
    params = load(**{"grid.seeds": [0, 1], "grid.also": [{"scheme": "w4", "seed": 7}, {"scheme": "w8"}]})
    assert params.grid.cells() == [
        ("digits", "small", "fp32", "none", 0),
        ("digits", "small", "fp32", "none", 1),
        ("digits", "small", "w8", "none", 0),
        ("digits", "small", "w8", "none", 1),
        ("digits", "small", "w4", "none", 7),
    ]


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("threads: 1\nthreads: 2\n", 'line 2: found duplicate key "threads" with value "2" (original value: "1").'),
        ("study:\n  title: a: b\n", "line 2: mapping values are not allowed here."),
        ("grid: [1\n", "line 2: expected ',' or ']', but got '<stream end>'."),
        ("- threads\n", "line 1: holds ['threads'], expected a mapping of settings."),
        ("", "line 1: holds None, expected a mapping of settings."),
    ],
)
def test_what_is_no_yaml_mapping_is_refused_with_its_line(tmp_path, text, sentence):
    file = tmp_path / "params.yaml"
    file.write_text(text)
    with pytest.raises(ParamsError) as caught:
        load_params(file)
    assert str(caught.value) == f"{file}: {sentence}"


def test_bytes_that_are_no_text_are_refused(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_bytes(b"study: \xff\n")
    with pytest.raises(ParamsError, match=r"params.yaml: is no YAML text: "):
        load_params(file)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ParamsError, match=r"nowhere.yaml: no such file, expected the settings of a study"):
        load_params(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("file", [ROOT / "params.yaml", *ROOT.glob("studies/*/params.yaml")], ids=str)
def test_the_projects_studies_are_valid(file):
    assert load_params(file).grid.cells()


def test_settings_and_plan_need_no_torch():
    program = "import sys, stages.plan; sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    "key, value, sentence",
    [
        ("ledger", ..., "ledger: is missing, expected a value"),
        ("ledger.remote", None, "ledger.remote: None should be a valid list"),
        ("ledger.remote", ["store", "store"], "ledger.remote: ['store', 'store'] should name 'store' only once"),
        ("ledger.remotes", "store", "ledger.remotes: unknown key, did you mean 'remote'?"),
    ],
)
def test_the_remotes_are_a_name_or_some_or_none(load, faults, key, value, sentence):
    for written, meant in (("store", ["store"]), (["b", "a"], ["b", "a"]), ("", []), ([], [])):
        assert load(**{"ledger.remote": written}).ledger.remote == meant
    assert faults(**{key: value}) == [f"params.yaml: {sentence}"]


def test_a_rule_asks_for_its_own_resources_or_else_for_those_of_all(load):
    resources = load().resources
    asked = {rule: resources.of(rule) for rule in ("train", "score")}
    assert [(of.memory, of.runtime, of.gpus) for of in asked.values()] == [(2000, 60, 1), (2000, 10, 0)]


@pytest.mark.parametrize(
    "key, value, sentence",
    [
        ("resources", ..., "resources: is missing, expected a value"),
        ("resources.memory", ..., "resources.memory: is missing, expected a value"),
        ("resources.memory", "4GB", "resources.memory: '4GB' should be a valid integer"),
        ("resources.runtime", 0, "resources.runtime: 0 should be greater than or equal to 1"),
        ("resources.gpus", -1, "resources.gpus: -1 should be greater than or equal to 0"),
        ("resources.cpus", 2, "resources.cpus: unknown key, did you mean 'gpus'?"),
        ("resources.rules", {"atack": {}}, "resources.rules.atack: unknown key, did you mean 'attack'?"),
        (
            "resources.rules",
            {"attack": {"memroy": 1}},
            "resources.rules.attack.memroy: unknown key, did you mean 'memory'?",
        ),
        ("resources.rules", {"attack": None}, "resources.rules.attack: None should be a mapping of keys to values"),
    ],
)
def test_resources_are_whole_positive_numbers(faults, key, value, sentence):
    assert faults(**{key: value}) == [f"params.yaml: {sentence}"]


def test_presets_are_settings_that_the_default_study_could_have(tmp_path):
    yaml12 = YAML(typ="safe")
    for name in presets():
        written = yaml12.load((ROOT / "params.yaml").read_text())
        chosen = yaml12.load(preset(name))
        written["attacks"] = chosen["attacks"]
        written["evaluation"] |= chosen.get("evaluation", {}) | {"transfer": []}
        file = tmp_path / f"{name}.yaml"
        file.write_text(json.dumps(written))
        assert set(load_params(file).attacks) == set(chosen["attacks"])


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({"attacks": {"clim": {"samples": 2}}}, "attacks.clim: 'clim' is not listed in attacks, did you mean 'climb'?"),
        ({"attacks": {"climb": {"samples": 41}}}, "attacks.climb.samples: 41 should be at most 40, evaluation.samples"),
        (
            {"attacks": {"climb": {"epsilons": [0.3]}}},
            "attacks.climb.epsilons: 0.3 should be one of evaluation.epsilons.linf",
        ),
        (
            {"attacks": {"climb": {"schemes": ["few"]}}},
            "attacks.climb.schemes.0: 'few' is unknown, expected one of: ",
        ),
        ({"attacks": {"climb": {"seeds": [7]}}}, "attacks.climb.seeds: 7 is not in the grid, expected one of: 0"),
        (
            {"attacks": {"climb": {"epsilons": [0]}}, "defenses": {"hard": {"epsilons": {"linf": ["8/255"]}}}},
            "defenses.hard.epsilons: shares none with evaluation.limits.attacks.climb.epsilons, expected some",
        ),
        ({"defenses": {"soft": {"samples": 2}}}, "defenses.soft: 'soft' is unknown, expected one of: hard, none"),
        ({"defenses": {"hard": {"sample": 2}}}, "defenses.hard.sample: unknown key, did you mean 'samples'?"),
        (
            {"defenses": {"hard": {"attacks": ["clim"]}}},
            "defenses.hard.attacks: 'clim' is not listed in attacks, did you mean 'climb'?",
        ),
        (
            {"defenses": {"hard": {"epsilons": {"linf": [0.5]}}}},
            "defenses.hard.epsilons.linf: 0.5 should be one of evaluation.epsilons.linf",
        ),
    ],
)
def test_limits_that_limit_nothing_are_refused(load, limits, sentence):
    with pytest.raises(ParamsError) as caught:
        load(**{"evaluation.limits": limits})
    assert f"params.yaml: evaluation.limits.{sentence}" in str(caught.value)


def test_a_defense_says_how_it_trains_beside_its_settings(load):
    params = load(**{"defenses.hard": {"epsilon": "8/255", "training": {"start": "undefended", "epochs": 3}}})
    assert params.settings_of_defense("hard") == {"epsilon": 8 / 255}
    assert params.retraining("hard") == {"start": "undefended", "epochs": 3}
    assert params.retraining("none") == params.settings_of_defense("none") == {}


@pytest.mark.parametrize(
    ("training", "sentence"),
    [
        ({"epoch": 3}, "defenses.hard.training.epoch: unknown key, did you mean 'epochs'?"),
        ({"start": "teacher"}, "defenses.hard.training.start: 'teacher' should be 'scratch' or 'undefended'"),
        ({"epochs": 0}, "defenses.hard.training.epochs: 0 should be greater than or equal to 1"),
        (7, "defenses.hard.training: 7 should be a mapping of keys to values"),
    ],
)
def test_wrong_training_of_a_defense_is_refused(load, training, sentence):
    with pytest.raises(ParamsError) as caught:
        load(**{"defenses.hard": {"training": training}})
    assert sentence in str(caught.value)


def test_the_undefended_network_cannot_start_from_itself(load):
    with pytest.raises(ParamsError) as caught:
        load(**{"defenses.none": {"training": {"start": "undefended"}}})
    assert "defenses.none.training.start: 'undefended' is that network itself, expected 'scratch'" in str(caught.value)


def test_a_student_starts_from_its_teacher(load, tmp_path):
    source = "def loss(network, inputs, labels, *, generator, teacher): ..."
    made_up_plugins.write(tmp_path / "stages" / "defenses" / "taught.py", source)
    with pytest.raises(ParamsError) as caught:
        load(**{"defenses.taught": {"training": {"start": "scratch"}}})
    assert "defenses.taught.training.start: 'scratch' cannot be, since it starts from its teacher" in str(caught.value)


def test_a_batch_of_a_defense_s_training_fits_the_training_images(load):
    with pytest.raises(ParamsError) as caught:
        load(**{"defenses.hard": {"epsilon": "8/255", "training": {"batch_size": 100_000}}})
    assert "defenses.hard.training.batch_size: 100000 should be at most" in str(caught.value)


def test_limits_leave_an_attack_for_the_headline_numbers(load):
    limits = {"attacks": {"climb": {"epsilons": ["16/255"]}}, "defenses": {"none": {"attacks": ["climb"]}}}
    with pytest.raises(ParamsError) as caught:
        load(**{"evaluation.limits": limits})
    assert "evaluation.limits: leaves no attack on 'none' at linf 0.0313725, expected one" in str(caught.value)


def test_an_attack_of_minimal_norm_has_no_epsilons_to_limit(load):
    limits = {"attacks": {"near": {"epsilons": [0.5]}}}
    budgets = {"linf": [0, "8/255"], "l2": [0.5]}
    with pytest.raises(ParamsError) as caught:
        load(
            **{"attacks.near": {}, "evaluation.epsilons": budgets, "evaluation.limits": limits},
            **{"evaluation.headline_epsilon": {"linf": "8/255", "l2": 0.5}},
        )
    assert "evaluation.limits.attacks.near.epsilons: 'near' looks for the nearest" in str(caught.value)


@pytest.mark.parametrize(
    ("models", "sentence"),
    [
        ([], "defenses.crowd.models: [] should name one model or more, each once"),
        (["other", "other"], "defenses.crowd.models: ['other', 'other'] should name one model or more, each once"),
        (["smal"], "defenses.crowd.models: 'smal' is unknown, did you mean 'small'?"),
        (["small"], "defenses.crowd.models: 'small' is the model that it defends, expected others"),
    ],
)
def test_models_to_attack_in_training_are_others(load, tmp_path, models, sentence):
    source = "def loss(network, inputs, labels, *, generator, sources, models: list = ('other',)): ..."
    made_up_plugins.write(tmp_path / "stages" / "defenses" / "crowd.py", source)
    with pytest.raises(ParamsError) as caught:
        load(**{"grid.defenses": ["crowd"], "defenses.crowd": {"models": models}})
    assert sentence in str(caught.value)


def test_what_an_extended_evaluation_replaces_counts_where_it_is_asked_for(load):
    replaced = {"attacks": {"climb": {"steps": 7}, "noise": None}, "evaluation": {"samples": 30}}
    plain, extended = (load(**{"extended": replaced, "evaluation.extended": asked}) for asked in (False, True))
    assert plain.attacks == load().attacks and plain.evaluation == load().evaluation
    assert extended.attacks == {"climb": {"steps": 7}} and extended.evaluation.samples == 30
    assert extended.values["evaluation"]["samples"] == 30 and "extended" not in extended.values
    assert extended.written["attacks"]["climb"] == {"steps": 3} and extended.written["extended"] == replaced


def test_a_setting_that_is_replaced_stands_in_two_places(load):
    replaced = {"attacks": {"climb": {"steps": 7}}, "schemes": {"w8": {}}}
    keys = ("attacks.climb", "schemes.w8", "threads")
    plain, extended = (load(**{"extended": replaced, "evaluation.extended": asked}) for asked in (False, True))
    assert plain.places(keys) == keys
    assert extended.places(keys) == ("attacks.climb", "extended.attacks.climb", "extended.schemes.w8", "threads")


def test_what_is_wrong_with_an_extended_evaluation_is_said_before_it_is_asked_for(faults):
    ending = " (with what extended replaces)"
    assert faults(extended={"attacks": {"climb": {"stepz": 7}}}) == [
        f"params.yaml: attacks.climb.stepz: unknown key, did you mean 'steps'?{ending}"
    ]
    assert faults(extended={"evaluation": {"samples": None}}) == [
        f"params.yaml: evaluation.samples: is missing, expected a value{ending}"
    ]
    assert faults(extended=[1]) == ["params.yaml: extended: [1] should be a mapping of keys to values"]
    # What is wrong with or without it is said once.
    assert faults(threads=0, extended={"evaluation": {"samples": 30}}) == faults(threads=0)


def test_a_number_format_may_have_a_name_of_its_own(load):
    mine = {"mine": {"scheme": "w4", "epochs": 3}, "other": {"scheme": "w8"}}
    params = load(**{"schemes": mine, "grid.schemes": ["fp32", "mine", "w8"], "grid.also": [{"scheme": "other"}]})
    assert [params.scheme_plugin(name) for name in ("mine", "other", "w8")] == ["w4", "w8", "w8"]
    assert params.settings_of_scheme("mine") == {"epochs": 3}
    assert params.settings_of_scheme("other") == params.settings_of_scheme("w8") == {}
    assert params.values["schemes"] == mine


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"mine": {"scheme": "w44"}}, "schemes.mine.scheme: 'w44' is unknown, did you mean 'w4'?"),
        ({"mine": {"scheme": "w4", "epoch": 2}}, "schemes.mine.epoch: unknown key, did you mean 'epochs'?"),
        (
            {"my-mix": {"scheme": "w4"}},
            "schemes.my-mix: 'my-mix' should be lower-case letters, digits and '_', starting",
        ),
        ({"w8": {"scheme": "w4"}}, "schemes.w8: 'w8' is the name of another number format, expected a new name"),
        ({"fp32": {"scheme": "w4"}}, "schemes.fp32: 'fp32' is the name of another number format, expected a new name"),
    ],
)
def test_a_name_or_a_file_of_a_number_format_that_cannot_be_is_refused(faults, changes, expected):
    (sentence,) = faults(schemes=changes, **{"grid.schemes": ["fp32"], "grid.also": []})
    assert sentence.startswith(f"params.yaml: {expected}")


def test_the_grid_knows_the_names_of_number_formats(faults):
    (sentence,) = faults(schemes={"mine": {"scheme": "w4"}}, **{"grid.schemes": ["fp32", "mien"]})
    assert sentence == "params.yaml: grid.schemes.1: 'mien' is unknown, did you mean 'mine'?"
    # An entry that names no file is a file's own.
    assert "params.yaml: schemes.mine: is unknown" in faults(schemes={"mine": {}})[0]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"as_large_as": "largr"}, "as_large_as: 'largr' is unknown, did you mean 'large'?"),
        ({"as_large_as": "fp32"}, "as_large_as: 'fp32' is unknown, expected one of: "),
        ({"as_large_as": "mine"}, "as_large_as: 'mine' is itself to be as large as another, expected one that is not"),
        (
            {"as_large_as": "w8", "channels": 2.0},
            "as_large_as: 'w8' decides how many channels there are, expected no schemes.mine.channels",
        ),
    ],
)
def test_a_size_that_cannot_be_another_networks_is_refused(load, faults, settings, expected):
    made_up_plugins.write(
        Path("stages/schemes/sized.py"),
        "def quantize(make, calibration, fine_tune, *, reference, channels: float = 1.0, as_large_as: str = ''): ...",
    )
    schemes = {"mine": {"scheme": "sized"} | settings, "large": {"scheme": "sized"}}
    (sentence,) = faults(schemes=schemes, **{"grid.schemes": ["fp32"], "grid.also": []})
    assert sentence.startswith(f"params.yaml: schemes.mine.{expected}")
    params = load(schemes={"mine": {"scheme": "sized", "as_large_as": "large"}, "large": {"scheme": "sized"}})
    assert [params.reference_scheme(name) for name in ("mine", "large", "w8")] == ["large", None, None]


def test_what_a_number_format_needs_is_asked_for(faults):
    made_up_plugins.write(
        Path("stages/schemes/wide.py"), "def quantize(make, calibration, fine_tune, *, weights: int): ..."
    )
    (sentence,) = faults(**{"grid.schemes": ["wide"]})
    assert sentence == "params.yaml: grid.schemes: 'wide' needs settings: expected schemes.wide with weights"
