"""What the ledger costs beside plain Snakemake: `python benchmarks/workflow.py [RUNS] [JOBS ...]`.

Both run the same grid of jobs of no work on the same machine in turns: each job starts Python, hashes its inputs and
writes its outputs. The plain project has the same profile and rules without a ledger. Printed are the seconds of a
first run, of a run with nothing to do, and of the ledger restoring everything from the cache after `data/` was deleted.
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
from tests.workflow.conftest import Project, build

JOBS_A_SET = 5  # prepare, two attacks, two scores
PLAIN_JOB = """
import hashlib, json, sys
from pathlib import Path

item, inputs, outputs = sys.argv[1:]
content = hashlib.sha256(item.encode())
for file in inputs.split():
    content.update(Path(file).read_bytes())
for product in outputs.split():
    Path(product).write_text(json.dumps({"value": int(content.hexdigest()[:4], 16), "file": product}))
"""
PLAIN_RULES = """
SETS = [f"s{number}" for number in range(NUMBER_OF_SETS)]
JOB = "python job.py {wildcards} '{input}' '{output}'"

rule report:
    input: expand("data/scores/{item}-{by}.parquet", item=SETS, by=["add", "sign"])
    output: "data/results/results.csv"
    shell: "cat {input} > {output}"

rule prepare:
    output: "data/prepared/{item}.json", "data/prepared/{item}.safetensors"
    wildcard_constraints: item="[^-]+"
    log: "logs/prepare/{item}.log"
    benchmark: "logs/prepare/{item}.tsv"
    shell: JOB

rule attack:
    input: "data/prepared/{item}.json", "data/prepared/{item}.safetensors"
    output: "data/adversarial/{item}-{by}.json", "data/adversarial/{item}-{by}.safetensors"
    log: "logs/attack/{item}-{by}.log"
    benchmark: "logs/attack/{item}-{by}.tsv"
    shell: JOB.replace("{wildcards}", "{wildcards.item}-{wildcards.by}")

rule score:
    input: "data/adversarial/{item}.json", "data/adversarial/{item}.safetensors"
    output: "data/scores/{item}.parquet"
    log: "logs/score/{item}.log"
    benchmark: "logs/score/{item}.tsv"
    shell: JOB
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
    ledger = build(folder / "ledger")
    ledger.set(sets=[f"s{number}" for number in range(sets)])
    plain = Project(folder / "plain")
    shutil.copytree(ledger.folder / "profiles", plain.folder / "profiles")
    (plain.folder / "job.py").write_text(PLAIN_JOB)
    (plain.folder / "Snakefile").write_text(PLAIN_RULES.replace("NUMBER_OF_SETS", str(sets)))

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
