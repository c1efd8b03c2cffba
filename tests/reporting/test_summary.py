import json
import subprocess
import sys

import pytest

from stages.metrics.results import csv_text, metrics, results
from stages.reporting.summary import print_summary
from tests.synthetic import synthetic_scores


@pytest.fixture
def results_folder(tmp_path):
    scores = synthetic_scores(schemes=("fp32",), defenses=("none", "fast_at"), samples=40, test_samples=40)
    table = results(scores, {})
    (tmp_path / "results.csv").write_text(csv_text(table))
    (tmp_path / "metrics.json").write_text(json.dumps(metrics(table, 8 / 255)))
    return tmp_path


def test_summary_shows_accuracies_flags_and_the_report_last(results_folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    print_summary(results_folder)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(results_folder / "report.html")
    assert any("8/255" in line for line in lines)
    accuracies = json.loads((results_folder / "metrics.json").read_text())["variants"]
    assert len(accuracies) == 3
    for variant, found in accuracies.items():
        line = next(line for line in lines if variant in line)
        assert f" {found['clean_accuracy']:.1%} " in line and f" {found['worst_case_accuracy']:.1%} " in line
        assert ("no_collapse" in line) == ("w1a1" in variant)
    assert any("zero_gradient" in line for line in lines)


def test_summary_before_a_run_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.json: missing, expected the results of a run"):
        print_summary(tmp_path)


def test_summary_does_not_import_pandas():
    check = "import sys, stages.reporting.summary; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
