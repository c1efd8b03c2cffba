"""The chart of growth, and where the report has it."""

import json

import pytest

from stages.params import load_params
from stages.reporting.figures import svg
from stages.reporting.growth import FIGURES, SECTIONS, grown
from tests.plans import plan
from tests.reporting.test_report import PRODUCTS, Inputs, write_report
from tests.test_plan import ROOT

STEPS = [{"first": 8, "second": 16}, {"first": 8, "second": 24}, {"first": 10, "second": 24}]


def network(scheme="early_growth", seed=0, steps=STEPS):
    variant = {"dataset": "fashion_mnist", "model": "resnet8", "scheme": scheme, "defense": "none", "seed": seed}
    history = [{"growth": step, "channels": channels} for step, channels in enumerate(steps)]
    return {"variant": variant, "history": [*history, {"epoch": 1, "loss": 1.0, "validation": 0.5}]}


def test_curves_are_of_the_layers_of_each_network_that_grew():
    (group,) = grown([network(), network(seed=1, steps=STEPS[:2]), network("int8", steps=[])])
    curves = group.curves
    assert group.title == "fashion_mnist · resnet8"
    assert set(curves["variant"]) == {"early_growth · none · seed 0", "early_growth · none · seed 1"}
    first = curves[curves["variant"] == "early_growth · none · seed 0"]
    assert first.loc[first["layer"] == "second", "times"].tolist() == [1, 1.5, 1.5]
    assert first.loc[first["layer"] == "first", "channels"].tolist() == [8, 8, 10]
    assert len(curves) == 6 + 4
    drawn = svg([(group.title, figure(group)) for figure in FIGURES.values()], "")
    assert "early_growth" in drawn and "second" in drawn
    assert grown([network("int8", steps=[])]) == []


@pytest.fixture(scope="module")
def written(study, tmp_path_factory):
    """What the report writes where one of two networks grew, and where none did."""
    folder = tmp_path_factory.mktemp("study")
    scores, _, _ = study(schemes=("fp32", "int8"), defenses=("none",), also=(), epsilons=(0, 8 / 255))
    inputs = Inputs(folder, scores)
    inputs.write()
    without = write_report(inputs, folder / "without")
    file = next(path for path in map(folder.joinpath, inputs.paths) if "int8" in path.name and path.suffix == ".json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"history": network()["history"]}))
    return write_report(inputs, folder / "with", products=[*PRODUCTS, "figures/growth.svg"]), without


def test_the_figure_and_the_section_are_there_only_where_a_network_grew(written):
    products, without = written
    assert set(FIGURES) == set(SECTIONS)
    assert b"Nothing to draw" not in products["growth.svg"] and "growth.svg" not in without
    assert 'id="growth"' in products["report.html"].decode() and 'id="growth"' not in without["report.html"].decode()
    assert products["results.csv"] == without["results.csv"]


def test_a_plan_asks_for_it_where_a_number_format_grows():
    def figures(study):
        return [product for job in plan(load_params(ROOT / study)) for product in job.tracked if "growth" in product]

    assert figures("studies/early_growth/params.yaml") == ["data/results/figures/growth.svg"]
    assert figures("params.yaml") == []
