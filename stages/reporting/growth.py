"""The chart of growth: how many channels the layers of a network have after each step of its growth."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import altair as alt
import pandas as pd

from stages.reporting.figures import panels_of, variant_label

PANEL = (260, 220)  # pixels, as of the other charts
COLUMNS = ["dataset", "model", "variant", "layer", "step", "channels", "times"]


@dataclass(frozen=True)
class Grown:
    """The networks of one dataset and model that have grown.

    `curves` has one row a network, layer and step: `variant` with its seed, `layer` that makes the channels, in the
    network's order, `channels`, and `times` those of step 0.
    """

    title: str
    curves: pd.DataFrame


def grown(networks: Iterable[dict]) -> list[Grown]:
    """What networks tell of their growth, from the objects of their JSON files, by dataset and model."""
    curves = pd.DataFrame([row for network in networks for row in _curves(network)], columns=COLUMNS)
    by_subject = curves.groupby(["dataset", "model"], sort=False)
    return [Grown(f"{dataset} · {model}", rows) for (dataset, model), rows in by_subject]


def _curves(network: dict) -> list[dict]:
    counted = [entry for entry in network.get("history", ()) if "channels" in entry]
    variant = network["variant"]
    facts = {
        "dataset": variant["dataset"],
        "model": variant["model"],
        "variant": f"{variant_label(variant['scheme'], variant['defense'])} · seed {variant['seed']}",
    }
    return [
        facts | {"layer": layer, "step": entry["growth"], "channels": count, "times": count / start}
        for layer, start in (counted[0]["channels"].items() if counted else ())
        for entry in counted
        for count in [entry["channels"][layer]]
    ]


def growth(group: Grown) -> alt.FacetChart:
    """Channels of each layer, in multiples of what it started from, by step: a panel a network."""
    rows = group.curves
    layers = list(dict.fromkeys(rows["layer"]))
    shown = rows[["variant", "layer", "step", "channels", "times"]].assign(times=rows["times"].round(3))
    chart = (
        alt.Chart(alt.Data(values=shown.to_dict("records")))
        .mark_line(point=True, strokeWidth=2)
        .encode(
            x=alt.X("step:Q", title="Step of growth", axis=alt.Axis(tickMinStep=1, format="d")),
            y=alt.Y("times:Q", title="Channels, in multiples of the start", scale=alt.Scale(zero=False)),
            color=alt.Color("layer:O", title="Channels of", sort=layers, scale=alt.Scale(scheme="viridis")),
            tooltip=[
                alt.Tooltip("layer:N", title="Channels of"),
                alt.Tooltip("step:Q", title="Step"),
                alt.Tooltip("channels:Q", title="Channels"),
                alt.Tooltip("times:Q", title="Times the start", format=".2f"),
            ],
        )
    )
    order = list(dict.fromkeys(rows["variant"]))
    return chart.properties(width=PANEL[0], height=PANEL[1]).facet(
        facet=panels_of("variant", order), columns=min(len(order), 3)
    )


FIGURES: dict[str, Callable[[Grown], alt.FacetChart]] = {"growth": growth}
# Per figure: its link, its title, how to read it, and what stands there without it.
SECTIONS = {
    "growth": (
        "Growth",
        "How far layers grew",
        "Channels of each layer, dark for the first and light for the last, after each step of the first stage of "
        "Early-Growth, until hardly any came or went. What they grew to is what the second stage trains from scratch. "
        "Layers that a residual sum joins have the same channels and are one line.",
        "No network has grown.",
    ),
}


def description(name: str, group: Grown) -> str:
    """A figure's text for those who cannot see it."""
    return f"{group.title}: channels of each layer by step of growth, a panel for each network."
