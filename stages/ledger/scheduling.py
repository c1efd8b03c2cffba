"""The ledger as Snakemake sees it: Snakemake runs jobs in parallel, DVC's content hashes decide which.

Modification times play no part: inputs that stay as they are are `ancient()`, and the jobs that have to run are
forced by name. A dry run therefore changes nothing at all.
"""

import atexit
import contextlib
import sys
from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from snakemake.io import ancient

from stages.ledger.dvcfiles import PARAMS
from stages.ledger.errors import sentence
from stages.ledger.job import Job
from stages.ledger.ledger import Assessment, Ledger


class Schedule:
    """Input functions for the rules of a Snakefile, and what is done before and after its jobs."""

    def __init__(self, workflow: Any, ledger: Ledger, summarise: Callable[[], None], launched_from: Path) -> None:
        """
        Args:
            workflow: Snakemake's object of that name in a Snakefile.
            ledger: of the working directory.
            summarise: prints the results; it is called in `launched_from`, as the last thing before Snakemake exits.
        """
        self.workflow = workflow
        self.ledger = ledger
        self.summarise = summarise
        self.launched_from = launched_from
        self.jobs = {(job.rule, job.item): job for job in ledger.jobs}

    def inputs(self, rule: str, item: str | None = None) -> Callable[[Any], list[str]]:
        """The input function of a rule, for the item that is given or else the wildcard `item`."""

        def inputs_of(wildcards: Any) -> list[str]:
            name = wildcards.item if item is None else item
            if (rule, name) not in self.jobs:
                raise ValueError(f"params.yaml asks for no {rule} of {name!r}, expected one of the plan's jobs.")
            return self._visible(self.jobs[rule, name].inputs)

        return inputs_of

    def targets(self, wildcards: Any) -> list[str]:
        """All files that no other job reads."""
        read = {path for job in self.ledger.jobs for path in job.inputs}
        targets = self._visible([path for path in self.ledger.makers if path not in read])
        return targets or [ancient(PARAMS)]  # Snakemake would run a rule without any input

    def finish(self, succeeded: bool) -> None:
        """What is done after the last job: dvc.lock, and the summary if nothing is left to do."""
        with _telling():  # the results are kept: where it cannot be written, as on a full disk, the next run writes it
            assessment = self.ledger.assess()
            self.ledger.write_lock(assessment)
        if succeeded and not assessment.stale:
            self._summarise_at_exit()

    def _visible(self, paths: Collection[str]) -> list[str]:
        """Inputs for Snakemake: it runs whoever reads what a job that runs makes, and minds no other file's time."""
        made_anew, as_good_as_there = self._settled
        return [path if path in made_anew else ancient(path) for path in paths if path not in as_good_as_there]

    @cached_property
    def _settled(self) -> tuple[frozenset[str], frozenset[str]]:
        """The products of jobs that run, and those that a dry run leaves in the cache.

        Restores what can be restored and forces what is stale, once, when Snakemake asks for the first inputs.

        Not when it reads the Snakefile: only now is it known whether jobs are going to run. A dry run restores nothing;
        there it is the files that a real run would restore, which Snakemake then need not know about.
        """
        if not self.workflow.is_main_process:
            return frozenset(), frozenset()
        with _telling():
            assessment, restored, fetched = self.ledger.restore() if self._runs_jobs else (self.ledger.assess(), 0, 0)
            if self._runs_jobs:
                self.ledger.write_generated()
                self.ledger.write_lock(assessment)
        made_anew = self._made_anew(assessment.stale)
        self.workflow.dag.forcefiles.update(made_anew)
        if self._runs_jobs and not made_anew:
            self._summarise_at_exit()  # Snakemake calls onsuccess only after it ran a job
        self._tell(assessment, restored, fetched)
        return made_anew, frozenset(out["path"] for record in assessment.restorable.values() for out in record["outs"])

    def _tell(self, assessment: Assessment, restored: int, fetched: int) -> None:
        remote = [record for record in assessment.restorable.values() if not self.ledger.cache.is_local(record)]
        parts = [
            f"{len(assessment.current) - restored} up to date",
            f"{restored - fetched} restored",
            f"{fetched} fetched",
            f"{len(assessment.restorable) - len(remote)} would be restored",
            f"{len(remote)} would be fetched",
            f"{len(assessment.stale)} to run",
        ]
        print(f"Jobs: {', '.join(part for part in parts if not part.startswith('0 '))}.", file=sys.stderr)

    def _made_anew(self, stale: Collection[Job]) -> frozenset[str]:
        """The products of stale jobs, of those forced on the command line, and of all that follow from these.

        All of them, since Snakemake overlooks a forced job behind one that is up to date behind one that runs.
        """
        dag = self.workflow.dag
        forced_rules = {rule.name for rule in dag.forcerules}
        made: set[str] = {path for job in stale for path in job.products}
        for job in self.ledger.jobs:
            forced = job.rule in forced_rules or not dag.forcefiles.isdisjoint(job.products)
            if forced or not made.isdisjoint(job.inputs):
                made.update(job.products)
        return frozenset(made)

    @property
    def _runs_jobs(self) -> bool:
        """Whether this is neither a dry run nor a mere look (--dag, --summary, --unlock, ...)."""
        looks = self.workflow.execution_settings is None
        return not (looks or self.workflow.dryrun or self.workflow.touch)

    def _summarise_at_exit(self) -> None:
        def summarise() -> None:
            with contextlib.chdir(self.launched_from):
                self.summarise()

        atexit.register(summarise)  # so that Snakemake's own closing lines come before it


@contextlib.contextmanager
def _telling() -> Iterator[None]:
    """End Snakemake with one sentence, where there is one: of an error it would print its own way to it, too."""
    try:
        yield
    except Exception as error:
        told = sentence(error)
        if told is None:
            raise
        sys.exit(f"error: {told}")
