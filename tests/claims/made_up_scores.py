"""Scores of single cells with known outcomes: what the tests of claims work on."""

from math import inf

import numpy as np
import pandas as pd

SAMPLES = 200
SUBJECT = {"dataset": "cifar10", "model": "resnet8"}


def share(percent):
    """Correctness of the samples, of which the first so many percent are right."""
    return np.arange(SAMPLES) < round(percent * SAMPLES / 100)


def clean(scheme, defense="none", percent=87.5, gradient_norm=1.0, seed=0):
    return cell(
        *(scheme, defense, share(percent)), threat="clean", attack="clean", gradient_norm=gradient_norm, seed=seed
    )


def attacked(scheme, defense, percent, attack="pgd", epsilon=0.004, norm="linf", crafted_on=None, seed=0):
    """`crafted_on`: the scheme and defense that the attack is replayed from."""
    surrogate = "-".join([*SUBJECT.values(), *crafted_on, f"s{seed}"]) if crafted_on else ""
    facts = {"threat": "transfer" if crafted_on else "white_box", "surrogate": surrogate, "attack": attack}
    # A float network has no input quantizer for a perturbation to come before.
    grid = "" if scheme == "fp32" else "pre_quantizer"
    return cell(scheme, defense, share(percent), **facts, norm=norm, grid=grid, epsilon=epsilon, seed=seed)


def minimal(scheme, defense, distances, attack="ddn", norm="l2"):
    """What a minimal-norm attack found, infinite where it found nothing."""
    found = np.isfinite(distances)
    facts = {"threat": "white_box", "attack": attack, "norm": norm, "minimal_norm": True, "epsilon": inf}
    return cell(scheme, defense, ~found, **facts, **{norm: np.where(found, distances, 0.0)})


def cell(scheme, defense, correct, **facts):
    labels = np.zeros(SAMPLES, dtype=np.int64)
    columns = SUBJECT | {"scheme": scheme, "defense": defense, "seed": 0, "sample": np.arange(SAMPLES)}
    columns |= {"label": labels, "prediction": np.where(correct, 0, 1), "correct": correct, "detected": None}
    columns |= {"threat": "", "surrogate": "", "attack": "", "norm": "", "minimal_norm": False, "grid": ""}
    columns |= {"epsilon": 0.0, "flips": 0, "stochastic": False, "gradient_norm": np.nan}
    columns |= {"l0": 0, "l1": 0.0, "l2": 0.0, "linf": 0.0, "forwards": 1.0, "backwards": 0.0, "eot_samples": 1}
    return pd.DataFrame(columns | facts)
