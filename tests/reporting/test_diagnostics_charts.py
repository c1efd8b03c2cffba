"""The charts of diagnostics."""

import json
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from stages.metrics.diagnostics import PARTS
from stages.reporting.diagnostics import FIGURES, SUBJECTS, description, diagnosed
from stages.reporting.figures import COLOURS, specification, svg
from tests.synthetic_diagnostics import footprints, synthetic_diagnostics


def group_of(rows):
    (group,) = diagnosed(rows, footprints(rows))
    return group


@pytest.fixture(scope="module")
def group():
    return group_of(synthetic_diagnostics())


def drawn(name, group):
    return svg([(group.title, FIGURES[name](group))], "Nothing to draw.")


def shown(name, group):
    """The values that a chart draws."""
    chart = FIGURES[name](group).to_dict()
    return chart["data"]["values"] if "data" in chart else chart["spec"]["data"]["values"]


def texts(drawing):
    return [element.text for element in ElementTree.fromstring(drawing).iter() if element.text and element.text.strip()]


def test_axes_put_the_largest_scheme_and_no_defense_first(group):
    assert group.schemes == ["fp32", "int8", "w4a4", "w1a1"] and group.quantized == ["int8", "w4a4", "w1a1"]
    assert group.defenses == ["none", "fast_at"]
    assert group.title == "data · net"


def test_datasets_and_models_are_figures_of_their_own():
    rows = synthetic_diagnostics(schemes=("fp32", "int8"), defenses=("none",))
    both = [group.title for group in diagnosed(*_joined(rows, rows.assign(model="other")))]
    assert both == ["data · net", "data · other"]


def test_what_a_filter_stores_makes_no_number_format_larger():
    rows = synthetic_diagnostics(schemes=("fp32", "int8"), defenses=("none",))
    alone = footprints(rows)
    filtered = alone[alone["scheme"] == "int8"].assign(defense="pixel_defend", weight_bytes=1_000_000)
    (group,) = diagnosed(rows, pd.concat([alone, filtered]))
    assert group.schemes == ["fp32", "int8"]


def _joined(*parts):
    rows = pd.concat(parts, ignore_index=True)
    return rows, footprints(rows)


@pytest.mark.parametrize("name", FIGURES)
def test_every_chart_is_drawn_with_every_defense_the_same_each_time(name, group):
    drawing = drawn(name, group)
    told = " ".join(texts(drawing))
    assert "data · net" in told and "fast_at" in told
    assert "NaN" not in drawing and "undefined" not in drawing
    assert drawn(name, group) == drawing
    json.dumps(specification(FIGURES[name](group)), allow_nan=False)


@pytest.mark.parametrize("name", FIGURES)
def test_a_float_network_alone_has_nothing_to_compare(name):
    group = group_of(synthetic_diagnostics(schemes=("fp32",)))
    assert FIGURES[name](group) is None
    assert "Nothing to draw." in texts(drawn(name, group))


def test_without_a_budget_there_is_no_attribution(group):
    calm = group_of(synthetic_diagnostics(epsilon=None))
    assert FIGURES["attribution"](calm) is None
    assert FIGURES["gradient_cosine"](calm) is not None


def test_bars_are_the_accuracies_of_every_part(group):
    bars = shown("attribution", group)
    table = group.table.set_index(["scheme", "defense", "part"])
    assert len(bars) == 3 * 2 * len(PARTS)
    for bar in bars:
        scheme, defense = bar["panel"].split(" · ")
        row = table.loc[scheme, defense, bar["part"]]
        assert bar["robust"] == pytest.approx(100 * row["robust_accuracy"])
        assert bar["clean"] == pytest.approx(100 * row["clean_accuracy"])
        assert (bar["cosine"] is None) == (bar["part"] == "none")


def test_cosine_curves_are_distribution_functions_of_the_whole_network(group):
    points = shown("gradient_cosine", group)
    rows = group.rows[(group.rows["diagnostic"] == "gradient_cosine") & (group.rows["part"] == "all")]
    mine = rows[(rows["scheme"] == "w4a4") & (rows["defense"] == "none")]["value"]
    curve = [point for point in points if (point["scheme"], point["panel"]) == ("w4a4", "Defense none")]
    assert [point["percent"] for point in curve] == sorted(point["percent"] for point in curve)
    for point in curve[1:]:
        assert 100 * (mine <= point["cosine"] + 1e-4).mean() >= point["percent"] - 1e-6
    assert curve[-1]["cosine"] == pytest.approx(mine.max(), abs=1e-4)


def test_gradients_that_are_all_zero_have_no_curve():
    rows = synthetic_diagnostics(defenses=("none",))
    zero = (rows["scheme"] == "w1a1") & (rows["diagnostic"] == "gradient_cosine")
    points = shown("gradient_cosine", group_of(rows.assign(value=rows["value"].mask(zero))))
    assert {point["scheme"] for point in points} == {"int8", "w4a4"}


def test_boxes_are_quartiles_before_and_after(group):
    boxes = shown("boundary_distance", group)
    assert len(boxes) == 3 * 2 * 2 * 2  # schemes, defenses, norms, networks
    table = group.table.set_index(["scheme", "defense", "part"])
    for box in boxes:
        norm, defense = box["panel"].split("\ndefense ")
        row = table.loc[box["scheme"], defense, "none" if box["network"] == "float" else "all"]
        column, unit = ("distance_l2", 1) if norm == "L2" else ("distance_linf", 255)
        found = [box["low"], box["median"], box["high"]]
        assert found == pytest.approx([row[f"{column}_{name}"] * unit for name in ("q1", "median", "q3")], abs=1e-4)


def test_distances_are_told_in_steps_of_sound_where_the_budget_is():
    rows = synthetic_diagnostics(defenses=("none",))
    robust = rows["diagnostic"] == "robust_correct"
    sound = group_of(rows.assign(magnitude=rows["magnitude"].mask(robust, 2 / 65535)))
    panels = {box["panel"] for box in shown("boundary_distance", sound)}
    assert panels == {"L2\ndefense none", "Linf, in 1/65535\ndefense none"}
    least = min(box["low"] for box in shown("boundary_distance", sound) if box["panel"].startswith("Linf"))
    assert least == pytest.approx(65535 * sound.table["distance_linf_q1"].min(), abs=1e-4)
    assert group_of(rows[~robust]).levels == 255


def test_a_defense_has_a_line_of_its_own_above_its_panel(group):
    facet = FIGURES["boundary_distance"](group).to_dict()["facet"]
    assert facet["header"]["labelExpr"] == r"split(datum.value, '\n')"


def test_where_no_error_was_found_a_box_ends_with_the_widest_other():
    rows = synthetic_diagnostics(schemes=("fp32", "int8"), defenses=("none",))
    far = (rows["part"] == "all") & (rows["diagnostic"] == "distance_l2")
    boxes = shown("boundary_distance", group_of(rows.assign(value=rows["value"].mask(far, np.inf))))
    before, after = (box for box in boxes if box["panel"].startswith("L2"))
    assert (before["network"], after["network"]) == ("float", "quantized")
    assert after["low"] == after["high"] == before["high"] and after["median"] is None
    assert after["told"] == "none found, none found, none found"


def test_the_shift_is_drawn_at_every_noise(group):
    points = shown("quantization_shift", group)
    assert {point["noise"] for point in points} == {0, 1, 2, 4, 8, 16}
    coarse = [point["percent"] for point in points if point["scheme"] == "w1a1" and point["noise"] == 16]
    fine = [point["percent"] for point in points if point["scheme"] == "int8" and point["noise"] == 16]
    assert len(coarse) == 4 and min(coarse) > max(fine)


@pytest.mark.parametrize("name", ["gradient_cosine", "quantization_shift"])
def test_schemes_keep_the_colours_of_the_charts_with_all_of_them(name, group):
    def scales(node):
        if isinstance(node, dict):
            if "scale" in node and "scheme" in str(node.get("field")) and "range" in node["scale"]:
                yield node["scale"]["domain"], node["scale"]["range"]
            for child in node.values():
                yield from scales(child)
        elif isinstance(node, list):
            for child in node:
                yield from scales(child)

    found = list(scales(FIGURES[name](group).to_dict()))
    assert (["int8", "w4a4", "w1a1"], COLOURS[1:4]) in found


def test_descriptions_say_what_is_drawn(group):
    assert set(SUBJECTS) == set(FIGURES)
    for name in FIGURES:
        assert SUBJECTS[name] in description(name, group) and group.title in description(name, group)
