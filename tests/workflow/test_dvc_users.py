"""What somebody who knows DVC expects of a DVC project, with the real DVC."""

import csv
import io
import json
import os
import re
import sys
import time
from pathlib import Path

import pytest
import yaml

from stages.params import load_params
from tests.plans import plan
from tests.workflow.conftest import REPOSITORY
from tests.workflow.test_workflow import ALL

pytestmark = pytest.mark.workflow

UP_TO_DATE = "Data and pipelines are up to date.\n"
OLD = 40 * 24 * 60 * 60  # seconds
ADDING = [name for name in ALL if name.endswith("-add")]
STUDIES = [REPOSITORY / "params.yaml", *REPOSITORY.glob("studies/*/params.yaml")]


@pytest.fixture
def experiments(computed):
    """A toy project of which everything is computed and committed, for somebody whom git knows."""
    for key, value in {"user.name": "toy", "user.email": "toy@example.org"}.items():
        assert computed.run("git", "config", key, value).returncode == 0
    return computed


def changed(project, *targets):
    """The stages that `dvc status` finds changed."""
    return sorted(json.loads(project.dvc("status", "--json", *targets)))


def shown(project):
    """The rows of `dvc exp show` by experiment, with the metric, the parameters and code that differ."""
    table = project.dvc("exp", "show", "--csv", "--only-changed", "--drop", ".*/.*")
    return {row["Experiment"] or row["rev"]: row for row in csv.DictReader(io.StringIO(table))}


def names(project):
    """The names of all experiments."""
    return project.dvc("exp", "list", "--name-only", "--all-commits").split()


def value(project):
    return json.loads((project.folder / "data/results/metrics.json").read_text())["value"]


def test_status_is_clean_after_every_run(computed):
    computed.set(scale=4)
    computed.snakemake("data/adversarial/even-add.json")  # a part: clean, and what it changed for others is told
    assert changed(computed) == ["attack--even-sign", "prepare--odd", "report--all", "score--even-add"]
    computed.snakemake("--forcerun", "score")
    assert computed.dvc("status") == UP_TO_DATE

    computed.set(scale=5)
    (computed.folder / "bad").touch()
    assert computed.run("snakemake", "--cores", "2", "--keep-going").returncode == 1
    assert changed(computed) == [name for name in ALL if name.startswith(("report", "score"))]
    (computed.folder / "bad").unlink()
    computed.snakemake()
    assert computed.dvc("status") == UP_TO_DATE


def test_status_of_a_study_that_was_never_run_here(computed, tmp_path):
    study = computed.folder / "studies/other"
    study.mkdir(parents=True)
    (study / "params.yaml").write_text((computed.folder / "params.yaml").read_text())
    assert computed.run(sys.executable, "-m", "stages", "plan").returncode == 0
    computed.snakemake("--config", "study=other")
    assert computed.dvc("status") == UP_TO_DATE
    computed.dvc("remote", "add", "--default", "store", str(tmp_path / "store"))
    computed.commit()
    computed.dvc("push", "--run-cache")

    assert computed.run("git", "clone", "-q", ".", str(tmp_path / "clone")).returncode == 0
    clone = type(computed)(tmp_path / "clone")
    clone.dvc("pull", "--run-cache", "dvc.yaml")
    assert changed(clone) == [f"studies/other/dvc.yaml:{name}" for name in ALL]
    (clone.folder / "studies/other/data/prepared").mkdir(parents=True)  # as a pull leaves it that finds nothing
    assert make(clone, "status") == UP_TO_DATE
    clone.dvc("pull")
    assert clone.dvc("status") == UP_TO_DATE
    assert make(clone, "status") == UP_TO_DATE
    clone.set(scale=3)
    assert "prepare--even:" in make(clone, "status")


def make(project, *arguments):
    """What a target of the real Makefile prints, with the environment of the tests as the one that was set up."""
    (project.folder / "Makefile").write_bytes((REPOSITORY / "Makefile").read_bytes())
    options = (f"BIN={Path(sys.executable).parent}", "INSTALLED=params.yaml", "--assume-old=params.yaml", "--silent")
    (project.folder / "requirements.lock").touch()
    done = project.run("make", *options, *arguments)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_repro_in_a_clone_hits_the_records(computed, tmp_path):
    """But for the report's: DVC pushes no contents of files that git tracks."""
    computed.dvc("remote", "add", "--default", "store", str(tmp_path / "store"))
    computed.commit()
    computed.dvc("push", "--run-cache")
    assert computed.run("git", "clone", "-q", ".", str(tmp_path / "clone")).returncode == 0
    clone = type(computed)(tmp_path / "clone")
    clone.dvc("pull", "--run-cache")
    assert clone.dvc("repro").count("didn't change, skipping") == len(ALL)
    for expected in (["report--all"], []):
        (clone.folder / "dvc.lock").unlink()
        for path in (clone.folder / "data/results").glob("*.*"):
            path.unlink()
        assert clone.dvc("repro").count("is cached - skipping run") == len(ALL) - len(expected)
        assert clone.computed() == expected
        assert clone.dvc("status") == UP_TO_DATE
        assert clone.run("git", "status", "--short").stdout == ""


def test_what_repro_computed_repro_and_snakemake_find_again(computed):
    """With outputs that git tracks, too: DVC looks such stages up in its run-cache, but records none of them."""
    for scale, expected in ((3, ALL), (2, []), (3, [])):
        computed.set(scale=scale)
        computed.dvc("repro")
        assert computed.computed() == expected
        assert "11 up to date" in computed.snakemake()
        assert computed.dvc("status") == UP_TO_DATE
    keys = (computed.folder / ".dvc/cache/runs").glob("*/*")
    assert all(len(list(key.iterdir())) == 1 for key in keys)  # its records and ours have the same names


def test_an_experiment_computes_what_is_new_and_is_shown(experiments):
    before = value(experiments)
    experiments.dvc("exp", "run", "--name", "larger", "-S", "attacks.add.step=0.01")
    assert experiments.computed() == sorted([*ADDING, "report--all"])
    assert (found := value(experiments)) != before
    row = shown(experiments)["larger"]
    assert (row["attacks.add.step"], row["value"]) == ("0.01", str(found))
    assert "11 up to date" in experiments.snakemake()

    experiments.dvc("exp", "run", "--name", "back", "-S", "attacks.add.step=0.001")
    experiments.dvc("exp", "run", "--name", "again", "-S", "attacks.add.step=0.01")
    assert experiments.computed() == []
    rows = shown(experiments)
    assert (rows["back"]["value"], rows["again"]["value"]) == (str(before), str(found))
    assert experiments.dvc("status") == UP_TO_DATE


def test_what_snakemake_ran_is_saved_as_an_experiment(experiments):
    experiments.set(sets=["even", "odd", "prime"])
    experiments.snakemake()
    experiments.dvc("exp", "save", "--name", "wider")
    row = shown(experiments)["wider"]
    assert (row["sets"], row["value"]) == ("['even', 'odd', 'prime']", str(value(experiments)))


def test_experiments_beside_the_working_directory_share_its_results(experiments):
    workspace = experiments.products()
    experiments.dvc("exp", "run", "--name", "aside", "--temp", "-S", "attacks.add.step=0.01")
    for scale in (7, 2):
        options = ("-S", f"scale={scale}", "-S", "attacks.add.step=0.01")
        experiments.dvc("exp", "run", "--name", f"queued{scale}", "--queue", *options)
    experiments.dvc("exp", "run", "--run-all")
    assert experiments.products() == workspace
    assert experiments.run("git", "status", "--short").stdout == ""
    rows = shown(experiments)
    assert sorted(rows) == sorted(["aside", "queued2", "queued7", "master", "workspace"])
    assert rows["aside"]["value"] == rows["queued2"]["value"] != rows["master"]["value"]
    assert (rows["queued7"]["scale"], rows["queued7"]["attacks.add.step"]) == ("7", "0.01")

    experiments.set(scale=7, attacks={"add": {"step": 0.01}, "sign": None})
    assert "11 restored" in experiments.snakemake()
    assert experiments.computed() == []
    assert str(value(experiments)) == rows["queued7"]["value"]


@pytest.mark.parametrize(
    ("where", "setting"),
    [([], "sets=[even,odd,prime]"), (["--temp"], "sets=[even]"), ([], "transfer=[add]")],
    ids=["wider", "narrower", "reading more"],
)
def test_no_experiment_is_recorded_for_a_grid_that_was_not_run(experiments, where, setting):
    """A cell more, a cell less, and a stage that only reads more than before."""
    done = experiments.run("dvc", "exp", "run", *where, "-S", setting)
    assert done.returncode != 0
    assert "error: dvc.yaml is not what params.yaml and the code say now: run `snakemake`, or" in done.stdout
    assert names(experiments) == []
    assert experiments.computed() == []
    if where:
        assert experiments.run("git", "status", "--short").stdout == ""


@pytest.mark.parametrize("where", [[], ["--temp"]], ids=["workspace", "temp"])
def test_an_experiment_with_another_grid_succeeds_as_the_error_says(experiments, where):
    setting = {"transfer": ["add"]}
    assert experiments.run("dvc", "exp", "run", *where, "-S", "transfer=[add]").returncode != 0
    if not where:
        assert yaml.safe_load((experiments.folder / "params.yaml").read_text()).items() >= setting.items()
    experiments.set(**setting)
    assert experiments.run("python", "-m", "stages", "plan").returncode == 0
    experiments.dvc("exp", "run", "--name", "followed", *where)
    rows = shown(experiments)
    assert (rows["followed"]["transfer"], rows["master"]["transfer"]) == ("['add']", "[]")
    assert rows["followed"]["value"] != rows["master"]["value"]
    assert experiments.computed() == ([] if where else ["report--all", "score--even-add", "score--odd-add"])
    assert "Nothing to be done" in experiments.snakemake("-n")


def test_a_refused_experiment_can_be_undone(experiments):
    made = {path: content for path, (content, _) in experiments.products().items()}
    assert experiments.run("dvc", "exp", "run", "-S", "sets=[even]", "-S", "scale=3").returncode != 0
    assert names(experiments) == []
    assert experiments.run("git", "checkout", "params.yaml").returncode == 0
    experiments.snakemake()
    assert experiments.computed() == []
    assert {path: content for path, (content, _) in experiments.products().items()} == made
    assert experiments.run("git", "status", "--short").stdout == ""
    assert experiments.dvc("status") == UP_TO_DATE


def test_edited_code_is_not_taken_for_what_was_planned(experiments):
    (experiments.folder / "stages/attacks/sign.py").write_text('SALT = "other"\n')
    done = experiments.run("dvc", "exp", "run", "-S", "attacks.add.step=0.01")
    assert done.returncode != 0
    assert "error: data/code.json is not what params.yaml and the code say now" in done.stdout
    assert names(experiments) == []
    assert experiments.run("python", "-m", "stages", "plan").returncode == 0
    experiments.dvc("exp", "run")
    assert set(experiments.computed()) == {name for name in ALL if not name.startswith("prepare")}


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.parent.name)
def test_no_key_of_a_study_is_skipped(file):
    """Where no stage depends on a key, `dvc exp run -S` would record an experiment without asking any of ours.

    What an extended evaluation replaces changes no result of one that is not extended.
    """
    params = load_params(file)
    jobs = plan(params)
    *_, report = jobs
    asked = {key.partition(".")[0] for key in report.params}
    # Where data and results come from and where jobs run changes no result: an experiment with these is what was run.
    unused = {"extended"} & set(params.written) if not params.evaluation.extended else set()
    assert set(params.written) - asked == {"ledger", "resources"} | unused
    assert {f"data.{key}" for key in params.written["data"]} - set(report.params) == {"data.mirror"}
    makers = {path: job for job in jobs for path in job.products}
    needed, pending = set(), [report]
    while pending:
        job = pending.pop()
        if job not in needed:
            needed.add(job)
            pending += [makers[path] for path in job.inputs]
    assert needed == set(jobs)


def test_differences_between_commits(experiments):
    before = value(experiments)
    experiments.set(scale=3)
    (experiments.folder / "stages/attacks/sign.py").write_text('SALT = "other"\n')
    experiments.snakemake()
    experiments.commit()
    after = value(experiments)
    metrics = json.loads(experiments.dvc("metrics", "diff", "--json", "HEAD~1", "HEAD"))
    assert metrics["data/results/metrics.json"]["value"] == {"old": before, "new": after, "diff": after - before}
    params = json.loads(experiments.dvc("params", "diff", "--json", "HEAD~1", "HEAD"))
    assert params["params.yaml"] == {"scale": {"old": 2, "new": 3, "diff": 1}}
    assert list(params["data/code.json"]) == ["attack-sign"]  # whose code changed
    (plot,) = json.loads(experiments.dvc("plots", "diff", "--json", "HEAD~1", "HEAD"))["data"]["values"]
    points = {row["rev"]: row["value"] for row in plot["content"]["data"]["values"]}
    assert points == {rev: first_value(experiments, rev) for rev in ("HEAD~1", "HEAD")}
    (plot,) = json.loads(experiments.dvc("plots", "show", "--json"))["data"]["values"]
    assert [row["value"] for row in plot["content"]["data"]["values"]] == [points["HEAD"]]


def first_value(project, rev):
    (row,) = csv.DictReader(io.StringIO(project.run("git", "show", f"{rev}:data/results/results.csv").stdout))
    return row["value"]


def test_garbage_collection_keeps_what_a_dvc_user_may_want_back(experiments):
    """Locked, in an experiment, in a stash, added by hand, made of late: and whatever DVC itself calls used."""
    folder = experiments.folder
    (folder / "samples").mkdir()
    (folder / "samples/one.txt").write_text("one")
    experiments.dvc("add", "samples")
    experiments.commit()
    experiments.dvc("exp", "run", "--name", "kept", "--temp", "-S", "scale=3")
    experiments.set(scale=4)
    experiments.snakemake()
    assert experiments.run("git", "stash").returncode == 0
    experiments.set(scale=5)
    experiments.snakemake()
    experiments.set(scale=2)
    experiments.snakemake()
    experiments.computed()

    said = make(experiments, "gc")
    assert "There is nothing to remove." in said
    age(folder / ".dvc/cache")
    wanted = used_by_dvc(experiments)
    said = make(experiments, "gc")
    assert "11 results would go" in said
    assert "4 attack, 2 prepare, 1 report, 4 score" in said
    assert "make gc DELETE=yes" in said
    said = make(experiments, "gc", "DAYS=50", "DELETE=yes")
    assert "There is nothing to remove." in said
    make(experiments, "gc", "DELETE=yes")
    assert "There is nothing to remove." in make(experiments, "gc")

    assert wanted <= {path.parent.name + path.name for path in (folder / ".dvc/cache/files/md5").glob("*/*")}
    assert experiments.dvc("status") == UP_TO_DATE
    assert "11 up to date" in experiments.snakemake("-n")
    for scale, to_run in ((3, 0), (4, 0), (5, 11)):
        experiments.set(scale=scale)
        assert (f"{to_run} to run" in experiments.snakemake("-n")) == bool(to_run)
    (folder / "dvc.lock").unlink()
    experiments.set(scale=2)
    assert experiments.dvc("repro").count("is cached - skipping run") == len(ALL)


def age(cache):
    """Make all files of a cache older than a month."""
    for path in cache.rglob("*"):
        os.utime(path, (time.time() - OLD,) * 2)


def used_by_dvc(project):
    """The contents that DVC itself would keep for all commits and experiments."""
    used = "Repo().used_objs(all_commits=True, all_experiments=True).values()"
    code = f"from dvc.repo import Repo\nprint(*(info.value for infos in {used} for info in infos))"
    done = project.run("python", "-c", code)
    assert done.returncode == 0, done.stdout
    digests = set(re.findall(r"\b[0-9a-f]{32}(?:\.dir)?\b", done.stdout))
    assert len(digests) > 30  # of two sets of results, of which some outputs are in git alone
    return digests
