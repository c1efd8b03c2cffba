import os
import sys
from functools import partial
from pathlib import Path

from stages.ledger.errors import sentence
from stages.ledger.runcache import settings_folders
from stages.ledger.scheduling import Schedule
from stages.study import open_study, summarise

launched_from = folder = Path.cwd()
if "study" in config:
    name = str(config["study"])  # Snakemake reads 3 as a number
    folder = Path(workflow.basedir, "studies", name)
if not (folder / "params.yaml").is_file():
    sys.exit(f"{folder}: holds no params.yaml, expected the folder of a study.")

# Jobs run with the Python, the code and the settings of DVC that this Snakemake runs with, in any folder. They keep the
# memory that they freed: by default glibc gives large tensors back to the system, whose fresh pages then cost time anew.
os.environ.update(
    settings_folders(),
    MALLOC_MMAP_MAX_="0",
    MALLOC_TRIM_THRESHOLD_="100000000000",
    MALLOC_TOP_PAD_="67108864",
    PATH=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
    PYTHONPATH=f"{workflow.basedir}:{os.environ.get('PYTHONPATH', '')}",
)


workdir: folder


try:
    study = open_study()
except (ValueError, OSError) as error:
    sys.exit(f"error: {sentence(error)}")

shown = partial(summarise, Path(os.path.relpath(folder, launched_from)))
page = study.task("report", "all").job
schedule = Schedule(workflow, study.ledger, shown, launched_from)
inputs = schedule.inputs


onsuccess:
    schedule.finish(succeeded=True)


onerror:
    schedule.finish(succeeded=False)


wildcard_constraints:
    item="[^/]+",


localrules:
    all,


rule all:
    input:
        schedule.targets,


rule prepare:
    input:
        inputs("prepare"),
    output:
        "data/prepared/{item}.safetensors",
        "data/prepared/{item}.json",
    log:
        "logs/prepare/{item}.log",
    benchmark:
        "logs/prepare/{item}.tsv"
    conda:
        "profiles/environment.yaml"
    threads: study.params.threads
    resources:
        mem_mb=lambda wildcards, rulename: study.params.resources.of(rulename).memory,
        runtime=lambda wildcards, rulename: study.params.resources.of(rulename).runtime,
        gpu=lambda wildcards, rulename: study.params.resources.of(rulename).gpus,
        cpus_per_task=study.params.threads,  # of a cluster: `threads` is cut to the cores of where Snakemake runs
        lane=1,  # profiles/slurm gives a group one of them: its jobs follow each other
    params:
        stage="prepare",
    message:
        "{params.stage} {wildcards.item}"
    shell:
        "python -m stages {params.stage} {wildcards.item}"


use rule prepare as train with:
    input:
        inputs("train"),
    output:
        "data/trained/{item}.safetensors",
        "data/trained/{item}.json",
    log:
        "logs/train/{item}.log",
    benchmark:
        "logs/train/{item}.tsv"
    params:
        stage="train",


use rule prepare as defend with:
    input:
        inputs("defend"),
    output:
        "data/defended/{item}.safetensors",
        "data/defended/{item}.json",
    log:
        "logs/defend/{item}.log",
    benchmark:
        "logs/defend/{item}.tsv"
    params:
        stage="defend",


use rule prepare as quantize with:
    input:
        inputs("quantize"),
    output:
        "data/quantized/{item}.safetensors",
        "data/quantized/{item}.json",
    log:
        "logs/quantize/{item}.log",
    benchmark:
        "logs/quantize/{item}.tsv"
    params:
        stage="quantize",


use rule prepare as filter with:
    input:
        inputs("filter"),
    output:
        "data/filtered/{item}.safetensors",
        "data/filtered/{item}.json",
    log:
        "logs/filter/{item}.log",
    benchmark:
        "logs/filter/{item}.tsv"
    params:
        stage="filter",


use rule prepare as attack with:
    input:
        inputs("attack"),
    output:
        "data/adversarial/{item}.safetensors",
        "data/adversarial/{item}.json",
    log:
        "logs/attack/{item}.log",
    benchmark:
        "logs/attack/{item}.tsv"
    params:
        stage="attack",


use rule prepare as probe with:
    input:
        inputs("probe"),
    output:
        "data/probes/{item}.parquet",
    log:
        "logs/probe/{item}.log",
    benchmark:
        "logs/probe/{item}.tsv"
    params:
        stage="probe",


use rule prepare as score with:
    input:
        inputs("score"),
    output:
        "data/scores/{item}.parquet",
    log:
        "logs/score/{item}.log",
    benchmark:
        "logs/score/{item}.tsv"
    params:
        stage="score",


use rule prepare as diagnose with:
    input:
        inputs("diagnose"),
    output:
        "data/diagnostics/{item}.parquet",
    log:
        "logs/diagnose/{item}.log",
    benchmark:
        "logs/diagnose/{item}.tsv"
    params:
        stage="diagnose",


use rule prepare as bitflip with:
    input:
        inputs("bitflip"),
    output:
        "data/faults/{item}.parquet",
        "data/flipped/{item}.parquet",
    log:
        "logs/bitflip/{item}.log",
    benchmark:
        "logs/bitflip/{item}.tsv"
    params:
        stage="bitflip",


use rule prepare as export with:
    input:
        inputs("export"),
    output:
        "data/exported/{item}.onnx",
        "data/exported/{item}.json",
    log:
        "logs/export/{item}.log",
    benchmark:
        "logs/export/{item}.tsv"
    params:
        stage="export",


rule report:
    input:
        inputs("report", "all"),
    output:
        page.products,
    log:
        "logs/report/all.log",
    benchmark:
        "logs/report/all.tsv"
    conda:
        "profiles/environment.yaml"
    threads: study.params.threads
    resources:
        mem_mb=lambda wildcards, rulename: study.params.resources.of(rulename).memory,
        runtime=lambda wildcards, rulename: study.params.resources.of(rulename).runtime,
        gpu=lambda wildcards, rulename: study.params.resources.of(rulename).gpus,
        cpus_per_task=study.params.threads,  # of a cluster: `threads` is cut to the cores of where Snakemake runs
        lane=1,  # profiles/slurm gives a group one of them: its jobs follow each other
    message:
        "report"
    shell:
        "python -m stages report all"
