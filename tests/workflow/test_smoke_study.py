"""The smoke study in a fresh copy of the repository: real stages, Snakemake and DVC, from raw data to report."""

import json
import shutil
import subprocess

import pandas as pd
import pytest
import yaml

from stages.metrics.results import COLUMNS
from stages.reporting.page import commands
from tests.workflow.conftest import REPOSITORY, Project

pytestmark = pytest.mark.workflow

STUDY = "studies/smoke"
VARIANTS = {
    "fashion_mnist-tiny_cnn-fp32-none-s0",
    "fashion_mnist-tiny_cnn-int8-fast_at-s0",
    "fashion_mnist-tiny_cnn-w4a4-jacobian-s0",
    "fashion_mnist-tiny_cnn-w1a1-none-s0",
}


def copy_of_repository(folder):
    """The repository's files in a new repository, without results and cache."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    files = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        if name.startswith(("data/published/files/", "data/published/runs/")):
            continue
        if (REPOSITORY / name).is_file():  # deleted files are listed too
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
    (folder / STUDY / "dvc.lock").unlink(missing_ok=True)
    made = Project(folder)
    assert made.run("git", "init", "-q").returncode == 0
    return made


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A copy of the repository in which the smoke study was run once."""
    made = copy_of_repository(tmp_path_factory.mktemp("smoke") / "project")
    made.first = run(made)
    return made


def run(project, *options):
    return project.snakemake("--config", "study=smoke", *options)


def to_run(project):
    """The jobs that a run would compute, by rule."""
    said = run(project, "-n")
    if "Nothing to be done" in said:
        return {}
    rows = said.partition("Job stats:")[2].partition("total")[0].splitlines()
    pairs = [row.split() for row in rows if len(row.split()) == 2 and row.split()[1].isdigit()]
    return {rule: int(count) for rule, count in pairs if rule != "all"}


def set_params(project, change):
    file = project.folder / STUDY / "params.yaml"
    before = file.read_text()
    params = yaml.safe_load(before)
    change(params)
    file.write_text(yaml.safe_dump(params))
    return lambda: file.write_text(before)


def edit(project, name, old, new):
    file = project.folder / name
    before = file.read_text()
    assert old in before
    file.write_text(before.replace(old, new))
    return lambda: file.write_text(before)


def test_it_ends_with_a_table_and_the_report(smoke):
    last = smoke.first.splitlines()
    assert last[-1].endswith(f"{STUDY}/data/results/report.html")
    assert all(any(name in line for line in last[-12:]) for name in VARIANTS)
    report = (smoke.folder / STUDY / "data/results/report.html").read_text()
    assert "</html>" in report
    assert "Smoke test" in report


def test_the_result_table_has_a_row_for_every_cell(smoke):
    results = pd.read_csv(smoke.folder / STUDY / "data/results/results.csv", keep_default_na=False)
    assert list(results.columns) == list(COLUMNS)
    clean = results[results["threat"] == "clean"]
    assert len(clean) == len(VARIANTS)
    assert (clean["n"] == 2000).all()
    params = yaml.safe_load((smoke.folder / STUDY / "params.yaml").read_text())
    for norm, epsilons in params["evaluation"]["epsilons"].items():  # each has one attack
        counts = results.loc[results["norm"] == norm, "threat"].value_counts()
        assert counts["white_box"] == len(VARIANTS) * (len(epsilons) + 1)  # and where any input is allowed
        assert counts["worst_case"] == len(VARIANTS) * len(epsilons)
        replayed = len(VARIANTS) * (len(VARIANTS) - 1) * len(epsilons)
        assert counts.get("transfer", 0) == (replayed if norm == "linf" else 0)
    assert (results["accuracy"].between(results["ci_low"] - 1e-6, results["ci_high"] + 1e-6)).all()


def test_networks_learn_and_attacks_bite(smoke):
    metrics = json.loads((smoke.folder / STUDY / "data/results/metrics.json").read_text())["variants"]
    assert set(metrics) == VARIANTS
    for name, numbers in metrics.items():
        assert numbers["clean_accuracy"] > 0.3, name
        assert numbers["worst_case_accuracy"] < numbers["clean_accuracy"], name


def test_a_second_run_and_dvc_find_nothing_to_do(smoke):
    assert to_run(smoke) == {}
    assert "Nothing to be done" in run(smoke)
    status = smoke.dvc("status", f"{STUDY}/dvc.yaml")
    assert "up to date" in status
    shown = smoke.dvc("metrics", "show", f"{STUDY}/data/results/metrics.json")
    assert "clean_accuracy" in shown


@pytest.mark.parametrize("kind", ["clean", "white_box", "transfer", "worst_case"])
def test_the_report_s_commands_recompute_a_cell_to_the_same_bytes(smoke, kind):
    """Run as printed, in a shell in the study's folder."""
    folder = smoke.folder / STUDY
    table = pd.read_csv(folder / "data/results/results.csv", keep_default_na=False)
    command = commands(table)[table.index[(table["threat"] == kind) & (table["scheme"] == "w1a1")][-1]]
    before = {path: path.read_bytes() for path in sorted((folder / "data").rglob("*")) if path.is_file()}
    done = subprocess.run(
        command, shell=True, cwd=folder, env=smoke.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "restored from the cache" not in done.stderr
    assert {path: path.read_bytes() for path in before} == before


def test_every_result_comes_back_from_the_cache(smoke):
    data = smoke.folder / STUDY / "data"
    before = (data / "results/report.html").read_bytes()
    made = (
        "adversarial",
        "scores",
        "probes",
        "diagnostics",
        "trained",
        "defended",
        "quantized",
        "exported",
        "prepared",
        "results",
    )
    for name in made:
        shutil.rmtree(data / name)
    said = run(smoke)
    assert "43 restored" in said
    assert (data / "results/report.html").read_bytes() == before


def test_a_changed_setting_runs_what_uses_it(smoke):
    def more_steps(params):
        params["attacks"]["pgd"]["steps"] = 4

    restore = set_params(smoke, more_steps)
    assert to_run(smoke) == {"attack": 4, "score": 4, "probe": 4, "report": 1}
    restore()


def test_an_added_seed_runs_new_cells_only(smoke):
    def another_seed(params):
        params["grid"]["seeds"] = [0, 1]

    restore = set_params(smoke, another_seed)
    added = to_run(smoke)
    restore()
    assert (added["score"], added["attack"], added["probe"], added["diagnose"]) == (12, 8, 8, 4)
    assert "prepare" not in added


def test_an_edited_attack_runs_it_and_what_follows_and_an_edited_comment_nothing(smoke):
    restore = edit(smoke, "stages/attacks/pgd.py", "ITERATIVE = True", "ITERATIVE = True  # an edited comment")
    assert to_run(smoke) == {}
    restore()
    restore = edit(smoke, "stages/attacks/pgd.py", "ITERATIVE = True", "ITERATIVE = True\nEDITED = True")
    # Diagnostics measure robust accuracy by PGD, whatever the study attacks with.
    assert to_run(smoke) == {"attack": 4, "score": 4, "probe": 4, "diagnose": 4, "report": 1}
    restore()


def test_an_edited_plan_or_params_check_runs_no_network_again(smoke):
    restore = edit(smoke, "stages/plan.py", "UNDEFENDED = ", "EDITED = True\nUNDEFENDED = ")
    assert to_run(smoke) == {}
    restore()


def test_a_wrong_setting_is_refused_in_one_sentence(smoke):
    def misspelt(params):
        params["attacks"]["pgd"]["stepz"] = 4

    restore = set_params(smoke, misspelt)
    refused = smoke.run("snakemake", "-n", "--config", "study=smoke")
    restore()
    assert refused.returncode != 0
    assert "params.yaml: attacks.pgd.stepz: unknown key, did you mean 'steps'?" in refused.stdout
    assert "Traceback" not in refused.stdout


def test_a_clone_of_a_clone_fetches_what_is_published(smoke, tmp_path):
    """Networks, scores and probes. The page, which is larger, is made anew from these and the sets that it shows."""
    assert to_run(smoke) == {}  # settings and code that were changed back, too
    said = smoke.make("publish", "STUDY=smoke")
    assert said.returncode == 0, said.stdout
    smoke.commit()
    source = smoke
    for name in ("first", "second"):
        assert source.run("git", "clone", "-q", str(source.folder), str(tmp_path / name)).returncode == 0
        source = Project(tmp_path / name)
    would_run = to_run(source)
    assert would_run.keys() == {"prepare", "attack", "report"}
    assert would_run["attack"] < sum(
        path.suffix == ".json" for path in (smoke.folder / STUDY / "data/adversarial").iterdir()
    )
    run(source)
    assert to_run(source) == {}
    assert "fetched" not in run(source)
    for path in (smoke.folder / STUDY / "data/results").rglob("*.*"):
        assert (source.folder / path.relative_to(smoke.folder)).read_bytes() == path.read_bytes()
