"""One job of the plan: what it reads, which settings and code it uses, and what it writes."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class Job:
    """A node of the plan.

    Paths are relative to the study's working directory and use forward slashes.
    """

    rule: str  # the stage module that runs it: "train", "attack", ...
    item: str  # what it is run for: a dataset, a variant, a variant and an attack
    inputs: tuple[str, ...]  # files made by other jobs
    params: tuple[str, ...]  # dotted keys of params.yaml, only those that the job uses
    modules: tuple[str, ...]  # source files of its code's roots: the stage and the plugins that params name
    code: str  # the key of its code's digest in data/code.json, one for each set of modules
    outputs: tuple[str, ...]  # files kept in the cache
    tracked: tuple[str, ...] = ()  # outputs kept in git instead of in the workspace's cache links
    metrics: tuple[str, ...] = ()  # the tracked outputs that `dvc metrics` shows

    @property
    def name(self) -> str:
        """The job's name in dvc.yaml and in log files."""
        return f"{self.rule}--{self.item}"

    @property
    def command(self) -> str:
        """The command that runs the job from the study's working directory."""
        return f"python -m stages {self.rule} {self.item}"

    @property
    def products(self) -> tuple[str, ...]:
        """Every file that the job writes, sorted."""
        return tuple(sorted((*self.outputs, *self.tracked, *self.metrics)))


def unknown(rule: str, item: str, jobs: Iterable[Job]) -> ValueError:
    """The error of asking for a job that the plan lacks: which one may be meant, of hundreds."""
    close = get_close_matches(item, [job.item for job in jobs if job.rule == rule], n=1)
    hint = f"did you mean {close[0]!r}?" if close else "expected a job of dvc.yaml"
    return ValueError(f"params.yaml asks for no {rule} of {item!r}, {hint}")
