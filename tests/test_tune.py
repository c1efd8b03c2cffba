"""Budgets are doubled for as long as that helps, on validation data."""

from types import SimpleNamespace

import pytest
import yaml

from stages import tune as tuning
from stages.__main__ import main
from stages.tune import as_yaml, tune
from tests.linear_study import LinearStudy


@pytest.fixture
def study(tmp_path, monkeypatch):
    study = LinearStudy(tmp_path, monkeypatch)
    monkeypatch.setattr(tuning, "load_classifier", study.classifier)
    load = tuning.load_dataset
    monkeypatch.setattr(tuning, "load_dataset", lambda path: SimpleNamespace(val=load(path).val))  # has no test split
    return study


def tuned(study, attacks, told, doublings=6):
    return tune(study.params, attacks, 30, doublings, told.append)


def test_where_one_step_does_all_nothing_is_doubled(study):
    told = []
    attacks = {"fgsm": {}, "noise": {}, "deepfool": {"steps": 30}}
    assert tuned(study, attacks, told) == attacks
    assert [line.split(":")[0] for line in told] == ["deepfool steps 30", "deepfool steps 60"]
    assert "fashion_mnist-tiny_cnn-fp32-none-s0 " in told[0] and "fashion_mnist-tiny_cnn-int8-none-s0 " in told[0]


def test_budgets_grow_until_doubling_no_longer_helps(study, monkeypatch):
    told, tried = [], []

    def helps_three_times(after, before):
        tried.append((after.mean(), before.mean()))
        return len(tried) <= 3

    monkeypatch.setattr(tuning, "significantly_lower", helps_three_times)
    settings = {"attack": "square", "queries": 2, "initial_fraction": 0.5}
    assert tuned(study, {"asks": settings}, told) == {"asks": settings | {"queries": 16}}
    left = [float(line.rsplit(" ", 1)[1].rstrip("%")) for line in told]
    assert left[-1] < left[0]
    # Of several networks it is enough that one is helped: the fourth doubling was looked at on both.
    assert len(tried) == 3 + 2


def test_a_search_that_never_ends_says_so(study, monkeypatch):
    monkeypatch.setattr(tuning, "significantly_lower", lambda after, before: True)
    told = []
    assert tuned(study, {"pgd": {"steps": 1}}, told, doublings=3) == {"pgd": {"steps": 8}}
    assert told[-1] == "pgd: doubling still helped at the last try"


def test_settings_come_out_as_params_yaml_takes_them():
    found = {"pgd": {"steps": 40}, "asks": {"attack": "square", "queries": 800}}
    assert yaml.safe_load(as_yaml(found)) == {"attacks": found}


def test_attacks_are_listed_with_their_settings(capsys):
    assert main(["attacks"]) == 0
    listed = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "linf  white_box  budgets       steps: 10, step_size: 0.25" in listed["pgd"]
    assert "l2    white_box  minimal norm  steps: 100" in listed["ddn"]


def test_a_preset_is_printed_with_its_source(capsys):
    assert main(["preset", "deep_edge"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# The attacks of Costa and Pinto") and "arxiv.org/abs/2404.05688" in printed
    assert yaml.safe_load(printed)["attacks"]["pgd"] == {"steps": 20, "step_size": 0.1, "restarts": 20}


def test_an_attack_without_a_headline_epsilon_in_its_norm_is_refused(study):
    with pytest.raises(ValueError, match="headline_epsilon: has no 'l0', expected one to tune 'jsma' at"):
        tuned(study, {"jsma": {}}, [])


def test_an_unknown_attack_is_refused_by_name(capsys):
    assert main(["tune", "pdg"]) == 1
    assert "tune: 'pdg' is unknown, expected attacks among: apgd," in capsys.readouterr().err
