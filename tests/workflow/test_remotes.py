"""Results shared through DVC remotes, with real servers on loopback: pulled by DVC, and fetched on demand."""

import getpass
import logging
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import boto3
import pytest
import yaml
from configobj import ConfigObj
from moto.server import ThreadedMotoServer

from tests.workflow.conftest import REPOSITORY, Project
from tests.workflow.test_workflow import ALL, contents

pytestmark = pytest.mark.workflow

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")

REMOTE = 'remote "store"'  # the section of DVC's settings


class Folder:
    """A remote in a local folder. `settings` are DVC's for it, `secrets` those that are kept out of git."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = {"url": str(folder)}
        self.secrets: dict[str, str] = {}

    def replace(self, digest: str, content: bytes) -> None:
        """Give a content other bytes."""
        self._content(digest).write_bytes(content)

    def remove(self, digest: str) -> None:
        """Remove a content."""
        self._content(digest).unlink()

    def stop(self) -> None:
        """Make it unreachable."""
        self.folder.rename(f"{self.folder}-moved")

    def _content(self, digest: str) -> Path:
        return self.folder / "files/md5" / digest[:2] / digest[2:]


class Bucket:
    """A remote in a bucket of moto's S3 server."""

    def __init__(self, folder: Path) -> None:
        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for each request otherwise
        self.server.start()
        host, port = self.server.get_host_and_port()
        endpoint, self.name = f"http://{host}:{port}", f"bucket-{port}"
        self.settings = {"url": f"s3://{self.name}/results", "endpointurl": endpoint, "region": "us-east-1"}
        self.secrets = {"access_key_id": "somebody", "secret_access_key": "secret"}
        self.client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="somebody",
            aws_secret_access_key="secret",
        )
        self.client.create_bucket(Bucket=self.name)

    def replace(self, digest: str, content: bytes) -> None:
        self.client.put_object(**self._content(digest), Body=content)

    def remove(self, digest: str) -> None:
        self.client.delete_object(**self._content(digest))

    def stop(self) -> None:
        self.server.stop()

    def _content(self, digest: str) -> dict[str, str]:
        return {"Bucket": self.name, "Key": f"results/files/md5/{digest[:2]}/{digest[2:]}"}


class Ssh(Folder):
    """A remote behind an OpenSSH server of its own, with keys of its own."""

    def __init__(self, folder: Path) -> None:
        if SSHD is None:
            pytest.skip("needs sshd (Debian: openssh-server)")
        super().__init__(folder)
        host, client = folder.with_name("host"), folder.with_name("client")
        for key in (host, client):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        config = folder.with_name("sshd_config")
        config.write_text(
            f"ListenAddress 127.0.0.1:{port}\nHostKey {host}\nAuthorizedKeysFile {client}.pub\nPidFile none\n"
            "StrictModes no\nUsePAM no\nPasswordAuthentication no\nSubsystem sftp internal-sftp\n"
        )
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # sshd does not start as root without its empty folder
        self.process = subprocess.Popen([SSHD, "-D", "-e", "-f", config], stderr=subprocess.DEVNULL)
        self.settings = {"url": f"ssh://{getpass.getuser()}@127.0.0.1:{port}{folder}"}
        self.secrets = {"keyfile": str(client)}
        while not _listens(port):
            assert self.process.poll() is None

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def _listens(port: int) -> bool:
    with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def _serve(kind: type, folder: Path) -> Iterator[Folder | Bucket]:
    folder.mkdir()
    store = kind(folder / "store")
    yield store
    with suppress(FileNotFoundError):  # a test may have stopped it
        store.stop()


@pytest.fixture(params=[Folder, Bucket, Ssh], ids=["local", "s3", "ssh"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder | Bucket]:
    """An empty remote."""
    yield from _serve(request.param, tmp_path / "server")


@pytest.fixture
def clone(computed: Project, store: Folder | Bucket) -> Project:
    """A clone of a project whose results were pushed. It has the secrets of the remote, but no results."""
    share(computed, store)
    return clone_of(computed, store)


def share(project, store):
    """Add the remote to a project and push all of its results."""
    for file in ("Makefile", "requirements.lock"):
        shutil.copy(REPOSITORY / file, project.folder)
    configure(project, store)
    project.commit()
    assert "WARNING" not in make(project, "push")


def clone_of(project, store):
    clone = Project(project.folder.with_name("clone"))
    assert project.run("git", "clone", "-q", ".", str(clone.folder)).returncode == 0
    configure(clone, store)
    return clone


def configure(project, store):
    """Write what DVC's commands would, each of which takes a second."""
    sections = {
        "config": {"core": {"remote": "store"}, REMOTE: store.settings},
        "config.local": {REMOTE: store.secrets},
    }
    for file, settings in sections.items():
        config = ConfigObj(str(project.folder / ".dvc" / file))
        config.merge(settings)
        config.write()


def make(project, target):
    """What a target of the project's Makefile prints; the set-up is done."""
    done = project.run("make", "--old-file=setup", f"BIN={Path(sys.executable).parent}", target)
    assert done.returncode == 0, done.stdout
    return done.stdout


def digest(project, path):
    """The MD5 of a result, by dvc.lock."""
    jobs = yaml.safe_load((project.folder / "dvc.lock").read_text())["stages"].values()
    return next(out["md5"] for job in jobs for out in job["outs"] if out["path"] == path)


@pytest.mark.parametrize("store", [Bucket], indirect=True)
def test_remotes_are_set_as_dvc_sets_them(project, store):
    files = [project.folder / ".dvc" / name for name in ("config", "config.local")]
    before = files[0].read_bytes()
    configure(project, store)
    configured = [ConfigObj(str(file)) for file in files]
    files[0].write_bytes(before)
    files[1].unlink()
    project.dvc("remote", "add", "--default", "store", store.settings["url"])
    for settings, options in ((store.settings, []), (store.secrets, ["--local"])):
        for key, value in settings.items():
            project.dvc("remote", "modify", *options, "store", key, value)
    assert [ConfigObj(str(file)) for file in files] == configured


def test_after_a_pull_there_is_nothing_to_do(computed, clone):
    assert "WARNING" not in make(clone, "pull")
    assert "Nothing to be done" in clone.snakemake("-n")
    clone.snakemake()
    assert clone.computed() == []
    assert contents(clone.products()) == contents(computed.products())
    assert "data/results/report.html" in clone.products()


@pytest.mark.parametrize("store", [Folder], indirect=True)
def test_studies_that_nobody_shared_are_no_obstacle(computed, store):
    """One that was never run, and one that was run somewhere else: its results are in git's dvc.lock alone."""
    for name, scale in (("planned", 7), ("elsewhere", 8)):
        study = Project(computed.folder / "studies" / name)
        study.folder.mkdir(parents=True)
        shutil.copy(computed.folder / "params.yaml", study.folder)
        study.set(scale=scale)
        assert study.run("python", "-m", "stages", "plan", PYTHONPATH=str(computed.folder)).returncode == 0
    kept = computed.folder.with_name("kept")
    shutil.copytree(computed.folder / ".dvc/cache", kept)
    computed.snakemake("--config", "study=elsewhere")
    shutil.rmtree(computed.folder / ".dvc/cache")
    kept.rename(computed.folder / ".dvc/cache")
    computed.commit()
    assert computed.run("git", "clean", "-fdXq", "studies").returncode == 0

    share(computed, store)
    clone = clone_of(computed, store)
    make(clone, "pull")
    assert "Nothing to be done" in clone.snakemake("-n")
    assert contents(clone.products()) == contents(computed.products())


def test_results_are_fetched_on_demand(computed, clone):
    clone.set(ledger={"remote": "store"})
    before = clone.products()
    assert "11 would be fetched" in clone.snakemake("-n")
    assert clone.products() == before
    assert not (clone.folder / ".dvc/cache/files").exists()

    assert "11 fetched" in clone.snakemake()
    assert clone.computed() == []
    assert contents(clone.products()) == contents(computed.products())
    assert "up to date" in clone.dvc("status")

    clone.set(ledger={"remote": ""})
    assert "Nothing to be done" in clone.snakemake("-n")


def test_what_the_remote_lost_or_spoilt_is_computed_where_it_is_needed_and_the_rest_fetched(computed, clone, store):
    for lost in ("results/report.html", "scores/even-add.parquet", "adversarial/odd-sign.json"):
        store.remove(digest(computed, f"data/{lost}"))
    spoilt = digest(computed, "data/adversarial/even-add.safetensors")
    store.replace(spoilt, b"spoilt")
    clone.set(ledger={"remote": "store"})
    printed = clone.snakemake()
    assert "7 fetched, 1 known" in printed
    assert clone.computed() == ["attack--even-add", "report--all", "score--even-add"]
    assert f"damaged: what the remote 'store' holds as {spoilt}" in printed
    made = contents(computed.products())
    assert contents(clone.products()) == {name: made[name] for name in made if "adversarial/odd-sign" not in name}


def test_without_the_server_all_is_computed(computed, clone, store):
    store.stop()
    clone.set(ledger={"remote": "store"})
    printed = clone.snakemake()
    assert clone.computed() == ALL
    assert printed.count("remote 'store' is not asked in this run: ") == printed.count("remote 'store'") == 1
    assert contents(clone.products()) == contents(computed.products())
