"""SIGKILL before every single file operation of all that changes results."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import ruamel.yaml  # noqa: F401 (imported here, so that a killed child need not import it again each time)

from stages.ledger.dvcfiles import read_lock
from stages.ledger.files import md5
from stages.ledger.revouch import revouch
from tests.ledger.conftest import FIRST, JOBS

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
OPERATIONS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "os.link", "os.utime")
CACHE = Path(".dvc/cache")


def produce(bench):
    bench.produce(FIRST)


def recompute(bench):
    bench.produce(FIRST, "other", recompute=True)


def restore(bench):
    ledger = bench.ledger()
    assessment, *_ = ledger.restore()
    ledger.write_generated()
    ledger.write_lock(assessment)


def carry_over(bench):
    def computing(job):
        return lambda outputs: bench.compute(job, outputs)

    assert revouch(bench.ledger(), computing, 3, 0, bench.codes)


def mend(bench):
    bench.run()


def changed(bench):
    bench.params["first"] = 4


def changed_and_back(bench):
    changed(bench)
    bench.run()
    bench.params["first"] = 3


def emptied(bench):
    shutil.rmtree("data")
    Path("dvc.lock").unlink()


def tidied(bench):
    for path in Path("code").iterdir():
        path.write_text(path.read_text() + "UNUSED = 0\n")


def damaged(bench):
    """A content of the first job, the record of the second, both of the third."""
    (first, *_), (third, *_) = [
        [CACHE / "files/md5" / out["md5"][:2] / out["md5"][2:] for out in read_lock()[job.name]["outs"]]
        for job in (JOBS[0], JOBS[2])
    ]
    records = [path for path in CACHE.glob("runs/??/*/*") if "stages make" not in path.read_text()]
    for path in (first, third, *records):
        path.chmod(0o644)
        path.write_bytes(b"\0" + path.read_bytes()[1:])
    emptied(bench)


@pytest.mark.parametrize(
    ("before", "action"),
    [
        (emptied, produce),
        (changed, produce),
        (changed, recompute),
        pytest.param(emptied, restore, marks=pytest.mark.slow),
        (changed_and_back, restore),
        (tidied, carry_over),
        (damaged, mend),
    ],
)
def test_killed_before_any_operation_nothing_is_half_there(bench, monkeypatch, tmp_path_factory, before, action):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    bench.run()
    before(bench)
    state, folders = bench.folder, tmp_path_factory.mktemp("killed")
    old = bench.bytes_in("data")

    def begin(name):
        shutil.copytree(state, folders / name)
        monkeypatch.chdir(folders / name)
        bench.folder = folders / name

    begin("undisturbed")
    action(bench)
    new = results(bench)
    operations = 0
    while True:
        begin(f"{operations}")
        if not killed(bench, action, operations):
            break
        check_whole(bench, old, new)
        action(bench)
        assert results(bench) == new
        assert not [path for path in Path("data").rglob(".*") if str(os.getpid()) in path.name]
        shutil.rmtree(bench.folder)
        operations += 1
    assert results(bench) == new
    assert operations > 10


def killed(bench, action, count):
    """Whether an action was killed in a process of its own, after so many operations on files."""
    child = os.fork()
    if child == 0:
        try:
            kill_after(count, bench.folder)
            action(bench)
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def kill_after(count, folder):
    left = count

    def before_operation():
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event, arguments):
        writes = event == "open" and arguments[2] & WRITING
        if (writes or event in OPERATIONS) and Path(os.path.abspath(os.fsdecode(arguments[0]))).is_relative_to(folder):
            before_operation()

    sys.addaudithook(hook)
    os.fsync = lambda _: before_operation()


def check_whole(bench, old, new):
    for path in CACHE.glob("files/md5/??/*"):
        assert md5(path) == path.parent.name + path.name or path.read_bytes()[0] == 0  # or the test's own damage
    for path in CACHE.glob("runs/??/*/*"):
        if path.read_bytes()[0] != 0:
            for out in json.loads(path.read_text())["outs"]:
                content = CACHE / "files/md5" / out["md5"][:2] / out["md5"][2:]
                assert content.is_file() or (CACHE / "damaged" / out["md5"]).is_file()
    for path, content in bench.bytes_in("data").items():
        if not Path(path).name.startswith("."):
            assert content in (old.get(path), new["data"][path])
    read_lock()


def results(bench):
    """All that a run leaves but what it remembers and what killed processes left."""
    objects = bench.bytes_in(str(CACHE / "files"), str(CACHE / "runs"), str(CACHE / "damaged"))
    data = {path: content for path, content in bench.bytes_in("data").items() if not Path(path).name.startswith(".")}
    written = {path: Path(path).read_bytes() for path in ("dvc.lock", "dvc.yaml") if Path(path).is_file()}
    return {"objects": objects, "data": data, "written": written}
