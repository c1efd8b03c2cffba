"""A plan by its jobs."""

from stages.ledger.job import Job
from stages.params import Params
from stages.plan import Task, tasks


def plan(params: Params) -> list[Job]:
    """All jobs, each after those that make its inputs."""
    return [task.job for task in tasks(params)]


def task_of(job: Job, params: Params) -> Task:
    """What a job of the plan is about; KeyError where the plan has no such job."""
    return {task.job: task for task in tasks(params)}[job]
