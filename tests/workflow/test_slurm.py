"""Studies on a real SLURM cluster of one node."""

import os
import re
import signal
import subprocess

import pytest

from tests.workflow import slurm
from tests.workflow.conftest import build
from tests.workflow.test_smoke_study import STUDY, copy_of_repository
from tests.workflow.test_workflow import ALL, contents, wait_for

pytestmark = pytest.mark.workflow
slow = pytest.mark.slow

# The cluster keeps no accounts, and the jobs are short.
ON_CLUSTER = (
    *("--profile", "profiles/slurm"),
    *("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "3"),
)
ASKED = ("NumCPUs", "MinMemoryNode", "TimeLimit")
RESULTS = [
    f"data/results/{name}" for name in ("results.csv", "variants.csv", "worst_case.csv", "metrics.json", "report.html")
]


@pytest.fixture(scope="module")
def cluster():
    """The environment variables that name a running cluster."""
    if missing := slurm.missing():
        pytest.skip(f"there is no {', '.join(missing)}: SLURM is not installed (Debian: slurm-wlm, munge)")
    with slurm.cluster() as environment:
        yield environment


@pytest.fixture(scope="module")
def ran(cluster, tmp_path_factory):
    """A toy project that was run on the cluster, launched where fewer cores are than a job has threads."""
    made = build(tmp_path_factory.mktemp("cluster") / "project")
    made.set(threads=slurm.CPUS, resources={"memory": 300, "rules": {"attack": {"memory": 400, "runtime": 3}}})
    made.printed = run(made, cluster, "--cores", "1")
    return made


def run(project, cluster, *options):
    done = project.run("snakemake", *ON_CLUSTER, *options, **cluster)
    assert done.returncode == 0, done.stdout
    return done.stdout


def submitted(cluster, printed):
    """What SLURM knows of the jobs of a run, by the comment that names the rule and the item, or the group."""
    (run_name,) = re.findall(r"SLURM run ID: (\S+)", printed)
    said = subprocess.run(
        ["scontrol", "show", "job", "--oneliner"], env=os.environ | cluster, capture_output=True, text=True, check=True
    )
    jobs = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in said.stdout.splitlines()]
    return {job["Comment"]: job for job in jobs if job["JobName"] == run_name}


def test_the_profile_is_added_to_the_default_one(project):
    """Needs no SLURM, since nothing is submitted."""
    printed = project.snakemake("--profile", "profiles/slurm", "--dry-run")
    assert "profiles/slurm and workflow specific profile profiles/default" in printed
    assert "11 to run" in printed


@slow
def test_a_job_asks_for_what_params_yaml_says(ran, cluster):
    jobs = submitted(cluster, ran.printed)
    prepare, attacks = jobs["rule_prepare_wildcards_even"], jobs["rule_attack_attack"]
    assert [prepare[key] for key in ASKED] == [str(slurm.CPUS), "300M", "00:02:00"]
    # Four jobs, one after the other.
    assert [attacks[key] for key in ASKED] == [str(slurm.CPUS), "400M", "00:12:00"]
    assert "TresPerJob" not in prepare  # no GPU


@slow
def test_short_jobs_share_a_job_of_the_cluster(ran, cluster):
    assert sorted(submitted(cluster, ran.printed)) == [
        "rule_attack_attack",
        "rule_prepare_wildcards_even",
        "rule_prepare_wildcards_odd",
        "rule_report",
        "rule_score_score",
    ]


@slow
def test_the_results_are_those_of_a_local_run_and_a_second_run_has_nothing_to_do(ran, cluster, project):
    project.set(threads=slurm.CPUS)
    project.snakemake()
    assert contents(ran.products()) == contents(project.products())
    assert ran.computed() == ALL
    assert ran.printed.splitlines()[-1] == "Report: data/results/report.html"
    assert "up to date" in ran.dvc("status")

    made = ran.products()
    assert "Nothing to be done" in run(ran, cluster, "-n")
    assert "Nothing to be done" in run(ran, cluster)
    assert "Nothing to be done" in ran.snakemake()
    assert ran.computed() == []
    assert ran.products() == made


@slow
def test_gpus_are_asked_for(cluster, project):
    project.set(resources={"rules": {"prepare": {"gpus": 1}}})
    (job,) = submitted(cluster, run(project, cluster, "data/prepared/even.json")).values()
    assert job["TresPerJob"].endswith("gpu:1")
    assert project.computed() == ["prepare--even"]


@slow
def test_a_killed_run_goes_on_and_keeps_what_the_cluster_finished(cluster, project):
    running = subprocess.Popen(
        ["snakemake", *ON_CLUSTER],
        cwd=project.folder,
        env=project.environment | cluster,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: len(queue(cluster)) == 2)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    wait_for(lambda: not queue(cluster))
    assert "9 to run" in run(project, cluster)
    assert project.computed() == ALL
    assert "up to date" in project.dvc("status")


def queue(cluster):
    listed = ["squeue", "--noheader", "--format=%i"]
    done = subprocess.run(listed, env=os.environ | cluster, capture_output=True, text=True, check=True)
    return done.stdout.split()


@slow
def test_the_smoke_study_gives_the_same_bytes_as_a_local_run(cluster, tmp_path):
    here, there = (copy_of_repository(tmp_path / name / "project") for name in ("here", "there"))
    here.snakemake("--config", "study=smoke")
    printed = run(there, cluster, "--config", "study=smoke")
    shared = {name: job for name, job in submitted(cluster, printed).items() if "wildcards" not in name}
    assert set(shared) == {"rule_attack_attack", "rule_quantize_quantize", "rule_report", "rule_score_score"}
    attacks = shared["rule_attack_attack"]  # four, one after the other, though Snakemake has all cores
    assert [attacks[key] for key in ASKED] == ["1", "2000M", "00:20:00"]
    for name in RESULTS:
        assert (there.folder / STUDY / name).read_bytes() == (here.folder / STUDY / name).read_bytes(), name
    assert "Nothing to be done" in run(there, cluster, "--config", "study=smoke", "-n")
    assert "Nothing to be done" in there.snakemake("--config", "study=smoke", "-n")
