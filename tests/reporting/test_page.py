import json
import re
from html import unescape
from pathlib import Path

import pandas as pd
import pytest
import yaml

from stages import schemes
from stages.claims.claim import Claim, undecided
from stages.metrics.flags import MEANINGS
from stages.reporting.diagnostics import diagnosed
from stages.reporting.examples import Picture, Row, png
from stages.reporting.page import DIAGNOSTIC_SECTIONS, GLOSSARY, commands, page, table_columns
from tests.synthetic_diagnostics import footprints, synthetic_diagnostics

STUDY = {"title": "A <small> study", "question": "Does it & its like hold?"}
EVALUATION = {"epsilons": {"linf": [0.0, 8 / 255], "l2": [0.2]}, "headline_epsilon": {"linf": 8 / 255, "l2": 0.2}}
SETTINGS = {"study": STUDY, "evaluation": EVALUATION, "rate": 0.4, "defenses": {"fast_at": {"epsilon": 2 / 255}}}


def html_of(study, strip=(), diagnosed=(), claims=None):
    _, table, groups = study
    return page(table, groups, list(diagnosed), list(strip), STUDY, SETTINGS, claims)


@pytest.fixture(scope="module")
def html(default_study):
    return html_of(default_study)


def data_of(html):
    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    return json.loads(re.search(r"const DATA = (.*);", html).group(1), parse_constant=refuse)


def cells(column):
    return [column["values"][code] for code in column["codes"]] if "codes" in column else column["values"]


def row(threat, surrogate="", attack="pgd", seed="0"):
    variant = {"dataset": "cifar10", "model": "resnet8", "scheme": "int8", "defense": "none", "seed": seed}
    budget = {"norm": "", "epsilon": 0.0} if threat == "clean" else {"norm": "linf", "epsilon": 8 / 255}
    return variant | {"threat": threat, "surrogate": surrogate, "attack": attack} | budget


def test_commands_recompute_all_that_a_cell_rests_on():
    target, surrogate = "cifar10-resnet8-int8-none-s0", "cifar10-resnet8-fp32-none-s0"
    table = pd.DataFrame(
        [
            row("clean", attack="clean"),
            row("white_box"),
            row("noise", attack="noise"),
            row("transfer", surrogate),
            row("worst_case", attack="all"),
            row("white_box", seed="all"),
        ]
    )

    def chain(*jobs):
        return " && ".join(f"python -m stages {job} --recompute" for job in [*jobs, "report all"])

    crafted = [f"attack {target}-pgd", f"attack {target}-noise", f"attack {surrogate}-pgd"]
    assert commands(table) == [
        chain(f"score {target}-clean"),
        chain(crafted[0], f"score {target}-pgd"),
        chain(crafted[1], f"score {target}-noise"),
        chain(crafted[2], f"score {target}-pgd"),
        chain(*crafted, f"score {target}-pgd", f"score {target}-noise"),
        chain(crafted[0], f"score {target}-pgd"),
    ]


def test_the_table_holds_every_cell_of_the_result_table(default_study):
    _, table, _ = default_study
    _, columns = table_columns(table)
    shown = {column["key"]: cells(column) for column in columns}
    assert {len(values) for values in shown.values()} == {len(table)}
    assert shown["accuracy"] == table["accuracy"].round(9).tolist()
    assert shown["flags"] == table["flags"].tolist()
    assert shown["interval"][3] == (round(table["ci_low"][3], 6), round(table["ci_high"][3], 6))
    missing = table["mean_linf"].isna()
    assert [value is None for value in shown["mean_linf"]] == missing.tolist()


def test_black_box_rows_are_in_the_table_with_their_queries(black_box_study):
    _, table, _ = black_box_study
    constants, columns = table_columns(table)
    shown = pd.DataFrame({column["key"]: cells(column) for column in columns})
    square = shown[shown["attack"] == "square"]
    assert set(square["threat"]) == {"black_box"} and set(square["forwards"]) == {1000}
    assert not square["backwards"].any() and "norm" in constants
    assert all("-square --recompute && python -m stages score" in command for command in square["command"])
    html = html_of(black_box_study)
    for name in ("worst case", "noise", "pgd", "square (black box)"):
        assert f"<span>{name}</span>" in html
    assert "<dt>Black box</dt>" in html
    flagged = sum("black_box_beats_white_box" in flags.split(";") for flags in table["flags"])
    assert flagged and f"<code>black_box_beats_white_box</code> <small>{flagged} cells</small>" in html


def test_columns_with_one_value_stand_above_the_table(default_study, study):
    constants, columns = table_columns(default_study[1])
    expected = {"dataset": "fashion_mnist", "model": "resnet8", "seed": "0", "norm": "linf", "grid": "digital"}
    assert constants == expected | {"flips": "0"}
    assert not {column["key"] for column in columns} & set(constants)
    several = study(datasets=("cifar10", "fashion_mnist"), schemes=("int8",), defenses=("none",), also=())
    constants, columns = table_columns(several[1])
    assert "dataset" not in constants
    assert "dataset" in {column["key"] for column in columns}


def test_the_same_study_gives_the_same_bytes(default_study, html):
    assert html_of(default_study) == html


def test_the_page_asks_nothing_of_any_server(html):
    assert "default-src 'none'" in html
    vega = max(html.split("<script>"), key=len)
    assert not re.search(r"<link|<iframe|src=\"(?!data:)|@import|url\(|fetch\(", html.replace(vega, ""))


def test_text_from_the_settings_is_escaped(html):
    assert "A &lt;small&gt; study" in html
    assert "Does it &amp; its like hold?" in html
    assert "<small> study" not in html


def test_settings_show_epsilons_as_people_write_them(html):
    settings = re.search(r"<pre tabindex=\"0\">(.*?)</pre>", html, re.S).group(1)
    written = yaml.safe_load(settings)
    assert written["evaluation"] == {
        "epsilons": {"linf": [0, "8/255"], "l2": [0.2]},
        "headline_epsilon": {"linf": "8/255", "l2": 0.2},  # which is 51/255, and no multiple of anything in L2
    }
    assert written["rate"] == 0.4
    assert written["defenses"] == {"fast_at": {"epsilon": "2/255"}}


def test_cells_of_several_norms_are_told_apart(two_norm_study):
    _, table, _ = two_norm_study
    constants, columns = table_columns(table)
    assert "norm" not in constants
    shown = pd.DataFrame({column["key"]: cells(column) for column in columns})
    assert shown["norm"].tolist() == table["norm"].tolist()
    labels = {norm: set(rows["epsilon"]) for norm, rows in shown.groupby("norm")}
    assert labels == {"": {"0"}, "linf": {"0", "8/255", "any"}, "l2": {"0", "0.25", "0.5", "any"}}
    (epsilon,) = (column for column in columns if column["key"] == "epsilon")
    numbers = dict(zip(epsilon["values"], epsilon["order"], strict=True))
    assert numbers == {"0": 0, "8/255": pytest.approx(8 / 255), "0.25": 0.25, "0.5": 0.5, "any": None}
    assert {column["key"] for column in columns if column.get("filter")} >= {"norm", "epsilon"}
    assert {column["key"] for column in columns if column.get("extra")} >= {"mean_l1", "eot_samples"}
    assert "norm" in table_columns(table[table["norm"] != "l2"].reset_index(drop=True))[0]


def test_commands_recompute_a_minimal_norm_attack_at_any_epsilon(two_norm_study):
    _, table, _ = two_norm_study
    mine = (table["attack"] == "deepfool") & (table["scheme"] == "int8") & (table["defense"] == "none")
    item = "fashion_mnist-resnet8-int8-none-s0-deepfool"
    job = f"python -m stages attack {item} --recompute && python -m stages score {item} --recompute"
    assert mine.sum() == 4
    found = pd.Series(commands(table))[mine]
    assert set(found) == {f"{job} && python -m stages report all --recompute"}


def test_a_page_of_several_norms_names_them(two_norm_study):
    html = html_of(two_norm_study)
    data_of(html)  # is JSON: no cell has an infinite number
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html)
    assert captions.count("fashion_mnist · resnet8 · L2") == 5  # also of the one figure of distances
    assert set(captions) == {"fashion_mnist · resnet8 · Linf", "fashion_mnist · resnet8 · L2"}
    assert "(row) at Linf epsilon 8/255 and L2 epsilon 0.5." in html
    series = [set(json.loads(unescape(found))) for found in re.findall(r'data-series="([^"]*)"', html)]
    assert [{name.split(" (")[0] for name in names if "transferred" not in name} for names in series] == [
        {"worst case", "pgd"},
        {"worst case", "pgd_l2", "deepfool"},
    ]
    for word in ("Norm", "Epsilon any", "Minimal-norm attack", "Distance", "Adaptive", "BPDA", "EOT"):
        assert f"<dt>{word}</dt>" in html


def test_distances_are_told_to_those_who_cannot_see_them(two_norm_study):
    _, _, (_, in_l2) = two_norm_study
    (text,) = (
        text for text in re.findall(r'role="img" aria-label="([^"]*)"', html_of(two_norm_study)) if "Median" in text
    )
    assert all(f"({variant})" in text for variant in in_l2.distances["variant"] if variant != "w1a1 · none")
    assert "None was found for more than half of the samples of w1a1 · none." in text
    assert "1 of 10 variants are flagged." in text


def test_every_number_format_is_in_the_glossary():
    formats = {file.stem for file in Path(schemes.__file__).parent.glob("[!_]*.py")}
    assert len(formats) >= 4
    assert {"fp32", *formats} <= set(re.findall(r"\w+", GLOSSARY["Scheme"]))


def test_every_flag_is_explained_with_its_count(default_study, html):
    flags = default_study[1]["flags"]
    for flag in MEANINGS:
        count = sum(flag in joined.split(";") for joined in flags)
        assert re.search(rf"<code>{flag}</code> <small>{count} cells?</small>", html)


def test_figures_that_do_not_apply_say_why(study):
    html = html_of(study(transfer=(), schemes=("int8",), defenses=("none",), also=(), epsilons=(0, 8 / 255)))
    assert "No attack was transferred between variants." in html
    assert len(data_of(html)["charts"]) == 3


def test_every_figure_has_a_text_alternative(html):
    charts = re.findall(r'<div class="chart" role="img" aria-label="([^"]*)"', html)
    assert len(charts) == len(data_of(html)["charts"]) == 4
    assert all("fashion_mnist · resnet8" in text for text in charts)


def test_the_strip_tells_right_from_wrong_predictions_without_colour(default_study):
    uri = png(default_study[0][["label"]].head(4).to_numpy("uint8").reshape(1, 2, 2))
    rows = [
        Row("Original", "true label", [Picture(uri, "cat", None), Picture(uri, "dog", None)]),
        Row("pgd on int8 · none", "predicted label", [Picture(uri, "dog", False), Picture(uri, "dog", True)]),
    ]
    html = html_of(default_study, rows)
    assert '<span class="wrong">dog ✗</span>' in html
    assert "<span>dog ✓</span>" in html
    assert html.count('alt="pgd on int8 · none, image') == 2
    assert 'id="examples"' in html
    assert 'id="examples"' not in html_of(default_study)


def test_the_page_stays_small(html):
    assert len(html.encode()) < 1_500_000


def test_what_an_extended_evaluation_measured_has_its_sections(default_study):
    rows = synthetic_diagnostics()
    extended, plain = (html_of(default_study, diagnosed=found) for found in (diagnosed(rows, footprints(rows)), ()))
    for name in DIAGNOSTIC_SECTIONS:
        assert f'<section id="{name}"' in extended and f'<section id="{name}"' not in plain
    assert "distribution of the cosine between float and quantized input gradients" in extended


def test_claims_stand_before_the_figures_with_their_answers_in_words(default_study, html):
    claims = [
        Claim("accuracy <of> a", 87.5, 12.3456, 10.0, float("inf"), "yes", "50 images"),
        Claim("ratio of b", "increases", 28232.1, float("-inf"), 30000.0, "no", ""),
        Claim("c", "", float("nan"), 0.001234, 1.0, "undecided", ""),
        undecided("d", 1, "pgd was not run"),
    ]
    told = html_of(default_study, claims=claims)
    assert "Claims: 4; holds: 1, does not hold: 1, undecided: 2." in told
    assert '<a href="#claims">' in told and told.index('id="claims"') < told.index('id="heatmap"')
    rows = re.findall(r'<tr><th scope="row">([^<]*)</th>(<td.*?)</tr>', told.split('id="claims"')[1])
    shown = {name: re.findall(r"<td[^>]*>(.*?)</td>", cells) for name, cells in rows}
    assert shown == {
        "accuracy &lt;of&gt; a": ["87.5", "12.3", "10 to ∞", "holds", "50 images"],
        "ratio of b": ["increases", "28,232", "-∞ to 30,000", "does not hold", ""],
        "c": ["–", "–", "0.00123 to 1", "undecided", ""],
        "d": ["1", "–", "–", "undecided", "pgd was not run"],
    }
    assert "claims-title" not in html
