"""The study in the working directory: its settings, its plan, and its ledger."""

from dataclasses import dataclass
from pathlib import Path

from stages.ledger.job import unknown
from stages.ledger.ledger import Ledger
from stages.params import Params, load_params
from stages.plan import Task, dvc_plots, tasks

LIBRARIES = ("torch", "brevitas", "numpy", "onnx", "onnxruntime")  # a new version of these may change results


@dataclass(frozen=True)
class Study:
    """What `params.yaml` in the working directory asks for."""

    params: Params
    tasks: list[Task]
    ledger: Ledger

    def task(self, rule: str, item: str) -> Task:
        """The task of the plan; ValueError where the plan has no such job."""
        for task in self.tasks:
            if (task.job.rule, task.job.item) == (rule, item):
                return task
        raise unknown(rule, item, self.ledger.jobs)


def open_study() -> Study:
    """The study in the working directory.

    Raises:
        ValueError: params.yaml holds faults.
        FileNotFoundError: the working directory is in no repository that DVC was initialised in.
    """
    params = load_params()
    project = Path(__file__).resolve().parents[1]
    planned = tasks(params)
    jobs = [task.job for task in planned]
    ledger = Ledger(jobs, params.written, project, LIBRARIES, dvc_plots(params), params.ledger.remote)
    return Study(params, planned, ledger)


def summarise(folder: Path) -> None:
    """Print the end table of the study in a folder, and where its report is."""
    from stages.reporting.summary import print_summary  # pandas takes its time, and only the end needs it

    print_summary(folder / "data/results")
