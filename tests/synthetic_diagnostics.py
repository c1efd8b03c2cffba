"""Diagnostics of networks that were never trained: what the tests of their table and charts work on."""

from itertools import product

import numpy as np
import pandas as pd

from stages.metrics.diagnostics import NOISE_LEVELS, PARTS

COARSENESS = {"fp32": 0.0, "int8": 0.02, "w4a4": 0.2, "w1a1": 0.8}
SHARE = {"none": 0.0, "input": 0.01, "weights": 0.5, "activations": 0.7, "all": 1.0}  # of the coarseness, by part
WEIGHT_BYTES = {"fp32": 312_000, "int8": 80_000, "w4a4": 44_000, "w1a1": 15_000}
EPSILON = 8 / 255


def synthetic_diagnostics(
    schemes=("fp32", "int8", "w4a4", "w1a1"), defenses=("none", "fast_at"), samples=20, epsilon=EPSILON
) -> pd.DataFrame:
    """The rows of all diagnostics files of a study; without an epsilon none is attacked with a budget."""
    generator = np.random.default_rng(0)
    frames = []
    for scheme, defense in product(schemes, defenses):
        variant = {"dataset": "data", "model": "net", "scheme": scheme, "defense": defense, "seed": 0}
        for part in PARTS if scheme != "fp32" else ("none",):
            coarse = COARSENESS[scheme] * SHARE[part]
            for diagnostic, magnitude, values in _numbers(generator, part, coarse, samples, epsilon):
                facts = {"diagnostic": diagnostic, "part": part, "magnitude": magnitude}
                frames.append(pd.DataFrame(variant | facts | {"sample": range(samples), "value": values}))
    return pd.concat(frames, ignore_index=True)


def footprints(rows: pd.DataFrame) -> pd.DataFrame:
    """A made-up variants.csv for the networks of diagnostics."""
    variants = rows[["dataset", "model", "scheme", "defense", "seed"]].drop_duplicates().reset_index(drop=True)
    return variants.assign(weight_bytes=variants["scheme"].map(WEIGHT_BYTES))


def _numbers(generator, part, coarse, samples, epsilon):
    noise = generator.random(samples)
    yield "gradient_norm", 0.0, 0.1 + noise
    yield "gradient_step", 1 / 255, noise - coarse / 2
    yield "random_step", 1 / 255, coarse * (noise - 0.5)
    yield "clean_correct", 0.0, (noise > 0.1 + coarse / 4).astype(float)
    if epsilon is not None:
        yield "robust_correct", epsilon, (noise > 0.7).astype(float)
    for levels in (0.25, 0.75, 1.25, 1.75):
        yield "replayed_correct", levels / 255, (noise > 0.2 * levels).astype(float)
    if part in ("none", "all"):
        yield "distance_l2", 0.0, 0.2 + noise * (1 + coarse)
        yield "distance_linf", 0.0, (2 + noise * (1 + coarse)) / 255
    if part != "none":
        yield "gradient_cosine", 0.0, 1 - coarse * (1 + noise / 2)
        for levels in NOISE_LEVELS:
            yield "logit_shift", levels / 255, coarse * noise * (1 + levels / 16)
            yield "prediction_change", levels / 255, (noise < coarse).astype(float)
