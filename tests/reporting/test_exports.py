"""What tables and the page say of exported networks."""

import pandas as pd
import pytest

from stages.metrics.exports import disagreements_table, exports_table
from stages.reporting.exports import MOST_LISTED, Exports
from stages.reporting.page import page


def export(scheme, n, samples, opset=13):
    """What the JSON file of an export says, with disagreements on these samples."""
    variant = {"dataset": "fashion_mnist", "model": "resnet8", "scheme": scheme, "defense": "none", "seed": 0}
    rows = [
        {"sample": sample, "frozen": 3, "exported": 5, "frozen_margin": 0.0125, "exported_margin": 0.25}
        for sample in samples
    ]
    agreement = 1 - len(samples) / n
    return {"variant": variant, "opset": opset, "bytes": 93_000, "n": n, "agreement": agreement, "disagreements": rows}


def exports(*found):
    return Exports(exports_table(found), disagreements_table(found))


def test_there_is_a_row_for_each_network_and_one_for_each_disagreement():
    found = exports(export("w4a4", 2000, [7, 3, 11], opset=21), export("int8", 2000, [5]), export("w1a1", 1000, []))
    networks = found.networks.set_index("scheme")
    assert list(networks.index) == ["int8", "w1a1", "w4a4"]
    assert networks["disagreements"].tolist() == [1, 0, 3]
    assert networks["agreement"].tolist() == pytest.approx([0.9995, 1, 0.9985])
    assert networks["opset"].tolist() == [13, 13, 21] and (networks["bytes"] == 93_000).all()
    assert found.disagreements[["scheme", "sample"]].values.tolist() == [
        ["int8", 5],
        *(["w4a4", n] for n in (3, 7, 11)),
    ]
    assert (
        found.disagreements[["frozen", "exported", "frozen_margin", "exported_margin"]] == [3, 5, 0.0125, 0.25]
    ).all(axis=None)


def test_agreement_of_999_in_1000_is_enough_and_less_is_not():
    found = exports(export("int8", 1000, [1]), export("w4a4", 1000, [1, 2]))
    assert found.networks["agrees"].tolist() == [True, False]
    assert found.sentence == (
        "Not the networks that were evaluated, as less than 99.9 % of the predictions are the same: "
        "fashion_mnist-resnet8-w4a4-none-s0."
    )
    assert exports(export("int8", 1000, [1])).sentence == (
        "Each exported network predicts the same class on at least 99.9 % of the test inputs."
    )


def test_without_a_disagreement_the_tables_have_their_columns():
    found = exports(export("int8", 100, []))
    assert found.disagreements.empty
    assert list(found.disagreements)[-5:] == ["sample", "frozen", "exported", "frozen_margin", "exported_margin"]
    assert list(found.networks)[-6:] == ["opset", "bytes", "n", "agreement", "disagreements", "agrees"]
    assert found.listed == [] and found.unlisted == 0


def html_of(study, exports=None):
    _, table, groups = study
    settings = {"study": {"title": "A study", "question": "What holds?"}}
    return page(table, groups, [], [], settings["study"], settings, exports=exports)


def test_the_page_shows_files_and_lists_disagreements(default_study):
    html = html_of(default_study, exports(export("int8", 2000, [5]), export("w1a1", 2000, range(1990, 2000))))
    section = html.partition('<section id="exports"')[2].partition("</section>")[0]
    assert "data/exported/fashion_mnist-resnet8-int8-none-s0.onnx" in section
    assert "99.95 %<" in section and "99.50 % ✗" in section
    assert "less than 99.9 % of the predictions are the same: fashion_mnist-resnet8-w1a1-none-s0.</b>" in section
    assert section.count("3 (0.0125)</td>") == section.count("5 (0.25)</td>") == 11
    assert "export_disagreements.csv" not in section
    assert 'href="#exports"' in html


def test_of_many_disagreements_the_page_names_the_table_that_has_the_rest(default_study):
    html = html_of(default_study, exports(export("int8", 2000, range(MOST_LISTED + 1200))))
    assert html.count("3 (0.0125)</td>") == MOST_LISTED
    assert "1,200 more are in <code>export_disagreements.csv</code>" in html


def test_without_exports_there_is_no_such_section(default_study):
    html = html_of(default_study)
    assert 'id="exports"' not in html and 'href="#exports"' not in html


def test_columns_of_classes_are_whole_numbers():
    assert pd.api.types.is_integer_dtype(exports(export("int8", 100, [1])).disagreements["frozen"])
