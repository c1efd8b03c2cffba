"""The ledger as Snakemake sees it: Snakemake runs jobs in parallel, DVC's content hashes decide which.

Modification times play no part: inputs that stay as they are are `ancient()`, and the jobs that have to run are
forced by name. A dry run therefore changes nothing at all.
"""

import atexit
import contextlib
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from snakemake.io import ancient

from stages.ledger.dvcfiles import PARAMS
from stages.ledger.errors import sentence
from stages.ledger.job import Job, unknown
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
                raise unknown(rule, name, self.ledger.jobs)
            job = self.jobs[rule, name]
            made_anew, _ = self._settled
            return self._visible(job.inputs, runs=not made_anew.isdisjoint(job.products))

        return inputs_of

    def targets(self, wildcards: Any) -> list[str]:
        """All files that no other job reads."""
        targets = self._visible(self.ledger.targets, runs=True)
        return targets or [ancient(PARAMS)]  # Snakemake would run a rule without any input

    def finish(self, succeeded: bool) -> None:
        """What is done after the last job: dvc.lock, and the summary if nothing is left to do."""
        with _telling():  # the results are kept: where it cannot be written, as on a full disk, the next run writes it
            assessment = self.ledger.assess()
            self.ledger.write_lock(assessment)
        if succeeded and not assessment.stale:
            self._summarise_at_exit()

    def _visible(self, paths: Collection[str], runs: bool) -> list[str]:
        """Inputs for Snakemake: it runs whoever reads what a job that runs makes, and minds no other file's time.

        A job that does not run need not know of inputs that are made anew, since only their content was missing.
        """
        made_anew, out_of_sight = self._settled
        if not runs:
            return [ancient(path) for path in paths if path not in made_anew and path not in out_of_sight]
        return [path if path in made_anew else ancient(path) for path in paths if path not in out_of_sight]

    @cached_property
    def _settled(self) -> tuple[frozenset[str], frozenset[str]]:
        """The products of jobs that run, and those that nobody asks for or that a dry run leaves in the cache.

        Restores what can be restored and forces what is stale, once, when Snakemake asks for the first inputs.

        Not when it reads the Snakefile: only now is it known whether jobs are going to run. A dry run restores nothing;
        there it is the files that a real run would restore, too, which Snakemake then need not know about.
        """
        if not self.workflow.is_main_process:
            return frozenset(), frozenset()
        forced = self._forced()
        needed = {path for job in forced for path in (*job.inputs, *job.products)} | self.workflow.dag.targetfiles
        with _telling():
            if self._runs_jobs:
                assessment, restored, fetched = self.ledger.restore(needed)
                self.ledger.write_generated()
                self.ledger.write_lock(assessment)
                self._wake_for_jobs_alone()
            else:
                assessment, restored, fetched = self.ledger.assess(needed), 0, 0
        made_anew = _products([*assessment.stale, *forced])
        self.workflow.dag.forcefiles.update(made_anew)
        if self._runs_jobs and not made_anew:
            self._summarise_at_exit()  # Snakemake calls onsuccess only after it ran a job
        self._tell(assessment, restored, fetched)
        return made_anew, _products([*assessment.known, *assessment.restorable])

    def _wake_for_jobs_alone(self) -> None:
        """Lifts Snakemake's limit of 100 jobs a second from jobs that run here, which cores limit.

        With a limit Snakemake's scheduler sets itself an alarm each time that it wakes, a job's end wakes it as well,
        and so each job leaves one more alarm a second behind: after some hundred jobs they take a good part of a core.
        """
        if self.workflow.local_exec:
            self.workflow.scheduling_settings.max_jobs_per_timespan = None

    def _tell(self, assessment: Assessment, restored: int, fetched: int) -> None:
        remote = [record for record in assessment.restorable.values() if not self.ledger.cache.is_local(record)]
        parts = [
            f"{len(assessment.current) - restored} up to date",
            f"{restored - fetched} restored",
            f"{fetched} fetched",
            f"{len(assessment.restorable) - len(remote)} would be restored",
            f"{len(remote)} would be fetched",
            f"{len(assessment.known)} known, without their content",
            f"{len(assessment.stale)} to run",
        ]
        print(f"Jobs: {', '.join(part for part in parts if not part.startswith('0 '))}.", file=sys.stderr)

    def _forced(self) -> list[Job]:
        """The jobs that are forced on the command line, and all that follow from these.

        All of them, since Snakemake overlooks a forced job behind one that is up to date behind one that runs.
        """
        dag = self.workflow.dag
        forced_rules = {rule.name for rule in dag.forcerules}
        forced: list[Job] = []
        made: set[str] = set()
        for job in self.ledger.jobs:
            named = job.rule in forced_rules or not dag.forcefiles.isdisjoint(job.products)
            if named or not made.isdisjoint(job.inputs):
                forced.append(job)
                made.update(job.products)
        return forced

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


def _products(jobs: Iterable[Job]) -> frozenset[str]:
    return frozenset(path for job in jobs for path in job.products)


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
