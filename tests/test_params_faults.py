"""Settings and plan of attacks on memory, on the project's own plugins."""

from pathlib import Path

import pytest
import yaml

from stages.params import ParamsError, load_params
from stages.plan import tasks
from tests.plans import plan

ROOT = Path(__file__).parents[1]


@pytest.fixture
def load(tmp_path):
    def changed(faults=None, **evaluation):
        written = yaml.safe_load((ROOT / "params.yaml").read_text())
        written["evaluation"] |= evaluation
        if faults is not None:
            written["faults"] = faults
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(written))
        return load_params(tmp_path / "params.yaml")

    return changed


def test_a_study_without_faults_has_the_plan_and_the_settings_that_it_had(load):
    params = load()
    assert "faults" not in params.values and "flips" not in params.values["evaluation"]
    assert not [job for job in plan(params) if job.rule == "bitflip"]
    report = next(job for job in plan(params) if job.rule == "report")
    assert not [name for name in (*report.params, *report.products) if "flip" in name or "fault" in name]


def test_each_network_is_attacked_by_each_entry(load):
    params = load(
        {"bit_flip_attack": {"tries": 3, "draws": 2}, "floats": {"attack": "bit_flip_attack", "region": "floats"}},
        flips=[1, 10],
    )
    found = [task for task in tasks(params) if task.job.rule == "bitflip"]
    assert len(found) == 2 * len(params.grid.cells())
    first = found[0]
    assert first.plugin == "bit_flip_attack" and found[1].plugin == "bit_flip_attack"
    assert params.settings_of_fault("bit_flip_attack") == {"tries": 3}
    assert params.settings_of_fault("floats") == {"region": "floats"}
    assert (params.draws("bit_flip_attack"), params.draws("floats")) == (2, 5)
    assert first.job.params == ("device", "threads", "evaluation.samples", "evaluation.flips", "faults.bit_flip_attack")
    report = next(job for job in plan(params) if job.rule == "report")
    assert set(first.job.outputs) < set(report.inputs) and "faults" in report.params
    assert "data/results/flips_needed.csv" in report.tracked


def test_numbers_of_flips_and_checksums_are_settings_of_the_jobs_where_they_are_written(load):
    params = load({"random_flips": {}}, flips=[1, 10], checksums={"group_size": 32})
    job = next(job for job in plan(params) if job.rule == "bitflip")
    assert job.params[3:5] == ("evaluation.flips", "evaluation.checksums")
    assert params.evaluation.checksums.group_size == 32


@pytest.mark.parametrize(
    ("faults", "evaluation", "sentence"),
    [
        ({"bit_flop": {}}, {}, "faults.bit_flop: is unknown, did you mean 'bit_flip_attack'?"),
        ({"mine": {"attack": "pgd"}}, {}, "faults.mine.attack: 'pgd' is unknown, expected one of: bit_flip_attack"),
        ({"bit_flip_attack": {"region": "attic"}}, {}, "faults.bit_flip_attack.region: 'attic' should be 'all'"),
        ({"bit_flip_attack": {"trys": 1}}, {}, "faults.bit_flip_attack.trys: unknown key, did you mean 'tries'?"),
        ({"random_flips": {"draws": 0}}, {}, "faults.random_flips.draws: 0 should be a whole number of at least 1"),
        ({"random_flips": {"rates": [2.0]}}, {}, "faults.random_flips.rates.0: 2.0 should be less than or equal to 1"),
        ({"pgd": {"attack": "random_flips"}}, {}, "faults.pgd: 'pgd' has a meaning of its own"),
        ({"sign_flips": {"attack": "random_flips"}}, {}, "faults.sign_flips.attack: 'random_flips' is another attack"),
        ({"sign_flips": {}}, {"flips": [5, 1]}, r"evaluation.flips: \[5, 1\] should be ascending"),
        ({"sign_flips": {}}, {}, "evaluation.flips: is missing, expected the numbers of flips at which"),
        (None, {"flips": [1]}, "evaluation.flips: is for attacks on memory, expected some in faults"),
        (
            {"sign_flips": {}},
            {"flips": [1], "checksums": {"group_size": 0}},
            "evaluation.checksums.group_size: 0 should be greater",
        ),
    ],
)
def test_each_fault_is_one_sentence(load, faults, evaluation, sentence):
    with pytest.raises(ParamsError, match=sentence):
        load(faults, **evaluation)
