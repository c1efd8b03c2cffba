from dataclasses import dataclass

from stages.ledger.job import Job

FIGURES = ("accuracy_vs_epsilon", "distance", "examples", "heatmap", "pareto", "transfer")


def pair(stem):
    return (f"data/{stem}.json", f"data/{stem}.safetensors")


@dataclass(frozen=True)
class Task:
    job: Job


def tasks(params):
    return [Task(job) for job in [*prepare(params), *attack(params), *score(params), report(params)]]


def prepare(params):
    return [
        Job("prepare", name, (), ("scale",), *code("prepare"), pair(f"prepared/{name}"))
        for name in params.written["sets"]
    ]


def attack(params):
    for name in params.written["sets"]:
        for by in params.written["attacks"]:
            item, inputs = f"{name}-{by}", pair(f"prepared/{name}")
            yield Job("attack", item, inputs, (f"attacks.{by}",), *code("attack", by), pair(f"adversarial/{item}"))


def score(params):
    """Attacks that are transferred are scored on the sets of all, so that a setting may change inputs alone."""
    for name in params.written["sets"]:
        for by in params.written["attacks"]:
            crafted_on = params.written["sets"] if by in params.written["transfer"] else [name]
            inputs = tuple(path for other in crafted_on for path in pair(f"adversarial/{other}-{by}"))
            made = (f"data/scores/{name}-{by}.parquet",)
            yield Job("score", f"{name}-{by}", inputs, ("threads",), *code("score"), made)


def report(params):
    results = [f"data/results/{name}.csv" for name in ("results", "variants", "worst_case")]
    results += [f"data/results/figures/{name}.svg" for name in FIGURES]
    scores = tuple(output for job in score(params) for output in job.outputs)
    metrics = ("data/results/metrics.json",)
    elsewhere = ("mirror", "resources", "ledger")  # of no result's making, as in the real plan
    settings = tuple(key for key in params.written if key not in elsewhere)
    return Job(
        "report", "all", scores, settings, *code("report"), ("data/results/report.html",), tuple(results), metrics
    )


def code(rule, plugin=None):
    plugins = [f"stages/attacks/{plugin}.py"] if plugin else []
    return (f"stages/{rule}.py", *plugins), "-".join([rule, *filter(None, [plugin])])


def dvc_plots(params):
    column = {"data/results/results.csv": "value"}
    return [{"values": {"x": {"data/results/results.csv": "step"}, "y": column}}]
