"""The real Snakefile, Snakemake and DVC around a toy plan of eleven jobs."""

import json
import os
import re
import signal
import subprocess
import time
import tomllib

import pytest
import yaml

from stages.params import load_params
from tests.plans import plan
from tests.workflow.conftest import REPOSITORY

pytestmark = pytest.mark.workflow

ALL = [
    *(f"attack--{name}-{by}" for name in ("even", "odd") for by in ("add", "sign")),
    *("prepare--even", "prepare--odd", "report--all"),
    *(f"score--{name}-{by}" for name in ("even", "odd") for by in ("add", "sign")),
]


def test_what_was_computed_is_never_computed_again(project):
    first = project.snakemake()
    assert project.computed() == ALL
    assert first.splitlines()[-1] == "Report: data/results/report.html"
    assert "up to date" in project.dvc("status")
    made, lock = project.products(), (project.folder / "dvc.lock").read_bytes()

    assert project.snakemake().splitlines()[-1] == "Report: data/results/report.html"
    assert project.computed() == []
    assert project.products() == made  # not even a modification time changed

    project.set(scale=3)
    assert "11 to run" in project.snakemake("-n")
    for look in ("--summary", "--unlock"):
        project.snakemake(look)
    assert project.products() == made
    project.snakemake()
    assert project.computed() == ALL

    project.set(scale=2)
    assert "Nothing to be done" in project.snakemake("-n")
    project.snakemake()
    assert project.computed() == []
    assert contents(project.products()) == contents(made)
    assert (project.folder / "dvc.lock").read_bytes() == lock
    assert "up to date" in project.dvc("status")


def contents(products):
    return {name: content for name, (content, _) in products.items()}


def test_the_snakefile_names_the_outputs_of_the_plan():
    """Snakemake would complain of a missing output; a superfluous one would be noticed by nobody."""
    params = load_params(REPOSITORY / "params.yaml")
    snakefile = (REPOSITORY / "Snakefile").read_text()
    assert "        page.products," in snakefile  # what the report makes depends on the study
    for job in plan(params)[:-1]:
        rule = re.split(rf"(?:rule|as) {job.rule}(?: with)?:", snakefile)[1].partition("    log:")[0]
        named = re.findall(r'"(data/[^"]+)"', rule)
        assert sorted(name.replace("{item}", job.item) for name in named) == list(job.products)


def test_the_conda_environment_holds_what_the_project_depends_on():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    *_, packages = yaml.safe_load((REPOSITORY / "profiles/environment.yaml").read_text())["dependencies"]
    assert packages == {"pip": project["dependencies"]}


def test_dvc_and_the_ledger_understand_each_other(computed):
    lock = (computed.folder / "dvc.lock").read_bytes()
    computed.dvc("commit", "--force")
    assert (computed.folder / "dvc.lock").read_bytes() == lock  # byte for byte what DVC writes

    (computed.folder / "dvc.lock").unlink()
    printed = computed.dvc("repro")
    assert printed.count("is cached - skipping run") == len(ALL)
    assert computed.computed() == []

    computed.set(scale=5)
    computed.dvc("repro")
    assert computed.computed() == ALL
    (computed.folder / "dvc.lock").unlink()
    for path in (computed.folder / "data").rglob("*.*"):
        path.unlink()
    assert "11 restored" in computed.snakemake()  # with the stage that DVC itself records nowhere
    assert computed.computed() == []


def test_editing_one_attack_runs_it_and_what_follows(computed):
    attack = computed.folder / "stages/attacks/sign.py"
    attack.write_text("# A comment.\n" + attack.read_text())
    assert "Nothing to be done" in computed.snakemake()

    attack.write_text('SALT = "si" + "gn"\n')
    computed.snakemake()
    assert computed.computed() == ["attack--even-sign", "attack--odd-sign"]  # same results: what follows stays

    attack.write_text('SALT = "other"\n')
    computed.snakemake()
    followed = ["report--all", "score--even-sign", "score--odd-sign"]
    assert computed.computed() == ["attack--even-sign", "attack--odd-sign", *followed]

    computed.set(sets=["even", "odd", "prime"])
    assert "Report:" not in computed.snakemake("data/scores/prime-add.parquet")
    assert computed.computed() == ["attack--prime-add", "prepare--prime", "score--prime-add"]


def test_a_job_whose_code_is_edited_while_it_starts_records_nothing(computed):
    """Here the code edits itself when it is imported, which is after its digest was taken."""
    attack = computed.folder / "stages/attacks/sign.py"
    attack.write_text("""from pathlib import Path\nSALT = "old"\nPath(__file__).write_text('SALT = "new"')\n""")
    done = computed.run("snakemake", "--cores", "1", "data/adversarial/even-sign.json")
    assert done.returncode != 0
    assert "error: stages/attacks/sign.py: was edited while a job started that runs it" in done.stdout
    assert computed.computed() == []
    computed.snakemake("data/adversarial/even-sign.json")
    assert computed.computed() == ["attack--even-sign"]


def test_a_study_shares_results_and_has_its_own_folder(computed):
    study = computed.folder / "studies/other"
    study.mkdir(parents=True)
    (study / "params.yaml").write_bytes((computed.folder / "params.yaml").read_bytes())
    printed = computed.snakemake("--config", "study=other")
    assert "11 restored" in printed
    assert printed.splitlines()[-1] == "Report: studies/other/data/results/report.html"
    assert not (study / "journal.txt").exists()
    results = "data/results/results.csv"
    assert (study / results).read_bytes() == (computed.folder / results).read_bytes()
    assert "up to date" in computed.dvc("status", "studies/other/dvc.yaml")
    study.rename(study.with_name("3"))  # a number to Snakemake
    assert "Nothing to be done" in computed.snakemake("-n", "--config", "study=3")
    missing = computed.run("snakemake", "-n", "--config", "study=typo")
    assert missing.returncode == 1
    assert "studies/typo: holds no params.yaml" in missing.stdout
    assert not (computed.folder / "studies/typo").exists()


def test_killed_at_any_time_the_next_run_goes_on(project):
    running = start(project)
    os.killpg(running.pid, signal.SIGKILL)  # Snakemake and its jobs
    running.wait()
    killed = project.computed()

    running = start(project)
    os.kill(running.pid, signal.SIGKILL)  # Snakemake alone: the jobs that it started go on and save
    running.wait()
    wait_for(lambda: len(list((project.folder / "data/prepared").glob("[a-z]*"))) == 4)

    project.snakemake()
    assert set(killed) <= {"prepare--even", "prepare--odd"}
    assert project.computed() == ALL  # each once: what the orphans saved was not computed again
    assert "up to date" in project.dvc("status")
    assert not [name for name in project.products() if "/." in name]


def start(project):
    """Start Snakemake and wait until it runs both jobs that can run at first."""
    running = subprocess.Popen(
        ["snakemake", "--cores", "2"],
        cwd=project.folder,
        env=project.environment | {"TOY_SECONDS": "2"},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    journal = project.folder / "journal.txt"
    wait_for(lambda: journal.exists() and len(journal.read_text().split()) == 2)
    return running


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_forcing_a_job_overlooks_no_other(computed):
    (computed.folder / "stages/attacks/sign.py").write_text('SALT = "other"\n')
    computed.snakemake("--forcerun", "prepare")
    followed = ["report--all", "score--even-sign", "score--odd-sign"]
    assert computed.computed() == ["attack--even-sign", "attack--odd-sign", *followed]

    assert computed.snakemake("--forceall").count("Report: ") == 1
    assert computed.computed() == []  # each job finds itself in the cache


def test_a_failing_job_fails_the_run_with_one_sentence_and_keeps_the_rest(project):
    (project.folder / "bad").touch()
    done = project.run("snakemake", "--cores", "2")
    assert done.returncode != 0
    assert "error: data/adversarial/even-add.json: is bad" in done.stdout
    assert "Report:" not in done.stdout
    log = (project.folder / "logs/score/even-add.log").read_text()
    assert "Traceback" in log
    assert "scoring" in log
    locked = (project.folder / "dvc.lock").read_text()
    assert "attack--odd-sign" in locked
    assert "score--" not in locked
    (project.folder / "bad").unlink()
    project.computed()
    project.snakemake()
    assert project.computed() == [name for name in ALL if name.startswith(("report", "score"))]


def test_a_wrong_setting_is_refused_before_any_job(project):
    project.set(scale="two")
    done = project.run("snakemake", "--cores", "1")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "error: params.yaml: scale: 'two' should be a number."


def test_drift_is_told(project):
    check = ("python", "-m", "stages", "plan", "--check")
    assert project.run(*check).returncode == 1
    assert project.run("python", "-m", "stages", "plan").returncode == 0
    assert project.run(*check).returncode == 0
    code = json.loads((project.folder / "data/code.json").read_text())
    assert sorted(code) == ["attack-add", "attack-sign", "prepare", "report", "score"]

    project.set(sets=["even"])
    for command in (check, ("python", "-m", "stages", "report", "all")):
        done = project.run(*command)
        assert done.returncode == 1
        sentence = "error: dvc.yaml is not what params.yaml"
        assert done.stdout.startswith(sentence) and "`python -m stages plan`" in done.stdout

    project.set(sets=["even", "odd"])
    (project.folder / "stages/prepare.py").write_text("def run(task, params, outputs): ...\n")
    done = project.run("python", "-m", "stages", "prepare", "even")
    assert done.returncode == 1
    assert done.stdout.startswith("error: data/code.json is not what the code of prepare")


def test_recompute_does_not_look_into_the_cache(project):
    project.run("python", "-m", "stages", "plan")
    job = ("python", "-m", "stages", "prepare", "odd")
    for command, computed in ((job, True), (job, False), ((*job, "--recompute"), True)):
        assert project.run(*command).returncode == 0
        assert project.computed() == (["prepare--odd"] if computed else [])


def test_an_unknown_item_is_told(project):
    for item, hint in (("evne", "did you mean 'even'?"), ("primes", "expected a job of dvc.yaml")):
        done = project.run("python", "-m", "stages", "prepare", item)
        assert done.returncode == 1
        assert done.stdout == f"error: params.yaml asks for no prepare of {item!r}, {hint}\n"


def test_lint_finds_nothing(project):
    assert "Congratulations" in project.snakemake("--lint")
