"""The command line: `python -m stages RULE ITEM` runs one job of the plan in the study's folder."""

import argparse
import faulthandler
import importlib
import os
import sys
import traceback
from pathlib import Path
from typing import Any, TextIO

RULES = {
    "prepare": "make a dataset's canonical arrays",
    "train": "train a float network",
    "defend": "train a float network with a defense",
    "quantize": "turn a float network into integers",
    "attack": "craft adversarial inputs against a network",
    "score": "judge a network on clean or adversarial inputs, one row a sample",
    "report": "gather all scores into tables, figures and one page (ITEM is `all`)",
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 where it succeeded. Imports what it needs only then, so that --help is instant."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "plan":
            _plan(options.check)
        elif options.command == "summary":
            _summarise()
        else:
            _run_logged(options.command, options.item, options.recompute)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m stages",
        description="Run one job of the study in the working directory. `snakemake` runs all of them.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for rule, purpose in RULES.items():
        job = commands.add_parser(rule, help=purpose, description=f"Restore from the cache, or else {purpose}.")
        job.add_argument("item", metavar="ITEM", help="what to run it for, as dvc.yaml names it after `--`")
        job.add_argument("--recompute", action="store_true", help="compute even if the cache holds the result")
    plan = commands.add_parser("plan", help="write dvc.yaml and data/code.json from params.yaml and the code")
    plan.add_argument("--check", action="store_true", help="change nothing, fail if they are out of date")
    commands.add_parser("summary", help="print the end table of the last run")
    return parser


def _plan(check: bool) -> None:
    from stages.study import open_study

    ledger = open_study().ledger
    if check:
        ledger.check_generated()
    else:
        ledger.write_generated()


def _summarise() -> None:
    from stages.study import summarise

    summarise(Path())


def _run_logged(rule: str, item: str, recompute: bool) -> None:
    """Run a job, with all that it prints both on the terminal and in its log file."""
    log_file = Path("logs", rule, f"{item}.log")
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with open(log_file, "w", buffering=1, encoding="utf-8") as log:
        terminal = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = (_Tee(stream, log) for stream in terminal)
        faulthandler.enable(log)
        try:
            _run(rule, item, recompute)
        except Exception:
            traceback.print_exc(file=log)
            raise
        finally:
            faulthandler.disable()
            sys.stdout, sys.stderr = terminal


def _run(rule: str, item: str, recompute: bool) -> None:
    from stages.study import open_study

    study = open_study()
    task = study.task(rule, item)
    study.ledger.check_job(task.job)
    _fix_threads(study.params.threads)

    def compute(outputs: Any) -> None:
        importlib.import_module(f"stages.{rule}").run(task, study.params, outputs)

    if "DVC_STAGE" in os.environ:
        study.ledger.compute_only(task.job, compute)
    elif not study.ledger.produce(task.job, compute, recompute):
        print(f"{task.job.name}: restored from the cache", file=sys.stderr)


def _fix_threads(threads: int) -> None:
    """Results depend on the number of threads, and Snakemake's own choice of it on --cores."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)


class _Tee:
    """A text stream that also writes to a log; all else is the terminal's, so that progress bars know it."""

    def __init__(self, terminal: TextIO, log: TextIO) -> None:
        self._terminal = terminal
        self._log = log

    def write(self, text: str) -> int:
        self._log.write(text)
        return self._terminal.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._terminal, name)


if __name__ == "__main__":
    sys.exit(main())
