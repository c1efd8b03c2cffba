import os
from pathlib import Path

import pytest

from stages.ledger import runcache
from stages.ledger.job import Job
from stages.ledger.ledger import Ledger
from stages.ledger.runcache import cache_folder, record_key, repository
from stages.ledger.yaml12 import read_yaml
from tests.ledger.conftest import FIRST, JOBS, SECOND, THIRD


def test_a_result_is_restored_and_not_computed_again(bench):
    bench.produce_all()
    made = bench.files()
    for path in Path("data").iterdir():
        path.unlink()
    bench.computed.clear()
    bench.produce_all()
    assert bench.files() == made
    assert bench.computed == []


def test_change_and_change_back_computes_once(bench):
    bench.produce_all()
    made = bench.files()
    bench.params["first"] = 4
    bench.produce_all()
    assert bench.computed == [job.name for job in [*JOBS, *JOBS]]
    assert bench.files() != made
    bench.params["first"] = 3
    bench.produce_all()
    assert len(bench.computed) == 6
    assert bench.files() == made


def test_only_what_a_job_uses_counts(bench):
    bench.produce_all()
    bench.computed.clear()
    bench.params["second"]["factor"] = 7
    bench.produce_all()
    assert bench.computed == [SECOND.name, THIRD.name]


def test_code_counts(bench):
    bench.produce_all()
    bench.computed.clear()
    Path("code/tell.py").write_text("NAME = 'other'\n")
    bench.produce_all()
    assert bench.computed == [THIRD.name]


def test_recompute_keeps_the_new_result_and_the_newest_wins(bench):
    bench.produce(FIRST)
    assert bench.produce(FIRST, "other", recompute=True)
    Path("data/a.bin").unlink()
    assert not bench.produce(FIRST)
    assert Path("data/a.bin").read_text() == "other"


@pytest.mark.parametrize("step", range(1, 8))
def test_interrupted_before_any_rename_nothing_is_half_there(bench, monkeypatch, step):
    """Two products make six renames: two contents, a record's text and the record, the two products."""
    bench.produce(FIRST)
    old = bench.files()
    bench.params["first"] = 4
    calls = []

    def interrupted(renaming):
        def rename(*paths):
            calls.append(paths)
            if len(calls) == step:
                raise KeyboardInterrupt
            renaming(*paths)

        return rename

    with monkeypatch.context() as patched:
        for renaming in (os.replace, os.rename):
            patched.setattr(os, renaming.__name__, interrupted(renaming))
        if step <= 6:
            with pytest.raises(KeyboardInterrupt):
                bench.produce(FIRST)
        else:
            bench.produce(FIRST)
            assert len(calls) == 6
    new = {"a.bin": "data/a.bin [4] ", "a.json": "data/a.json [4] "}
    for name, text in bench.files().items():
        assert text in (old[name], new[name])
    for path in Path(".dvc/cache/files/md5").rglob("*"):
        assert path.is_dir() or runcache.md5(path) == path.parent.name + path.name
    for path in Path(".dvc/cache/runs").rglob("*"):
        assert path.is_dir() or bench.ledger().cache.holds(read_yaml(path))
    computed = bench.produce(FIRST)
    assert computed == (step <= 4)  # recorded with the fourth
    assert bench.files() == new


def test_a_failing_job_leaves_nothing(bench):
    def fail(outputs):
        outputs.path("data/a.bin").write_text("half")
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        bench.ledger().produce(FIRST, fail)
    assert bench.files() == {}
    assert not [path for path in Path(".dvc/cache").rglob("*") if path.is_file()]


def test_a_result_of_an_input_that_changed_meanwhile_is_refused(bench):
    """Another run may put other bytes in its place after it was hashed and before it is read."""
    bench.produce(FIRST)
    right = Path("data/a.bin").read_text()

    def compute(outputs):
        outputs.checkpoint.parent.mkdir()
        outputs.checkpoint.write_text("state")
        outputs.checkpoint.with_name(f"{outputs.checkpoint.name}.part").write_text("state of a part")
        Path("data/a.bin").write_text("other")
        bench.compute(SECOND, outputs)

    with pytest.raises(ValueError, match=r"^data/a\.bin: changed while double--a ran"):
        bench.ledger().produce(SECOND, compute)
    assert not list(Path(".checkpoints").iterdir())
    Path("data/a.bin").write_text(right)
    assert bench.produce(SECOND)  # nothing was recorded
    assert right in Path("data/b.bin").read_text()


def test_an_input_that_is_touched_or_removed_meanwhile_costs_no_result(bench):
    bench.produce(FIRST)
    for harm in (lambda: os.utime("data/a.bin"), Path("data/a.bin").unlink):

        def compute(outputs, harm=harm):
            bench.compute(SECOND, outputs)
            harm()

        assert bench.ledger().produce(SECOND, compute, recompute=True)
    bench.produce(FIRST)
    assert not bench.produce(SECOND)


def test_a_forgotten_output_is_named(bench):
    with pytest.raises(FileNotFoundError, match=r"data/a\.json: make--a ended without writing it"):
        bench.ledger().produce(FIRST, lambda outputs: outputs.path("data/a.bin").write_text("x"))
    assert bench.files() == {}


def test_an_output_of_another_job_is_refused(bench):
    with pytest.raises(ValueError, match=r"'data/b\.bin' is none of its outputs: data/a\.bin, data/a\.json"):
        bench.ledger().produce(FIRST, lambda outputs: outputs.path("data/b.bin"))


def test_a_missing_input_is_named_with_the_command_that_makes_it(bench):
    with pytest.raises(
        FileNotFoundError, match=r"data/a\.bin: no such file, expected it from `python -m stages make a`"
    ):
        bench.produce(SECOND)


def test_a_damaged_content_is_made_anew(bench):
    bench.produce(FIRST)
    content = next(path for path in Path(".dvc/cache/files/md5").rglob("*") if path.is_file())
    content.chmod(0o644)
    content.write_text("x" * content.stat().st_size)
    for path in Path("data").iterdir():
        path.unlink()
    bench.computed.clear()
    assert bench.produce(FIRST)
    assert bench.files() == {"a.bin": "data/a.bin [3] ", "a.json": "data/a.json [3] "}


def test_assess_and_restore(bench):
    assert bench.ledger().assess().stale == tuple(JOBS)
    bench.produce_all()
    assert list(bench.ledger().assess().current) == JOBS
    made = bench.files()
    Path("data/a.json").unlink()
    Path("data/b.bin").write_text("by hand")
    assessment = bench.ledger().assess()
    assert (list(assessment.current), list(assessment.restorable)) == ([THIRD], [FIRST, SECOND])
    assert bench.files() != made  # assessing changes nothing
    assessment, restored, fetched = bench.ledger().restore()
    assert (list(assessment.current), restored, fetched) == (JOBS, 2, 0)
    assert bench.files() == made


def test_what_follows_from_a_stale_job_is_stale(bench):
    bench.produce_all()
    bench.params["second"]["factor"] = 9
    assessment = bench.ledger().assess()
    assert list(assessment.current) == [FIRST]
    assert assessment.stale == (SECOND, THIRD)


def test_a_result_in_place_stays_though_the_lock_names_another(bench):
    bench.produce(FIRST)
    bench.ledger().write_lock(bench.ledger().assess())
    bench.produce(FIRST, "other", recompute=True)
    bench.ledger().restore()
    assert set(bench.files().values()) == {"other"}
    Path("data/a.bin").unlink()
    Path("data/a.json").unlink()
    bench.ledger().restore()
    assert set(bench.files().values()) == {"data/a.bin [3] ", "data/a.json [3] "}  # the lock is what was committed


def test_the_lock_alone_vouches_for_what_is_in_place(bench):
    bench.produce_all()
    ledger = bench.ledger()
    ledger.write_lock(ledger.assess())
    Path(".dvc/cache/runs").rename("away")
    assert list(bench.ledger().assess().current) == JOBS
    Path("dvc.lock").unlink()
    assert bench.ledger().assess().stale == tuple(JOBS)


def test_the_lock_keeps_small_numbers_and_the_last_record_of_stale_jobs(bench):
    bench.produce_all()
    ledger = bench.ledger()
    ledger.write_lock(ledger.assess())
    locked = read_yaml(Path("dvc.lock"))["stages"]
    assert list(locked) == [job.name for job in JOBS]
    assert locked[SECOND.name]["params"]["params.yaml"] == {"second.factor": 0.00001}
    bench.params["second"]["factor"] = 1
    ledger = bench.ledger()
    ledger.write_lock(ledger.assess())
    assert read_yaml(Path("dvc.lock"))["stages"] == locked


def test_a_missing_setting_is_named(bench):
    del bench.params["second"]["factor"]
    bench.produce(FIRST)
    with pytest.raises(ValueError, match=r"params\.yaml: second\.factor: is missing"):
        bench.produce(SECOND)


def test_settings_that_dvc_would_ignore_are_refused(bench):
    bench.params["first"] = {"patch": [{"size": 3}]}
    with pytest.raises(ValueError, match="first: DVC's run-cache ignores keys named 'size'"):
        bench.produce(FIRST)


def test_the_key_is_that_of_dvc(bench):
    dvc_cache = pytest.importorskip("dvc.stage.cache")
    bench.produce(FIRST)
    wanted = bench.ledger().wanted(SECOND)
    stage = {**wanted, "outs": [{"path": path} for path in SECOND.products]}
    assert record_key(wanted, SECOND.products) == dvc_cache._get_cache_hash(stage, key=True)


def test_the_cache_lies_where_dvc_is_told(bench, tmp_path):
    assert cache_folder(tmp_path) == tmp_path / ".dvc/cache"
    (tmp_path / ".dvc/config").write_text("[core]\n    analytics = false\n[cache]\n    dir = ../shared\n")
    assert cache_folder(tmp_path).resolve() == tmp_path / "shared"
    (tmp_path / ".dvc/config.local").write_text("[cache]\n    dir = /fast/disk\n")
    assert cache_folder(tmp_path) == Path("/fast/disk")


def test_settings_of_dvc_that_are_damaged_are_named(bench):
    config = Path(".dvc/config").absolute()
    for text in ("[cache\n    dir = x\n", "[cache]\n    dir = %(x)s\n"):
        config.write_text(text)
        with pytest.raises(ValueError, match=f"^{config}: DVC cannot read it either: "):
            cache_folder(config.parents[1])


def test_the_repository_is_found_upwards(bench, tmp_path):
    study = tmp_path / "studies/small"
    study.mkdir(parents=True)
    assert repository(study) == tmp_path
    with pytest.raises(FileNotFoundError, match="dvc init"):
        repository(Path("/"))


def test_generated_files_are_checked(bench):
    with pytest.raises(ValueError, match=r"dvc\.yaml is not what params\.yaml"):
        bench.ledger().check_generated()
    bench.ledger().write_generated()
    bench.ledger().check_generated()
    bench.ledger().check_job(SECOND)
    Path("code/double.py").write_text("NAME = 1\n")
    with pytest.raises(ValueError, match=r"data/code\.json is not what"):
        bench.ledger().check_generated()
    bench.ledger().check_job(FIRST)
    with pytest.raises(ValueError, match=r"data/code\.json is not what the code of double"):
        bench.ledger().check_job(SECOND)


def test_a_plan_of_no_settings_and_no_inputs_has_a_key(bench):
    job = Job("make", "b", (), (), ("code/make.py",), "make", ("data/z",))
    assert set(Ledger([job], {}, bench.folder).wanted(job)) == {"cmd", "params"}


def test_a_checkpoint_belongs_to_all_that_the_result_depends_on(bench):
    seen = []

    def interrupted(outputs):
        seen.append(outputs.checkpoint)
        raise KeyboardInterrupt

    for first in (3, 3, 4):
        bench.params["first"] = first
        with pytest.raises(KeyboardInterrupt):
            bench.ledger().produce(FIRST, interrupted)
    assert seen[0] == seen[1] != seen[2]
