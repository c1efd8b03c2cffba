"""The charts of random and rejecting networks."""

import numpy as np
import pandas as pd
import pytest

from stages.reporting.attackers import bars_of, order_of
from stages.reporting.attackers import description as attackers_description
from stages.reporting.figures import COLOURS, Group
from stages.reporting.uncertainty import description, rejection, uncertain

FACTS = {"dataset": "fashion_mnist", "model": "tiny_cnn", "scheme": "int8", "seed": 0, "surrogate": ""}


def scores():
    frames = []
    for defense in ("shield", "shield__early", "none"):
        for attack, norm, epsilon in (("clean", "", 0.0), ("pgd", "linf", 8 / 255), ("pgd", "linf", 4 / 255)):
            facts = FACTS | {"defense": defense, "attack": attack, "norm": norm, "epsilon": epsilon}
            facts["threat"] = "clean" if attack == "clean" else "adaptive"
            correct = np.arange(100) >= (10 if attack == "clean" else 60)
            uncertainty = np.linspace(1, 0, 100) if attack == "clean" else np.linspace(0, 1, 100)
            frame = pd.DataFrame({"correct": correct, "entropy": uncertainty, "confidence": 0.5})
            frames.append((frame if defense != "none" else frame.assign(confidence=np.nan)).assign(**facts))
    return pd.concat(frames, ignore_index=True)


def test_a_panel_a_random_variant_and_a_curve_an_attack():
    (group,) = uncertain(scores(), {"linf": 8 / 255})
    assert group.title == "fashion_mnist · tiny_cnn"
    assert group.panels == ["int8 · shield", "int8 · shield__early"]
    assert group.series == ["clean", "pgd, epsilon 8/255"]
    curves = group.curves.set_index(["panel", "series", "rejected"])["percent"]
    assert curves["int8 · shield", "clean", 0] == 90 and curves["int8 · shield", "clean", 10] == 100
    attacked = curves["int8 · shield", "pgd, epsilon 8/255"]
    assert attacked[0] == 40 and attacked[40] == 0  # what is sure is wrong
    assert rejection(group).to_dict()["facet"]["field"] == "panel"
    assert "uncertainty.csv" in description("rejection", group)


def test_of_replayed_sets_the_curve_is_of_the_strongest():
    attacked = scores().query("attack == 'pgd'").assign(threat="transfer", surrogate="fashion_mnist-tiny_cnn-int8-a-s0")
    stronger = attacked.assign(correct=False, surrogate="fashion_mnist-tiny_cnn-int8-b-s0")
    (group,) = uncertain(pd.concat([scores(), attacked, stronger], ignore_index=True), {"linf": 8 / 255})
    assert group.series == ["clean", "pgd, epsilon 8/255", "pgd, replayed, epsilon 8/255"]
    curves = group.curves.set_index(["panel", "series", "rejected"])["percent"]
    assert curves["int8 · shield", "pgd, replayed, epsilon 8/255"][0] == 0
    assert set(group.curves.loc[group.curves["series"] != "clean", "n"]) == {100}


def test_series_beyond_the_colours_are_dashed():
    attacks = [scores().query("attack == 'pgd'").assign(attack=f"pgd_{number}") for number in range(len(COLOURS))]
    (group,) = uncertain(pd.concat([scores(), *attacks], ignore_index=True), {"linf": 8 / 255})
    scales = rejection(group).to_dict()["spec"]["encoding"]
    looks = zip(scales["color"]["scale"]["range"], map(tuple, scales["strokeDash"]["scale"]["range"]), strict=True)
    assert len(set(looks)) == len(group.series) == len(COLOURS) + 2


def test_bars_are_of_each_attacker_and_of_the_strongest_surrogate():
    cells = [
        ("clean", "clean", "", 0.0, 0.9, ""),
        ("noise", "noise", "", 0.1, 0.8, ""),
        ("transfer", "pgd", "int8 · none", 0.1, 0.7, ""),
        ("transfer", "pgd", "w4a4 · none", 0.1, 0.65, ""),
        ("transfer", "pgd", "b", 0.1, 0.6, ""),
        ("adaptive", "pgd", "", 0.1, 0.2, "random_needs_eot;zero_gradient"),
        ("adaptive", "pgd", "", 0.2, 0.1, ""),
        ("worst_case", "all", "", 0.1, 0.2, ""),
    ]
    rows = pd.DataFrame(cells, columns=["threat", "attack", "surrogate", "epsilon", "accuracy", "flags"])
    rows = rows.assign(variant="int8 · shield", scheme="int8", low=0.0, high=1.0, eot_samples=1.0)
    rows = rows.assign(percent=100 * rows["accuracy"])
    rows = rows.assign(flagged=rows["flags"] != "")
    group = Group(
        "title", "subject", "linf", 0.1, "epsilon 0.1", rows, pd.DataFrame(), pd.DataFrame(), ["int8"], ["shield"]
    )
    bars = bars_of(group).set_index("attacker")
    expected = {"clean": 90, "noise": 80, "pgd, replayed": 60, "pgd": 20, "worst case": 20}
    expected |= {"pgd, replayed from none": 70}
    assert bars["percent"].to_dict() == pytest.approx(expected)
    assert bars.loc["pgd", "flags"] == "random_needs_eot, zero_gradient" and bars["flagged"].sum() == 1
    assert "epsilon 0.1" in attackers_description("attackers", group)


def test_attackers_are_ordered_by_what_they_do_to_the_same_variant():
    robust = {"clean": 80, "pgd": 70, "pgd_eot": 60, "worst case": 60, "pgd, replayed": 75}
    weak = {"clean": 90, "pgd": 10, "worst case": 0, "pgd, replayed": 30}
    bars = [
        {"variant": variant, "attacker": attacker, "percent": percent}
        for variant, left in (("int8 · pgd_at", robust), ("int8 · none", weak))
        for attacker, percent in left.items()
    ]
    assert order_of(pd.DataFrame(bars)) == ["clean", "pgd, replayed", "pgd", "pgd_eot", "worst case"]
