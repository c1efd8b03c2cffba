"""The short table at the end of a run."""

import csv
import json
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from stages.reporting.sizes import NORM_NAMES, epsilon_label

# metrics.json and results.csv hold epsilon to six digits.
EPSILON_TOLERANCE = 1e-6


def print_summary(results_folder: Path) -> None:
    """Prints clean and worst-case accuracy with flags, one line a network, then the report's path as the last line.

    Reads `metrics.json` and `results.csv` in `results_folder`. Raises `FileNotFoundError` where there are none yet.
    """
    metrics_path, results_path = results_folder / "metrics.json", results_folder / "results.csv"
    for path in (metrics_path, results_path):
        if not path.exists():
            raise FileNotFoundError(f"{path}: missing, expected the results of a run")
    metrics = json.loads(metrics_path.read_text())
    flags = _worst_case_flags(results_path, metrics["norm"], metrics["headline_epsilon"])
    console = Console()
    console.print(_table(metrics, flags))
    # Not wrapped, so that the path can be clicked and read by scripts.
    console.print(str(results_folder / "report.html"), soft_wrap=True, highlight=False)


def _worst_case_flags(results_path: Path, norm: str, epsilon: float) -> dict[str, str]:
    """Flags of each network's worst case at `epsilon` in `norm`.

    Without pandas, which takes longer to import than to print.
    """
    with results_path.open(newline="") as file:
        return {
            "{dataset}-{model}-{scheme}-{defense}-s{seed}".format(**row): row["flags"]
            for row in csv.DictReader(file)
            if row["threat"] == "worst_case"
            and row["norm"] == norm
            and abs(float(row["epsilon"]) - epsilon) <= EPSILON_TOLERANCE
        }


def _table(metrics: dict, flags: dict[str, str]) -> Table:
    # Tight, so that the default study's longest names and flags stay whole on 80 columns.
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("Variant", overflow="fold")
    table.add_column("Clean", justify="right", no_wrap=True)
    budget = _epsilon_name(metrics["headline_epsilon"], metrics["norm"])
    table.add_column(f"Worst\ncase at\n{budget}", justify="right", no_wrap=True)
    table.add_column("Flags", no_wrap=True)
    for variant, accuracies in metrics["variants"].items():
        table.add_row(
            variant,
            f"{accuracies['clean_accuracy']:.1%}",
            f"{accuracies['worst_case_accuracy']:.1%}",
            flags[variant].replace(";", "\n"),
        )
    return table


def _epsilon_name(epsilon: float, norm: str) -> str:
    """With its norm, but for the maximum norm, whose multiples of 1/255 speak for themselves."""
    return epsilon_label(epsilon, norm) if norm == "linf" else f"{NORM_NAMES[norm]} {epsilon_label(epsilon, norm)}"
