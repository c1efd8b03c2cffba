"""A real SLURM cluster of one node on this machine, with all of its files and ports its own.

It needs Debian's packages slurm-wlm and munge, but none of their configuration, no systemd and no cgroups. Its memory
and its one GPU are made up: SLURM counts what jobs ask for, and does not look for a GPU.

`python -m tests.workflow.slurm` starts one to try things on, until Ctrl-C.
"""

import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sinfo", "sbatch", "srun", "squeue", "scontrol", "scancel")
CPUS, MEMORY = min(2, os.cpu_count()), 16000  # MB

CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
MpiDefault=none
ReturnToService=2
MinJobAge=3600
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:1
PartitionName=short Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """The programs that a cluster needs and that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Start a cluster, wait for its node, and stop it in the end; the environment variables that name it.

    Raises:
        RuntimeError: it did not start; its logs are in the message.
    """
    with ExitStack() as stack:
        # Not in a folder of pytest's: a socket's path must be short.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
        path = f"{_srun(folder)}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {"SLURM_CONF": str(_configure(folder)), "PATH": path}
        for command in (
            ["munged", "--foreground", "--force", *_munge_files(folder)],
            ["slurmctld", "-D", "-i"],
            ["slurmd", "-D"],
        ):
            stack.enter_context(_daemon(folder, command, environment))
        stack.callback(_cancel_all, environment)
        _wait_for_node(folder, environment)
        yield environment


def _configure(folder: Path) -> Path:
    host = socket.gethostname().partition(".")[0]
    user = pwd.getpwuid(os.getuid()).pw_name
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    (folder / "gres.conf").write_text(f"NodeName={host} Name=gpu File=/dev/zero\n")
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(host=host, user=user, folder=folder, ports=_free_ports(), cpus=CPUS, memory=MEMORY)
    )
    return configuration


def _srun(folder: Path) -> Path:
    """A folder with a srun that knows its cluster: Snakemake takes all variables of SLURM from its environment."""
    program = folder / "bin/srun"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
    program.chmod(0o755)
    return program.parent


def _munge_files(folder: Path) -> list[str]:
    files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    return [f"--{option}={folder}/munge.{suffix}" for option, suffix in files.items()]


def _free_ports() -> list[int]:
    with closing(socket.socket()) as one, closing(socket.socket()) as other:
        for listening in (one, other):
            listening.bind(("127.0.0.1", 0))
        return [one.getsockname()[1], other.getsockname()[1]]


@contextmanager
def _daemon(folder: Path, command: list[str], environment: dict[str, str]) -> Iterator[None]:
    with open(folder / f"{command[0]}.out", "w") as log:
        running = subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        running.terminate()
        try:
            running.wait(timeout=20)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def _wait_for_node(folder: Path, environment: dict[str, str]) -> None:
    deadline = time.monotonic() + 60
    while _ask(environment, "sinfo", "--noheader", "--format=%T").stdout.strip() != "idle":
        if time.monotonic() > deadline:
            logs = "\n".join(f"{log.name}:\n{log.read_text()}" for log in sorted(folder.glob("*.out")))
            raise RuntimeError(f"SLURM's node is not idle after a minute.\n{logs}")
        time.sleep(0.2)


def _cancel_all(environment: dict[str, str]) -> None:
    """Nothing that a test left behind outlives its cluster."""
    _ask(environment, "scancel", "--user", str(os.getuid()))
    deadline = time.monotonic() + 60
    while _ask(environment, "squeue", "--noheader").stdout and time.monotonic() < deadline:
        time.sleep(0.2)


def _ask(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    if missing():
        sys.exit(f"There is no {', '.join(missing())}: install SLURM (Debian: slurm-wlm, munge).")
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda *_: sys.exit())
    with cluster() as named:
        print(*(f"export {name}={shlex.quote(value)}" for name, value in named.items()), sep="\n", flush=True)
        signal.pause()
