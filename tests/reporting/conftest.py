import pandas as pd
import pytest

from stages.metrics.results import results
from stages.reporting.distances import distances
from stages.reporting.figures import groups
from tests.synthetic import synthetic_scores

HEADLINE = 8 / 255
HEADLINES = {"linf": HEADLINE, "l2": 0.5}
WEIGHT_BYTES = {"fp32": 312_000, "int8": 80_000, "int16x8": 80_000, "w4a4": 44_000, "w1a1": 15_000}


def footprints(table: pd.DataFrame) -> pd.DataFrame:
    """A made-up variants.csv for the networks of a result table."""
    variants = table[["dataset", "model", "scheme", "defense", "seed"]].drop_duplicates()
    variants = variants[variants["seed"] != "all"].reset_index(drop=True)
    return variants.assign(
        parameters=78_186, macs=12_500_000, weight_bytes=variants["scheme"].map(WEIGHT_BYTES), peak_activation_bytes=1
    )


@pytest.fixture(scope="session")
def study():
    """Makes scores, result table, and groups of a synthetic study."""

    def make(targets=None, **options):
        scores = synthetic_scores(**({"samples": 40, "test_samples": 80} | options))
        table = results(scores, targets or {})
        return scores, table, groups(table, footprints(table), HEADLINES, distances(scores, table))

    return make


@pytest.fixture(scope="session")
def black_box_study(study):
    attacks = ("noise", "pgd", "square")
    return study(attacks=attacks, transfer=(), epsilons=(0, 4 / 255, 8 / 255), samples=100, test_samples=200)


@pytest.fixture(scope="session")
def limited_study():
    """Two formats of equal size, and a filter that was evaluated on 8 samples and, of course, adaptively."""
    return limited(8)


def limited(samples: int, **options):
    """Scores, result table and groups of a study whose filter, pixel_defend, was evaluated on fewer samples."""
    options = {"attacks": ("fgsm", "pgd", "square"), "epsilons": (0, 4 / 255, HEADLINE)} | options
    networks = {"schemes": ("fp32", "int8", "w4a4"), "defenses": ("none", "fast_at"), "also": (), "transfer": ()}
    scores = synthetic_scores(**networks, **options, samples=100, test_samples=1200)
    scores = scores.replace({"scheme": {"w4a4": "int16x8"}, "defense": {"fast_at": "pixel_defend"}})
    filtered = scores["defense"] == "pixel_defend"
    scores.loc[filtered & (scores["threat"] == "white_box"), "threat"] = "adaptive"
    scores = scores[~filtered | (scores["sample"] < samples)]
    table = results(scores, {})
    return scores, table, groups(table, footprints(table), HEADLINES, distances(scores, table))


@pytest.fixture(scope="session")
def default_study(study):
    return study(epsilons=(0, 4 / 255, 8 / 255), samples=100, test_samples=200)


@pytest.fixture(scope="session")
def two_norm_study(study):
    """With attacks in Linf and L2, of these a minimal-norm one; gradients of w1a1 mislead."""
    attacks = ("pgd", "pgd_l2", "deepfool")
    transfer = ("pgd", "pgd_l2")
    budgets = {"epsilons": (0, HEADLINE), "l2_epsilons": (0, 0.25, 0.5)}
    return study(attacks=attacks, transfer=transfer, **budgets, samples=100, test_samples=200)
