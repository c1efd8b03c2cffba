"""The real Snakemake and DVC on results whose record is known and whose content is nowhere."""

import re
import shutil

import pytest

from tests.workflow.test_nothing_twice import to_run
from tests.workflow.test_workflow import contents

pytestmark = pytest.mark.workflow


def lose(project, *folders):
    """Remove folders of data/ and their contents from the cache."""
    for folder in folders:
        for path in (project.folder / "data" / folder).iterdir():
            found = project.run("md5sum", str(path)).stdout.split()[0]
            (project.folder / ".dvc/cache/files/md5" / found[:2] / found[2:]).unlink()
        shutil.rmtree(project.folder / "data" / folder)


def test_what_nobody_asks_for_is_not_computed(computed):
    lock = (computed.folder / "dvc.lock").read_bytes()
    made = contents(computed.products())
    lose(computed, "prepared", "adversarial")
    said = computed.snakemake("-n")
    assert "Jobs: 5 up to date, 6 known, without their content." in said
    assert "Nothing to be done" in said
    assert "Nothing to be done" in computed.snakemake()
    shutil.rmtree(computed.folder / "data/scores")
    (computed.folder / "data/results/report.html").unlink()
    assert "5 restored, 6 known" in computed.snakemake()
    assert computed.computed() == []
    assert (computed.folder / "dvc.lock").read_bytes() == lock
    left = {name: text for name, text in made.items() if "/prepared/" not in name and "/adversarial/" not in name}
    assert contents(computed.products()) == left
    # To DVC it is not there, and all else is as it should be.
    told = re.findall(r": +(data/\w+)/", computed.dvc("status"))
    assert set(told) == {"data/prepared", "data/adversarial"}


def test_what_is_asked_for_by_name_is_computed(computed):
    lose(computed, "prepared", "adversarial")
    target = "data/adversarial/even-add.json"
    assert to_run(computed.snakemake("-n", target)) == {"attack": 1, "prepare": 1}
    computed.snakemake(target)
    assert computed.computed() == ["attack--even-add", "prepare--even"]
    computed.snakemake("--forcerun", "score")
    attacks = ["attack--even-sign", "attack--odd-add", "attack--odd-sign"]
    assert computed.computed() == [*attacks, "prepare--odd"]  # the scores find themselves in the cache


def test_what_a_job_that_runs_reads_is_computed_and_its_other_readers_stay(computed):
    made = contents(computed.products())
    lose(computed, "prepared", "adversarial")
    (computed.folder / "stages/attacks/sign.py").write_text('SALT = "other"\n')
    said = computed.snakemake("-n")
    assert "2 known" in said
    assert to_run(said) == {"attack": 2, "prepare": 2, "report": 1, "score": 2}
    assert "Report:" in computed.snakemake()
    signs = [f"{rule}--{name}-sign" for rule in ("attack", "score") for name in ("even", "odd")]
    assert computed.computed() == sorted(["prepare--even", "prepare--odd", "report--all", *signs])
    assert "Nothing to be done" in computed.snakemake("-n")
    assert contents(computed.products()).items() >= {
        (name, text) for name, text in made.items() if "/prepared/" in name or "-add.parquet" in name
    }


def test_other_bytes_than_recorded_are_told_and_what_follows_runs_on_them(project):
    """As on another machine, where the same training gives another network."""
    prepare = project.folder / "stages/prepare.py"
    machine = 'import os\n\nMACHINE = os.environ.get("TOY_MACHINE", "")\n'
    prepare.write_text(machine + prepare.read_text().replace('params.values["scale"]', "MACHINE"))
    project.snakemake()
    project.computed()
    lose(project, "prepared")
    (project.folder / "stages/attacks/sign.py").write_text('SALT = "other"\n')
    said = project.snakemake(TOY_MACHINE="other")
    assert "different: prepare--even, prepare--odd came out with other bytes than dvc.lock said: what follows" in said
    assert "attack--even-add" not in project.computed()
    project.snakemake()
    adds = [f"{rule}--{name}-add" for rule in ("attack", "score") for name in ("even", "odd")]
    assert project.computed() == sorted(["report--all", *adds])
    assert "Nothing to be done" in project.snakemake("-n")
    assert "up to date" in project.dvc("status")


def test_dvc_computes_what_is_absent(computed):
    """DVC runs what lacks an output, and skips it with --allow-missing."""
    lose(computed, "adversarial")
    assert computed.dvc("repro", "--allow-missing").count("skipping") == 11
    assert computed.computed() == []
    computed.dvc("repro")
    assert computed.computed() == [f"attack--{name}-{by}" for name in ("even", "odd") for by in ("add", "sign")]
    assert "up to date" in computed.dvc("status")
