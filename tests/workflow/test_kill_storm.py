"""The smoke study, killed again and again: `make test-slow`."""

import os
import random
import signal
import subprocess
import time

import pytest

from tests.workflow.conftest import Project
from tests.workflow.test_smoke_study import STUDY, copy_of_repository
from tests.workflow.test_together import check_whole

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

KILLS = 50
RESULTS = ("results.csv", "variants.csv", "worst_case.csv", "metrics.json", "report.html")
COMMAND = ["snakemake", "--cores", "2", "--config", "study=smoke"]


def results(project: Project) -> dict[str, bytes]:
    return {name: (project.folder / STUDY / "data/results" / name).read_bytes() for name in RESULTS}


def test_killed_at_random_instants_it_goes_on_to_the_same_bytes(tmp_path):
    undisturbed, killed = copy_of_repository(tmp_path / "undisturbed"), copy_of_repository(tmp_path / "killed")
    undisturbed.snakemake("--config", "study=smoke")

    instants = random.Random(0)
    for _ in range(KILLS):
        running = subprocess.Popen(
            COMMAND,
            cwd=killed.folder,
            env=killed.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(instants.uniform(3, 15))
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        check_whole(killed)
    killed.snakemake("--config", "study=smoke")
    assert results(killed) == results(undisturbed)
