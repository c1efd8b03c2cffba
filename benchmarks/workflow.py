"""What the ledger costs beside plain Snakemake: `python benchmarks/workflow.py [RUNS] [JOBS ...]`.

Both run the same grid of jobs of no work on the same machine in turns: a job starts Python, reads params.yaml, finds
itself in the plan, hashes its inputs and writes its outputs. The plain project has the same profile and rules without a
ledger, and Snakemake goes by modification times. Printed are the seconds of a first run, of a run with nothing to do,
and of the ledger restoring everything from the cache after `data/` was deleted.
"""

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.workflow.conftest import build

JOBS_A_SET = 5  # prepare, two attacks, two scores
PLAIN_JOB = """
import argparse, importlib
from pathlib import Path
from types import SimpleNamespace

from stages.params import load_params
from stages.plan import tasks

parser = argparse.ArgumentParser()
parser.add_argument("rule")
parser.add_argument("item")
options = parser.parse_args()
params = load_params()
task = next(task for task in tasks(params) if (task.job.rule, task.job.item) == (options.rule, options.item))
importlib.import_module(f"stages.{options.rule}").run(task, params, SimpleNamespace(path=Path))
"""
PLAIN_RULES = """
from stages.params import load_params
from stages.plan import FIGURES

SETS = load_params().written["sets"]

rule report:
    input: expand("data/scores/{item}-{by}.parquet", item=SETS, by=["add", "sign"])
    output: "data/results/report.html", *[f"data/results/{name}.csv" for name in ("results", "variants", "worst_case")],
        "data/results/metrics.json", *[f"data/results/figures/{name}.svg" for name in FIGURES]
    log: "logs/report/all.log"
    benchmark: "logs/report/all.tsv"
    shell: "python job.py report all"

rule prepare:
    output: "data/prepared/{item}.json", "data/prepared/{item}.safetensors"
    wildcard_constraints: item="[^-]+"
    log: "logs/prepare/{item}.log"
    benchmark: "logs/prepare/{item}.tsv"
    shell: "python job.py prepare {wildcards.item}"

rule attack:
    input: "data/prepared/{item}.json", "data/prepared/{item}.safetensors"
    output: "data/adversarial/{item}-{by}.json", "data/adversarial/{item}-{by}.safetensors"
    log: "logs/attack/{item}-{by}.log"
    benchmark: "logs/attack/{item}-{by}.tsv"
    shell: "python job.py attack {wildcards.item}-{wildcards.by}"

rule score:
    input: "data/adversarial/{item}.json", "data/adversarial/{item}.safetensors"
    output: "data/scores/{item}.parquet"
    log: "logs/score/{item}.log"
    benchmark: "logs/score/{item}.tsv"
    shell: "python job.py score {wildcards.item}"
"""


def main(runs: str = "3", *sizes: str) -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else every process compiles every module
    for size in map(int, sizes or ("200", "1000")):
        sets = size // JOBS_A_SET
        times: dict[str, list[float]] = {}
        for _ in range(int(runs)):
            with tempfile.TemporaryDirectory() as folder:
                for name, run in measurements(Path(folder), sets).items():
                    times.setdefault(name, []).append(seconds(run))
        tell(sets * JOBS_A_SET + 1, times)


def measurements(folder: Path, sets: int) -> dict[str, Callable[[], object]]:
    """What is timed, in this order."""
    ledger, plain = build(folder / "ledger"), build(folder / "plain")
    for project in (ledger, plain):
        project.set(sets=[f"s{number}" for number in range(sets)])
    (plain.folder / "job.py").write_text(PLAIN_JOB)
    (plain.folder / "Snakefile").write_text(PLAIN_RULES)

    def restore() -> None:
        shutil.rmtree(ledger.folder / "data")
        assert "restored" in ledger.snakemake()

    return {
        "first run, plain": plain.snakemake,
        "first run, ledger": ledger.snakemake,
        "nothing to do, plain": plain.snakemake,
        "nothing to do, ledger": ledger.snakemake,
        "restore everything": restore,
    }


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def tell(jobs: int, times: dict[str, list[float]]) -> None:
    first = times["first run, ledger"], times["first run, plain"]
    more = [1000 * (ledger - plain) / jobs for ledger, plain in zip(*first, strict=True)]
    print(f"{jobs} jobs, 2 cores, {len(more)} runs in turns: minimum, median, maximum")
    for name, values in {**times, "more a job with the ledger": more}.items():
        unit = "ms" if values is more else "s"
        print(f"  {name:27}{min(values):8.2f}{statistics.median(values):8.2f}{max(values):8.2f} {unit}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
