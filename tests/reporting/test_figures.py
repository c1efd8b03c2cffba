import json
import re
from dataclasses import replace
from math import inf
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from stages.reporting.distances import distances
from stages.reporting.figures import (
    BLACK_TEXT_FROM,
    COLOURS,
    FIGURES,
    SHAPES,
    THEMES,
    WORST_CASE,
    Group,
    _with_names,
    description,
    epsilon_curves,
    hatch,
    on_front,
    series_names,
    specification,
    svg,
    transfer_cells,
)
from stages.reporting.figures import groups as make_groups
from tests.reporting.conftest import HEADLINES, footprints, limited


def drawing(name, groups):
    return svg([(group.title, FIGURES[name](group)) for group in groups], "Nothing to draw.")


def texts(drawn):
    return [element.text for element in ElementTree.fromstring(drawn).iter() if element.text and element.text.strip()]


def contrast(first, second):
    """WCAG 2 contrast ratio of two #rrggbb colours."""

    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted([luminance(first), luminance(second)], reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_hatching_stays_in_its_box_and_runs_diagonally():
    lines = [[float(x) for x in re.findall(r"-?[\d.]+", line)] for line in hatch(64, 48, 7).split("M")[1:]]
    assert len(lines) == 16
    for x1, y1, x2, y2 in lines:
        assert max(abs(x1), abs(x2)) <= 32
        assert max(abs(y1), abs(y2)) <= 24
        assert x2 - x1 == pytest.approx(y2 - y1)


def test_front_is_what_no_smaller_unflagged_point_matches():
    points = pd.DataFrame(
        [(10, 50, True), (20, 40, False), (20, 30, False), (30, 40, False), (40, 60, False), (50, 55, False)],
        columns=["kilobytes", "percent", "flagged"],
        index=[5, 4, 3, 2, 1, 0],
    )
    assert on_front(points).to_dict() == {5: False, 4: True, 3: False, 2: False, 1: True, 0: False}


def test_front_of_flagged_points_only_is_empty():
    points = pd.DataFrame({"kilobytes": [1, 2], "percent": [1.0, 2.0], "flagged": [True, True]})
    assert not on_front(points).any()


def test_axes_put_the_largest_scheme_and_no_defense_first(default_study):
    (group,) = default_study[2]
    assert group.schemes == ["fp32", "int8", "w4a4", "w1a1"]
    assert group.defenses == ["none", "fast_at", "jacobian"]
    assert len(group.variants) == 10


def test_heatmap_prints_each_variant_once_clean_and_once_attacked(default_study):
    _, _, (group,) = default_study
    chart = specification(FIGURES["heatmap"](group))
    values = chart["data"]["values"]
    assert len(values) == 20
    shown = {(cell["panel"], cell["variant"]): cell["percent"] for cell in values}
    worst = group.worst_case().set_index("variant")["accuracy"]
    assert shown["Worst case, epsilon 8/255", "int8 · fast_at"] == pytest.approx(
        100 * worst["int8 · fast_at"], abs=1e-3
    )


def test_flagged_cells_and_no_others_are_hatched(default_study, study):
    lines = hatch(64, 48, 7)
    flagged = default_study[2][0]
    drawn = drawing("heatmap", [flagged])
    assert flagged.worst_case()["flagged"].sum() == 1
    assert drawn.count(lines[:20]) == 1
    clean_study = study(also=(), schemes=("int8",), epsilons=(0, 8 / 255))[2]
    assert drawing("heatmap", clean_study).count(lines[:20]) == 0


def test_rows_at_epsilon_one_are_in_no_figure(default_study):
    _, table, (group,) = default_study
    assert (table["epsilon"] == 1).any()
    assert group.rows["epsilon"].max() == pytest.approx(8 / 255)


def test_curves_offer_worst_case_first_and_the_strongest_surrogate(default_study):
    (group,) = default_study[2]
    names = series_names(group)
    assert names == [WORST_CASE, "fgsm", "noise", "pgd", "transferred pgd, strongest surrogate"]
    curves = epsilon_curves(group)
    strongest = curves[curves["series"] == names[-1]].set_index(["variant", "epsilon"])["accuracy"]
    transfer = group.rows[group.rows["threat"] == "transfer"]
    pd.testing.assert_series_equal(
        strongest.sort_index(), transfer.groupby(["variant", "epsilon"])["accuracy"].min(), check_names=False
    )


def test_curves_tell_black_box_from_white_box_and_noise(black_box_study):
    (group,) = black_box_study[2]
    assert series_names(group) == [WORST_CASE, "noise", "pgd", "square (black box)"]
    curves = epsilon_curves(group)
    assert set(curves.loc[curves["series"] == "square (black box)", "threat"]) == {"black_box"}


def test_a_worst_case_of_replays_alone_is_not_drawn(default_study):
    (group,) = default_study[2]
    worst_case = group.rows["threat"] == "worst_case"
    of_int8 = worst_case & (group.rows["scheme"] == "int8")
    flags = group.rows["flags"].where(~of_int8, "non_monotone;only_transferred")
    curves = epsilon_curves(replace(group, rows=group.rows.assign(flags=flags)))
    drawn = curves[curves["series"] == WORST_CASE]
    assert set(drawn.loc[drawn["scheme"] == "int8", "epsilon"]) == {0}
    assert (drawn["scheme"] != "int8").sum() == (worst_case & ~of_int8).sum() > 0


def test_a_filter_stands_beside_the_undefended_in_the_curve_of_an_attack(limited_study):
    (group,) = limited_study[2]
    assert series_names(group) == [WORST_CASE, "fgsm", "pgd", "square (black box)"]
    chart = specification(FIGURES["accuracy_vs_epsilon"](group))
    drawn = {(value["defense"], value["threat"]) for value in chart["data"]["values"] if value["series"] == "pgd"}
    assert drawn == {("none", "white box"), ("pixel_defend", "adaptive")}
    told = [layer["encoding"].get("tooltip", []) for layer in chart["spec"]["layer"]]
    assert "threat" in {tooltip["field"] for tooltips in told for tooltip in tooltips}


def test_cells_over_another_number_of_samples_say_so(limited_study):
    (group,) = limited_study[2]
    cells = specification(FIGURES["heatmap"](group))["data"]["values"]
    counts = {(cell["panel"], cell["defense"]): (cell["count"], cell["samples"]) for cell in cells}
    worst_case = "Worst case, epsilon 8/255"
    assert len(cells) == 12
    assert counts == {
        (worst_case, "none"): (None, "100"),
        (worst_case, "pixel_defend"): ("n = 8", "8"),
        ("Clean", "none"): (None, "1,200"),
        ("Clean", "pixel_defend"): ("n = 8", "8"),
    }
    assert texts(drawing("heatmap", [group])).count("n = 8") == 6
    assert re.search(r" % \([^)]*, 8 samples\)", description("heatmap", group))


def test_no_cell_tells_its_samples_where_all_have_as_many(default_study):
    (group,) = default_study[2]
    assert "n = " not in drawing("heatmap", [group]) and "samples)" not in description("heatmap", group)


def test_without_attacks_the_clean_cells_are_drawn(study):
    groups = study(attacks=(), transfer=(), schemes=("fp32", "int8"), defenses=("none",), also=())[2]
    for name in ("heatmap", "pareto"):
        assert "int8" in texts(drawing(name, groups))
    assert "n = " not in drawing("heatmap", groups)


def test_samples_of_several_seeds_are_those_of_each():
    (group,) = limited(8, seeds=(0, 1))[2]
    cells = specification(FIGURES["heatmap"](group))["data"]["values"]
    assert {cell["samples"] for cell in cells} == {"100 × 2 seeds", "1,200 × 2 seeds", "8 × 2 seeds"}
    assert {cell["count"] for cell in cells} == {None, "n = 8"}


def test_schemes_of_equal_size_share_one_name(limited_study):
    (group,) = limited_study[2]
    values = specification(FIGURES["pareto"](group))["data"]["values"]
    for panel in ("Clean", "Worst case, epsilon 8/255"):
        names = {value["names"]: value["middle"] for value in values if value["panel"] == panel and value["names"]}
        assert names == {"fp32": 312, "int16x8\nint8": 80}
    drawn = texts(drawing("pareto", [group]))
    assert [drawn.count(name) for name in group.schemes] == [2, 2, 2]


def test_names_of_many_schemes_stand_steep_on_one_line_each(limited_study):
    (group,) = limited_study[2]
    crowded = replace(group, schemes=[*group.schemes, "w4a4", "w2a2", "w1a1"])
    values = specification(FIGURES["pareto"](crowded))["data"]["values"]
    assert {value["names"] for value in values} == {"fp32", "int16x8, int8", None}
    assert drawing("pareto", [crowded]).count("rotate(300)") == 4 > drawing("pareto", [group]).count("rotate(300)")


def test_a_filter_s_bytes_move_no_name():
    points = pd.DataFrame({"scheme": ["int8"] * 3 + ["int16x8"] * 3, "kilobytes": [80, 80, 430, 80, 80, 520]})
    named = _with_names(points, ["int16x8", "int8"], "\n")
    assert set(named["middle"]) == {80} and named["names"].dropna().tolist() == ["int16x8\nint8"]


def test_each_norm_has_its_group_in_the_order_of_the_headlines(two_norm_study):
    groups = two_norm_study[2]
    assert [group.norm for group in groups] == ["linf", "l2"]
    assert [group.title.split(" · ")[-1] for group in groups] == ["Linf", "L2"]
    assert [group.headline for group in groups] == [HEADLINES["linf"], 0.5]
    for group in groups:
        assert set(group.rows["norm"]) == {"", group.norm}
        assert np.isfinite(group.rows["epsilon"]).all() and group.rows["epsilon"].max() < 1
        assert set(group.worst_case()["epsilon"]) == {group.headline}
    assert (two_norm_study[1]["epsilon"] == inf).any()


def test_what_a_filter_stores_makes_no_number_format_larger(study):
    scores, table, _ = study(
        schemes=("fp32", "int8"), defenses=("none",), also=(("int8", "fast_at"),), epsilons=(0, HEADLINES["linf"])
    )
    variants = footprints(table)
    assert set(variants["defense"]) == {"none", "fast_at"}
    variants.loc[variants["defense"] == "fast_at", "weight_bytes"] += 350_600
    (group,) = make_groups(table, variants, HEADLINES, distances(scores, table))
    assert group.schemes == ["fp32", "int8"]


def test_axes_are_in_the_units_of_their_norm(two_norm_study):
    titles = [set(texts(drawing("accuracy_vs_epsilon", [group]))) for group in two_norm_study[2]]
    assert "Epsilon (in 1/255)" in titles[0] and "Epsilon (L2)" in titles[1]
    in_l2 = specification(FIGURES["accuracy_vs_epsilon"](two_norm_study[2][1]))
    assert {value["size"] for value in in_l2["data"]["values"]} == {0, 0.25, 0.5}
    assert {"0.25", "0.5"} <= titles[1]
    panels = {value["panel"] for value in specification(FIGURES["heatmap"](two_norm_study[2][1]))["data"]["values"]}
    assert panels == {"Worst case, L2 epsilon 0.5", "Clean"}


def test_adaptive_attacks_are_on_the_diagonal_of_the_transfer_matrix(study):
    scores, table, _ = study(schemes=("int8", "w4a4"), defenses=("none",), also=(), epsilons=(0, 8 / 255))
    table["threat"] = table["threat"].replace({"white_box": "adaptive"})
    (group,) = make_groups(table, footprints(table), HEADLINES, distances(scores, table))
    cells = transfer_cells(group)
    assert set(cells.loc[cells["surrogate"] == cells["variant"], "threat"]) == {"adaptive"}
    assert len(cells) == 4


def distance_values(group):
    chart = specification(FIGURES["distance"](group))
    return {value["variant"]: value for value in json.loads(json.dumps(chart["data"]["values"], allow_nan=False))}


def test_distance_draws_quartiles_and_what_is_missing(two_norm_study):
    _, _, (_, group) = two_norm_study
    values = distance_values(group)
    assert len(values) == len(group.distances) == 10
    expected = group.distances.set_index("variant")
    plain, masked = values["int8 · none"], values["w1a1 · none"]
    for name in ("low", "median", "high"):
        assert plain[name] == pytest.approx(expected.loc["int8 · none", name], abs=1e-4)
    assert plain["end"] == plain["high"] and not plain["is_open"]
    assert plain["label"] == f"{plain['median']:.3g}"
    assert plain["found_for"] == "found for 100 %"
    assert masked["median"] is None and masked["high"] is None and masked["is_open"]
    share = expected.loc["w1a1 · none", "found"]
    assert 0.25 < share < 0.5 and masked["label"] == f"found for {100 * share:.0f} %, flagged"
    assert masked["median_told"] == "none found"
    assert masked["end"] > max(value["high"] for value in values.values() if value["high"])
    assert masked["flagged"] and not plain["flagged"]
    assert masked["label"] in texts(drawing("distance", [group]))


def test_distance_in_linf_counts_steps_of_the_grid():
    rows = pd.DataFrame(
        [("int8", 1 / 255, 2.5 / 255, inf), ("w4a4", inf, inf, inf)], columns=["scheme", "low", "median", "high"]
    ).assign(defense="none", found=0.6, n=5, attacks="deepfool_linf", flags="", flagged=False)
    rows["variant"] = rows["scheme"]
    group = Group("t", "t", "linf", 8 / 255, "", None, rows, None, ["int8", "w4a4"], ["none"])
    values = distance_values(group)
    assert (values["int8"]["median"], values["int8"]["label"]) == (2.5, "2.5/255")
    assert values["int8"]["is_open"] and not values["w4a4"]["is_open"]  # no bar, so no arrow on it
    assert "Distance (in 1/255)" in texts(drawing("distance", [group]))
    assert "found for 60 %" in texts(drawing("distance", [group]))


def test_distance_ends_where_one_quartile_would_leave_the_rest_no_room():
    rows = pd.DataFrame(
        [("int8", 1.0, 2.0, 3.0), ("w1a1", 1.0, 2.0, 400.0)], columns=["scheme", "low", "median", "high"]
    ).assign(defense="none", found=1.0, n=5, attacks="ddn", flags="", flagged=False)
    rows["variant"] = rows["scheme"]
    group = Group("t", "t", "l2", 0.5, "", None, rows, None, ["int8", "w1a1"], ["none"])
    values = distance_values(group)
    assert (values["int8"]["end"], values["int8"]["is_open"]) == (3, False)
    assert (values["w1a1"]["end"], values["w1a1"]["is_open"], values["w1a1"]["high_told"]) == (16, True, "400")


def test_distance_is_drawn_where_nothing_was_found_at_all():
    rows = pd.DataFrame([("int8", inf, inf, inf)], columns=["scheme", "low", "median", "high"])
    rows = rows.assign(defense="none", found=0.0, n=5, attacks="jsma", flags="", flagged=False, variant="int8")
    group = Group("t", "t", "l0", 9, "", None, rows, None, ["int8"], ["none"])
    assert {"found for 0 %", "Distance (L0, values changed)"} <= set(texts(drawing("distance", [group])))
    assert "none is known" in description("distance", group)


def test_without_minimal_norm_attacks_there_is_no_distance(default_study):
    assert texts(drawing("distance", default_study[2])) == ["Nothing to draw."]


def test_transfer_matrix_is_complete_with_white_box_on_its_diagonal(default_study):
    (group,) = default_study[2]
    cells = transfer_cells(group)
    assert len(cells) == 100
    assert set(cells.loc[cells["surrogate"] == cells["variant"], "threat"]) == {"white_box"}
    assert set(cells.loc[cells["surrogate"] != cells["variant"], "threat"]) == {"transfer"}


def test_several_seeds_are_drawn_once_over_all_seeds(study):
    _, _, (group,) = study(seeds=(0, 1), schemes=("fp32", "int8"), defenses=("none",), also=(), epsilons=(0, 8 / 255))
    assert set(group.rows["seed"]) == {"all"}
    assert set(transfer_cells(group)["surrogate"]) == {"fp32 · none", "int8 · none"}
    assert len(transfer_cells(group)) == 4


def test_each_dataset_and_model_has_its_group(study):
    _, _, groups = study(
        datasets=("cifar10", "fashion_mnist"), schemes=("int8",), defenses=("none",), also=(), epsilons=(0, 8 / 255)
    )
    assert [group.title for group in groups] == ["cifar10 · resnet8", "fashion_mnist · resnet8"]
    assert {"cifar10 · resnet8", "fashion_mnist · resnet8"} <= set(texts(drawing("pareto", groups)))


@pytest.mark.parametrize("name", FIGURES)
def test_drawings_have_proper_titles_and_the_same_bytes_each_time(name, two_norm_study):
    groups = two_norm_study[2]
    drawn = drawing(name, groups)
    assert drawn == drawing(name, groups)
    titles = {
        "heatmap": {"Scheme", "Defense", "Accuracy (%)"},
        "accuracy_vs_epsilon": {"Epsilon (in 1/255)", "Robust accuracy (%)"},
        "distance": {"Scheme", "Distance (L2)"},
        "transfer": {"Surrogate", "Target", "Accuracy (%)"},
        "pareto": {"Weights (kB)", "Accuracy (%)"},
    }
    assert titles[name] <= set(texts(drawn))


def test_without_transfer_the_drawing_says_so(study):
    groups = study(transfer=(), schemes=("int8",), also=(), epsilons=(0, 8 / 255))[2]
    assert texts(drawing("transfer", groups)) == ["Nothing to draw."]


def test_description_names_the_extremes(default_study):
    (group,) = default_study[2]
    text = description("heatmap", group)
    worst = group.worst_case()
    assert f"{worst['percent'].max():.1f} %" in text
    assert "1 of 10 variants are flagged" in text


@pytest.mark.parametrize("theme", THEMES)
def test_marks_and_text_stand_out_from_the_page(theme):
    colours = THEMES[theme]
    assert all(contrast(colour, colours["paper"]) >= 3 for colour in COLOURS)
    assert contrast(colours["soft"], colours["paper"]) >= 4.5
    assert contrast(colours["ink"], colours["paper"]) >= 7


def test_colour_and_shape_together_tell_many_categories_apart():
    pairs = {(COLOURS[i % len(COLOURS)], SHAPES[i % len(SHAPES)]) for i in range(56)}
    assert len(pairs) == 56


def test_numbers_are_readable_at_the_switch_from_white_to_black():
    viridis_at_switch = "#25828e"  # d3's viridis at 0.45
    assert BLACK_TEXT_FROM == 45
    assert min(contrast(viridis_at_switch, text) for text in ("#000000", "#ffffff")) >= 4.4
