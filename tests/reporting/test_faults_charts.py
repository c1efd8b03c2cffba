"""The report of a study that attacks memory: its tables, its figures and its page."""

from dataclasses import replace
from io import BytesIO
from types import SimpleNamespace

import pandas as pd
import pytest

from stages.artifacts.faults import save_faults, save_flipped
from stages.metrics.faults import BIT_FLIPS, FLIPPED_BITS, FLIPS_NEEDED
from stages.reporting.faults import FIGURES, SECTIONS, SUBJECTS, attacked, flipped_bits, flipped_layers
from stages.reporting.figures import svg
from stages.reporting.page import commands
from tests.metrics.test_faults_table import draw, frame
from tests.reporting.test_report import PRODUCTS, Inputs, write_report

TABLES = ["bit_flips.csv", "flips_needed.csv", "flipped_bits.csv"]
ASKED = [*PRODUCTS, *TABLES, *(f"figures/{figure}.svg" for figure in FIGURES)]


@pytest.fixture(scope="module")
def written(study, tmp_path_factory):
    """What the report writes with attacks on the memory of one of two networks, and without."""
    folder = tmp_path_factory.mktemp("study")
    scores, _, _ = study(schemes=("fp32", "int8"), defenses=("none",), also=(), epsilons=(0, 8 / 255))
    inputs = Inputs(folder, scores)
    inputs.write()
    without = write_report(inputs, folder / "without")
    faults = frame(*(draw(number, {1: 80, 5: 40 - number, 20: 9}, to_half=5, to_chance=20) for number in range(3)))
    facts = {column: faults[column].iloc[0] for column in ("dataset", "model", "scheme", "defense", "seed", "attack")}
    bit = facts | {
        "kind": "weights",
        "width": 8,
        "tensor": "weight",
        "place": 1,
        "index": 3,
        "before": 1,
        "after": -127,
        "loss": 2.0,
    }
    flipped = [bit | {"draw": 0, "flip": flip, "layer": "block1", "bit": place} for flip, place in enumerate((7, 7, 6))]
    stem = "fashion_mnist-resnet8-int8-none-s0-bit_flip_attack.parquet"
    save_faults(inputs.path(f"faults/{stem}"), faults)
    save_flipped(inputs.path(f"flipped/{stem}"), pd.DataFrame(flipped))
    return write_report(SimpleNamespace(paths=inputs.paths), folder / "with", products=ASKED), without


def test_tables_and_figures_are_there_and_nothing_else_changes(written):
    products, without = written
    flips = pd.read_csv(BytesIO(products["bit_flips.csv"]))
    assert flips["flips"].tolist() == [1, 5, 20] and flips["accuracy_median"].tolist() == [0.8, 0.39, 0.09]
    needed = pd.read_csv(BytesIO(products["flips_needed.csv"])).set_index("goal")
    assert needed[["least", "median", "most"]].to_dict("index") == {
        goal: dict.fromkeys(["least", "median", "most"], flips) for goal, flips in (("chance", 20), ("half", 5))
    }
    assert pd.read_csv(BytesIO(products["flipped_bits.csv"]))["flips"].tolist() == [1, 2]
    assert all(b"Nothing to draw" not in products[f"{figure}.svg"] for figure in FIGURES)
    drawn = [name for name in without if name.endswith(".svg")]
    assert {name: products[name] for name in drawn} == {name: without[name] for name in drawn}
    lines = set(without["results.csv"].decode().splitlines())
    assert lines < set(products["results.csv"].decode().splitlines())
    assert products["metrics.json"] == without["metrics.json"]


def test_the_page_has_their_sections_only_where_there_are_any(written):
    products, without = written
    for name in SECTIONS:
        assert f'id="{name}"' in products["report.html"].decode()
        assert f'id="{name}"' not in without["report.html"].decode()
    assert "<dt>Bit flip</dt>" in products["report.html"].decode()
    assert "Bit flip" not in without["report.html"].decode()
    assert set(SUBJECTS) == set(FIGURES) == set(SECTIONS)


def test_a_row_says_how_it_is_computed_again(written):
    products, _ = written
    table = pd.read_csv(BytesIO(products["results.csv"]), keep_default_na=False)
    found = [command for command, flips in zip(commands(table), table["flips"], strict=True) if flips]
    job = "python -m stages bitflip fashion_mnist-resnet8-int8-none-s0-bit_flip_attack --recompute"
    assert set(found) == {f"{job} && python -m stages report all --recompute"}


NETWORKS = [{"scheme": "binary", "defense": "pgd_at"}, {"scheme": "int8", "defense": "none"}]


def flipped(networks=NETWORKS, **columns):
    """What figures draw of one attack on an undefended network and on a defended one that has fewer bytes."""
    facts = {"dataset": "fashion_mnist", "model": "resnet8", "seed": 0, "attack": "bit_flip_attack"}
    word = {"tensor": "weight", "kind": "weights", "width": 8, "bit": 7, "place": 0, "layer": "stem", "flips": 2}
    bits = [
        facts | network | word | dict(zip(columns, values, strict=True))
        for network in networks
        for values in zip(*columns.values(), strict=True)
    ]
    (group,) = attacked(
        pd.DataFrame([facts | network for network in networks], columns=BIT_FLIPS),
        pd.DataFrame(columns=FLIPS_NEEDED),
        pd.DataFrame(bits, columns=FLIPPED_BITS),
        pd.DataFrame([{"scheme": "int8", "weight_bytes": 80_000}, {"scheme": "binary", "weight_bytes": 12_000}]),
    )
    return group


def test_flipped_layers_have_a_column_for_each_network_and_are_in_its_order():
    group = flipped(layer=("block", "stem", "stem"), place=(4, 0, 1), kind=("weights", "weights", "scales"))
    chart = flipped_layers(group)
    assert group.networks == ["int8 · none", "binary · pgd_at"]
    assert chart.facet.to_dict()["sort"] == ["bit flip attack"]
    assert chart.spec.width >= 8 * len("bit flip attack")  # the name of a panel is wider than two networks
    cells = chart.to_dict()["data"]["values"]
    assert {cell["network"] for cell in cells} == set(group.networks) and len(cells) == 6
    assert all(cell["percent"] == pytest.approx(100 / 3, abs=0.001) for cell in cells)
    drawn = svg([("", chart)], "")
    assert drawn.index(">stem<") < drawn.index(">stem scales<") < drawn.index(">block<")
    assert drawn.index(">int8 · none<") < drawn.index(">binary · pgd_at<")


def test_layers_are_in_the_order_of_networks_that_have_other_numbers_of_tensors():
    narrow = flipped(NETWORKS[:1], layer=("block", "classifier"), place=(2, 3), kind=("weights", "scales"))
    wide = flipped(NETWORKS[1:], layer=("block", "classifier"), place=(7, 9), kind=("biases", "biases"))
    both = replace(narrow, bits=pd.concat([wide.bits, narrow.bits]), networks=[*wide.networks, *narrow.networks])
    drawn = svg([("", flipped_layers(both))], "")
    rows = ("block", "block biases", "classifier scales", "classifier biases")
    places = [drawn.index(f">{row}<") for row in rows]
    assert places == sorted(places)


def test_flipped_bits_are_of_words_of_so_many_bits_and_the_highest_first():
    chart = flipped_bits(flipped(width=(32, 8, 8, 1), bit=(30, 6, 7, 0), flips=(1, 2, 1, 4)))
    cells = chart.to_dict()["data"]["values"]
    shares = {cell["row"]: cell["percent"] for cell in cells if cell["network"] == "int8 · none"}
    assert shares == {"30 of 32": 12.5, "6 of 8": 25, "7 of 8": 12.5, "0 of 1": 50}
    drawn = svg([("", chart)], "")
    places = [drawn.index(f">{row}<") for row in ("0 of 1", "7 of 8", "6 of 8", "30 of 32")]
    assert places == sorted(places)
