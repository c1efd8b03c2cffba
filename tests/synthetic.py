"""Scores of networks that were never trained: what the tests of metrics and report work on."""

from itertools import product

import numpy as np
import pandas as pd

VARIANT = ["dataset", "model", "scheme", "defense", "seed"]
EPSILONS = tuple(steps / 255 for steps in (0, 1, 2, 4, 8, 16))
L2_EPSILONS = (0.0, 0.25, 0.5, 1.0)
INPUT_VALUES = 784
CLASSES = 10

# Share of a sample's margin that one unit of epsilon consumes under each attack; the last three work in L2.
STRENGTH = {"noise": 0.08, "fgsm": 0.75, "pgd": 1.0, "square": 0.7, "pgd_l2": 1.0, "deepfool": 0.9, "ddn": 0.95}
THREAT = {"noise": "noise", "square": "black_box"}  # of the others: white_box
COSTS = {  # forwards and backwards a sample
    **{"noise": (1.0, 0.0), "fgsm": (2.0, 1.0), "pgd": (11.0, 10.0), "square": (1000.0, 0.0)},
    **{"pgd_l2": (11.0, 10.0), "deepfool": (31.0, 300.0), "ddn": (101.0, 100.0)},
}
L2_ATTACKS = ("pgd_l2", "deepfool", "ddn")
MINIMAL_NORM = ("deepfool", "ddn")
ITERATIVE = ("pgd", "pgd_l2", *MINIMAL_NORM)
L2_PER_LINF = 14  # how long, in L2, a perturbation is that does the harm of one of size 1 in Linf
# Share of that strength which is left on another network: more where both had the same defense.
TRANSFERRED = {True: 0.7, False: 0.3}
CLEAN_ACCURACY = {"fp32": 0.90, "int8": 0.895, "w4a4": 0.88, "w1a1": 0.82}
MEDIAN_MARGIN = {"none": 2.5 / 255, "jacobian": 5 / 255, "fast_at": 14 / 255}


def synthetic_scores(
    *,
    datasets=("fashion_mnist",),
    models=("resnet8",),
    schemes=("fp32", "int8", "w4a4"),
    defenses=("none", "jacobian", "fast_at"),
    seeds=(0,),
    also=(("w1a1", "none"),),
    attacks=("noise", "fgsm", "pgd"),
    transfer=("pgd",),
    epsilons=EPSILONS,
    l2_epsilons=L2_EPSILONS,
    samples=200,
    test_samples=2000,
    masked=("w1a1",),
    grid="digital",
) -> pd.DataFrame:
    """Scores of a whole study, in the columns and types of the scores' Parquet files.

    Every test image has a margin per variant; it falls when an attack's strength times epsilon reaches it, so that
    accuracy falls with epsilon and no flag is raised. The exception are the schemes named in `masked`, whose vanishing
    gradients make white-box attacks weaker than noise: their rows carry flags. `also` adds (scheme, defense) pairs to
    the product, as `grid.also` does in params.yaml. `l2_epsilons` are for attacks in L2, of which `deepfool` and `ddn`
    are minimal-norm attacks: at epsilon infinity they find all errors, on masked networks those of every third sample.
    """
    networks = [*product(schemes, defenses), *(pair for pair in also if pair not in set(product(schemes, defenses)))]
    frames = []
    for dataset, model, seed in product(datasets, models, seeds):
        group = [(dataset, model, scheme, defense, seed) for scheme, defense in networks]
        for variant in group:
            budgets = {"linf": epsilons, "l2": l2_epsilons}
            frames += _variant_scores(
                variant, group, attacks, transfer, budgets, samples, test_samples, variant[2] in masked, grid
            )
    return pd.concat(frames, ignore_index=True)


def _variant_scores(variant, group, attacks, transfer, budgets, samples, test_samples, is_masked, grid):
    labels, margins = _labels_and_margins(variant, test_samples)
    frames = [_clean(variant, labels, margins, samples, is_masked)]
    evaluated = margins[:samples], labels[:samples]
    for attack in attacks:
        norm, threat = norm_of(attack), THREAT.get(attack, "white_box")
        strength = STRENGTH[attack] * (0.005 if is_masked and threat == "white_box" else 1)
        frames += _direct(variant, threat, attack, strength, budgets[norm], *evaluated, is_masked, grid)
    for attack, surrogate in product(transfer, group):
        if surrogate != variant:
            for epsilon in budgets[norm_of(attack)]:
                strength = TRANSFERRED[surrogate[3] == variant[3]] * STRENGTH[attack]
                reach = strength * epsilon / scale_of(attack)
                frames.append(
                    _attacked(variant, "transfer", _name(surrogate), attack, epsilon, reach, *evaluated, grid)
                )
    return frames


def _direct(variant, threat, attack, strength, epsilons, margins, labels, is_masked, grid):
    """The frames of one attack on the network itself."""
    if attack in MINIMAL_NORM:
        nearest = margins.clip(0) / STRENGTH[attack] * scale_of(attack)
        if is_masked:
            nearest = 3 * np.where((np.arange(len(margins)) % 3 == 0) | (margins <= 0), nearest, np.inf)
        return [_minimal(variant, threat, attack, epsilon, nearest, labels, grid) for epsilon in (*epsilons, np.inf)]
    full_range = {"linf": 1.0, "l2": np.inf}[norm_of(attack)]
    frames = []
    for epsilon in (*epsilons, *((full_range,) if attack in ITERATIVE else ())):
        # An unmasked attack that owns the whole input range always succeeds.
        owns_all = epsilon == full_range
        reach = np.inf if owns_all and not is_masked else strength * min(epsilon, scale_of(attack)) / scale_of(attack)
        frames.append(_attacked(variant, threat, "", attack, epsilon, reach, margins, labels, grid))
    return frames


def norm_of(attack):
    """The norm of a made-up attack."""
    return "l2" if attack in L2_ATTACKS else "linf"


def scale_of(attack):
    """How much larger than in Linf its perturbations are."""
    return L2_PER_LINF if attack in L2_ATTACKS else 1


def _name(variant):
    return "-".join(map(str, variant[:4])) + f"-s{variant[4]}"


def _labels_and_margins(variant, test_samples):
    """Labels and margins `[test_samples]`; the share of margins below 0 is the clean error."""
    *_, scheme, defense, seed = variant
    labels = np.random.default_rng(0).integers(0, CLASSES, test_samples)
    difficulty = np.random.default_rng(1).normal(size=test_samples)
    own = np.random.default_rng([2, seed, *_name(variant).encode()]).normal(size=test_samples)
    rank = (0.9 * difficulty + 0.45 * own).argsort().argsort() / test_samples
    error = 1 - CLEAN_ACCURACY[scheme] + (0.04 if defense == "fast_at" else 0)
    return labels, (rank - error) / (0.5 - error) * MEDIAN_MARGIN[defense]


def _rows(variant, labels, correct, **columns):
    samples = np.arange(len(labels), dtype=np.int64)
    return pd.DataFrame(
        dict(zip(VARIANT, variant, strict=True))
        | {
            "threat": "",
            "surrogate": "",
            "attack": "",
            "norm": "",
            "minimal_norm": False,
            "grid": "",
            "epsilon": 0.0,
            "flips": 0,
        }
        | {"sample": samples, "label": labels, "prediction": np.where(correct, labels, (labels + 1) % CLASSES)}
        | {"correct": correct, "detected": None}
        | {"l0": 0, "l1": np.float32(0), "l2": np.float32(0), "linf": np.float32(0)}
        | {"forwards": 1.0, "backwards": 0.0, "eot_samples": 0, "stochastic": False, "gradient_norm": np.nan}
        | columns
    )


def _clean(variant, labels, margins, samples, is_masked):
    gradient_norm = np.full(len(labels), np.nan)
    gradient_norm[:samples] = np.where(
        is_masked & (np.arange(samples) % 4 == 0), 0, 1 / (1 + np.abs(margins[:samples]))
    )
    return _rows(variant, labels, margins > 0, threat="clean", attack="clean", gradient_norm=gradient_norm)


def _attacked(variant, threat, surrogate, attack, epsilon, reach, margins, labels, grid):
    size = np.full(len(labels), min(epsilon, scale_of(attack))) / scale_of(attack)
    return _perturbed(variant, threat, surrogate, attack, epsilon, margins > reach, size, labels, grid)


def _minimal(variant, threat, attack, epsilon, nearest, labels, grid):
    """Where the nearest error is further away than epsilon the input is as it was."""
    found = nearest <= (epsilon if np.isfinite(epsilon) else np.finfo(float).max)
    size = np.where(found, nearest, 0) / scale_of(attack)
    return _perturbed(variant, threat, "", attack, epsilon, ~found, size, labels, grid)


def _perturbed(variant, threat, surrogate, attack, epsilon, correct, size, labels, grid):
    """`size` [N]: how large the perturbation is, in Linf."""
    forwards, backwards = COSTS[attack]
    norm = norm_of(attack)
    size = size.astype(np.float32)
    l2 = L2_PER_LINF * size if norm == "l2" else (0.9 * size * np.sqrt(INPUT_VALUES)).astype(np.float32)
    return _rows(
        variant,
        labels,
        correct,
        threat=threat,
        surrogate=surrogate,
        attack=attack,
        norm=norm,
        minimal_norm=attack in MINIMAL_NORM,
        grid=grid,
        epsilon=float(epsilon),
        l0=np.where(size > 0, INPUT_VALUES, 0),
        l1=np.float32(0.85 * INPUT_VALUES) * size,
        l2=l2,
        linf=size,
        forwards=forwards,
        backwards=backwards,
        eot_samples=int(threat in ("white_box", "transfer") and backwards > 0),
    )
