import json
import subprocess
import sys

import pytest

from stages.metrics.results import csv_text, metrics, results
from stages.reporting.summary import print_summary
from tests.synthetic import synthetic_scores


def write_results(folder, norm, headline, **options):
    options = {"schemes": ("fp32",), "defenses": ("none", "fast_at"), "samples": 40, "test_samples": 40} | options
    table = results(synthetic_scores(**options), {})
    (folder / "results.csv").write_text(csv_text(table))
    (folder / "metrics.json").write_text(json.dumps(metrics(table, norm, headline)))
    return table


@pytest.fixture
def results_folder(tmp_path):
    write_results(tmp_path, "linf", 8 / 255)
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


def test_summary_is_of_the_norm_of_the_headline_numbers(tmp_path, capsys, monkeypatch):
    """Both norms have epsilon 1: in Linf as a check of PGD, which a masked network does not pass."""
    monkeypatch.setenv("COLUMNS", "80")
    attacks = {"attacks": ("pgd", "deepfool"), "transfer": ()}
    table = write_results(tmp_path, "l2", 1.0, **attacks)
    print_summary(tmp_path)
    out = capsys.readouterr().out
    assert "L2 1" in out and "/255" not in out
    worst = table[(table["norm"] == "l2") & (table["threat"] == "worst_case") & (table["epsilon"] == 1)]
    for _, row in worst.iterrows():
        line = next(line for line in out.splitlines() if f"{row['scheme']}-{row['defense']}-s0" in line)
        assert f" {row['accuracy']:.1%} " in line
    masked = worst[worst["scheme"] == "w1a1"]["flags"].item()
    assert masked and all(out.count(flag) == 1 for flag in masked.split(";"))


def test_summary_before_a_run_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.json: missing, expected the results of a run"):
        print_summary(tmp_path)


def test_summary_does_not_import_pandas():
    check = "import sys, stages.reporting.summary; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
