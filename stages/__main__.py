"""The command line: `python -m stages RULE ITEM` runs one job of the plan in the study's folder."""

import argparse
import faulthandler
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import time_ns
from typing import Any, TextIO

from stages.ledger.errors import sentence

NETWORKS = ("train", "defend", "quantize", "filter")  # rules whose results take long to make and little to keep
LARGE = ("prepare", "attack")  # rules whose results take much to keep
PRESETS = Path(__file__).parent / "attacks/presets"

RULES = {
    "prepare": "make a dataset's canonical arrays",
    "train": "train a float network",
    "defend": "train a float network with a defense",
    "quantize": "turn a float network into integers",
    "filter": "put a filter of its inputs before a network that was trained without",
    "attack": "craft adversarial inputs against a network",
    "probe": "test an attack: with twice its budget, and where an adversarial example is known to exist",
    "score": "judge a network on clean or adversarial inputs, one row a sample",
    "bitflip": "flip bits in a network's memory",
    "export": "export a quantized network to ONNX, and compare the two",
    "diagnose": "say what quantization did to a network's gradients, logits and distance to the decision boundary",
    "report": "gather all scores into tables, figures and one page (ITEM is `all`)",
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 where it succeeded. Imports what it needs only then, so that --help is instant."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser(arguments[:1]).parse_args(arguments)
    try:
        if options.command == "plan":
            _plan(options.check)
        elif options.command == "summary":
            _summarise()
        elif options.command == "attacks":
            _list_attacks()
        elif options.command == "preset":
            print(preset(options.name), end="")
        elif options.command == "tune":
            _tune(options.attacks, options.count, options.doublings)
        elif options.command == "verify":
            return _verify(options.count, options.seed)
        elif options.command == "revouch":
            return _revouch(options.count, options.seed, options.since, options.rules)
        elif options.command == "publish":
            _publish(options.limit)
        elif options.command == "gc":
            _collect(options.delete, options.days, options.clones)
        else:
            _run_logged(options.command, options.item, options.recompute)
    except Exception as error:
        told = sentence(error)
        if told is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        return 1
    return 0


def _parser(command: list[str]) -> argparse.ArgumentParser:
    """The parser of all commands, or of a rule alone where that is the command: there are many jobs."""
    parser = argparse.ArgumentParser(
        prog="python -m stages",
        description="Run one job of the study in the working directory. `snakemake` runs all of them.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for rule in RULES.keys() & command or RULES:
        purpose = RULES[rule]
        job = commands.add_parser(rule, help=purpose, description=f"Restore from the cache, or else {purpose}.")
        job.add_argument("item", metavar="ITEM", help="what to run it for, as dvc.yaml names it after `--`")
        job.add_argument("--recompute", action="store_true", help="compute even if the cache holds the result")
    if RULES.keys() & command:
        return parser
    plan = commands.add_parser("plan", help="write dvc.yaml and data/code.json from params.yaml and the code")
    plan.add_argument("--check", action="store_true", help="change nothing, fail if they are out of date")
    commands.add_parser("summary", help="print the end table of the last run")
    commands.add_parser("attacks", help="list the attacks with their settings")
    shown = commands.add_parser("preset", help="print settings of attacks: published, or strong ones")
    shown.add_argument("name", choices=presets(), metavar="NAME", help=f"one of: {', '.join(presets())}")
    tuning = commands.add_parser("tune", help="double the attacks' budgets while that helps, on validation data")
    tuning.add_argument(
        "attacks", nargs="*", metavar="ATTACK", help="attacks, from their defaults (else the study's own, as set there)"
    )
    tuning.add_argument("--count", type=_count, default=200, help="how many validation samples (default 200)")
    tuning.add_argument("--doublings", type=_count, default=6, help="at most how many times (default 6)")
    checks = {
        "verify": "hash again what dvc.lock names, and compute some scores again",
        "revouch": "carry results over to changed code, if a sample of them computed again is the same to the byte",
    }
    for name, purpose in checks.items():
        check = commands.add_parser(name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")
        check.add_argument("--count", type=_count, default=5, help="how many results to compute again (default 5)")
        check.add_argument("--seed", type=int, default=time_ns() % 1000, help="which ones (default: others each time)")
        if name == "revouch":
            check.add_argument(
                "--since", default="HEAD", metavar="COMMIT", help="carry over results of its code (default HEAD)"
            )
            rules = {"nargs": "+", "choices": list(RULES), "default": (), "metavar": "RULE"}
            check.add_argument("--rules", **rules, help="carry over results of these rules alone (default: of all)")
    publication = commands.add_parser("publish", help="copy networks, and other results that are small, into git")
    publication.add_argument("--limit", type=float, default=50, help="size of these others in kB (default 50)")
    collect = commands.add_parser("gc", help="say which old results would be removed from the cache, and remove them")
    collect.add_argument("--delete", action="store_true", help="remove them; without it nothing is changed")
    collect.add_argument("--days", type=float, default=30, help="keep what was made or used since (default 30)")
    collect.add_argument(
        "--clones", type=Path, nargs="+", default=(), metavar="FOLDER", help="other clones that use the same cache"
    )
    return parser


def _plan(check: bool) -> None:
    from stages.study import open_study

    ledger = open_study().ledger
    if check:
        ledger.check_generated()
    else:
        ledger.write_generated()


def presets() -> list[str]:
    """Names of the settings in stages/attacks/presets/: of published evaluations, and strong ones."""
    return sorted(file.stem for file in PRESETS.glob("*.yaml"))


def preset(name: str) -> str:
    """Settings of attacks, as YAML with their source."""
    return (PRESETS / f"{name}.yaml").read_text(encoding="utf-8")


def _list_attacks() -> None:
    from stages import plugins

    for name in plugins.names("attacks"):
        kind = "minimal norm" if plugins.is_minimal_norm(name) else "budgets"
        knobs = plugins.knobs("attacks", name).model_fields
        settings = ", ".join(f"{knob}: {field.default}" for knob, field in knobs.items())
        print(f"{name:20} {plugins.norm(name):5} {plugins.threat(name):10} {kind:13} {settings}".rstrip())


def _tune(names: Sequence[str], count: int, doublings: int) -> None:
    from stages import plugins
    from stages.study import open_study

    params = open_study().params
    known = plugins.names("attacks")
    for name in names:
        if name not in known:
            raise ValueError(f"tune: {name!r} is unknown, expected attacks among: {', '.join(known)}")
    _fix_threads(params.threads)
    from stages.tune import as_yaml, tune  # imports torch, which reads the number of threads then

    print(as_yaml(tune(params, {name: {} for name in names} or params.attacks, count, doublings)), end="")


def _summarise() -> None:
    from stages.study import summarise

    summarise(Path())


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} should be 1 or more")
    return count


def _verify(count: int, seed: int) -> int:
    from stages.ledger.verify import verify_bytes, verify_results
    from stages.study import open_study

    study = open_study()
    scores = [task.job for task in study.tasks if task.job.rule == "score"]
    damaged = verify_bytes(study.ledger)
    different = verify_results(study.ledger, scores, _computing(study), count, seed)
    return 1 if damaged or different else 0


def _revouch(count: int, seed: int, since: str, rules: Sequence[str]) -> int:
    from stages.ledger.revouch import codes_of, revouch
    from stages.study import open_study

    study = open_study()
    return 0 if revouch(study.ledger, _computing(study), count, seed, codes_of(since), rules) else 1


def _publish(limit: float) -> None:
    from stages.ledger.publish import publish
    from stages.ledger.runcache import repository
    from stages.study import open_study

    def is_kept(job: Any, out: dict[str, Any]) -> bool:
        return job.rule in NETWORKS or (job.rule not in LARGE and out["size"] <= 1000 * limit)

    root = repository(Path.cwd())
    print(publish(open_study().ledger, root / "data/published", [root, *root.glob("studies/*")], is_kept))


def _collect(delete: bool, days: float, clones: Sequence[Path]) -> None:
    from stages.ledger.collect import find_garbage
    from stages.ledger.runcache import repository

    garbage = find_garbage(repository(Path.cwd()), days, clones)
    print(garbage)
    if garbage.is_empty:
        print("There is nothing to remove.")
    elif delete:
        garbage.remove()
        print("This was removed.")
    else:
        print("Nothing was removed yet: `make gc DELETE=yes` or `python -m stages gc --delete` removes this.")


def _computing(study: Any) -> Callable[[Any], Callable[[Any], None]]:
    """What computes each job of a study, in this process."""
    _fix_threads(study.params.threads)

    def computing(job: Any) -> Callable[[Any], None]:
        stage = _stage(job, study.ledger)
        task = study.task(job.rule, job.item)
        return lambda outputs: stage.run(task, study.params, outputs)

    return computing


def _stage(job: Any, ledger: Any) -> Any:
    """The module of a job's stage, imported together with its plugins as they were when their digest was taken."""
    stage, *_ = [importlib.import_module(path.removesuffix(".py").replace("/", ".")) for path in job.modules]
    ledger.sources.check_unchanged()
    return stage


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
            import traceback

            traceback.print_exc(file=log)
            raise
        finally:
            faulthandler.disable()
            sys.stdout, sys.stderr = terminal


def _run(rule: str, item: str, recompute: bool) -> None:
    from stages.study import open_study

    study = open_study()
    runs_in_dvc = "DVC_STAGE" in os.environ
    if runs_in_dvc:
        _check_for_dvc(study.ledger)
    task = study.task(rule, item)
    _fix_threads(study.params.threads)

    def compute(outputs: Any) -> None:
        _stage(task.job, study.ledger).run(task, study.params, outputs)

    if not runs_in_dvc:
        study.ledger.check_job(task.job)
    # DVC has looked into the cache already. It makes the same record, but none of a stage with outputs that git tracks.
    if not study.ledger.produce(task.job, compute, recompute or runs_in_dvc):
        print(f"{task.job.name}: restored from the cache", file=sys.stderr)


def _check_for_dvc(ledger: Any) -> None:
    """Check the whole plan: after `-S`, DVC goes on with the dvc.yaml that it has read before, and would record an
    experiment for a grid that it did not run."""
    try:
        ledger.check_generated()
    except ValueError as error:
        remedy = "with what -S sets written in params.yaml, then the same command without -S (docs/dvc.md)"
        raise ValueError(f"{error} {remedy}") from None


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
