"""The charts of attacks on memory: accuracy against flipped bits, how many it takes, and which layers and bits."""

from collections.abc import Callable
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import pairwise
from math import isfinite

import altair as alt
import numpy as np
import pandas as pd

from stages.reporting.figures import COLOURS, LETTER, SHAPES, panels_of, roomy_axis, variant_label

PANEL = (260, 220)  # pixels, as of the other charts
CELL = 22
LINE = 36  # pixels, of a network
WIDEST = 32  # bits of a word
GOALS = {"half": "half of what it knew is gone", "chance": "it guesses", "target": "the target gets half"}
TENSORS = {"weights": "", "scales": " scales", "biases": " biases", "batch_norm": " batch norm"}


@dataclass(frozen=True)
class Attacked:
    """The attacks on memory that share figures: of one dataset and model, over all seeds.

    `curves` has the columns of `bit_flips_table`, `needed` those of `flips_needed_table`, of several seeds only the row
    over them, `bits` those of `flipped_bits_table`; all of them `network`, too: how figures name scheme and defense.
    `networks` are these names, those with the most bytes of weights first.
    """

    title: str
    curves: pd.DataFrame
    needed: pd.DataFrame
    bits: pd.DataFrame
    networks: list[str]


def attacked(curves: pd.DataFrame, needed: pd.DataFrame, bits: pd.DataFrame, variants: pd.DataFrame) -> list[Attacked]:
    """Split what attacks on memory left into what shares figures.

    `variants` is the table of footprints.
    """
    sizes = variants.groupby("scheme")["weight_bytes"].min()
    found = []
    for (dataset, model), _ in curves.groupby(["dataset", "model"], sort=False):
        here = [table[(table["dataset"] == dataset) & (table["model"] == model)] for table in (curves, needed, bits)]
        of_curves, of_needed, of_bits = (
            rows.assign(network=[variant_label(*pair) for pair in zip(rows["scheme"], rows["defense"], strict=True)])
            for rows in here
        )
        order = of_curves[["scheme", "network"]].drop_duplicates().itertuples(index=False, name=None)
        networks = [network for scheme, network in sorted(order, key=lambda pair: (-sizes[pair[0]], *pair))]
        found.append(Attacked(f"{dataset} · {model}", of_curves, _over_seeds(of_needed), of_bits, networks))
    return found


def accuracy_vs_flips(group: Attacked) -> alt.FacetChart | None:
    """Median accuracy against the number of flipped bits, with a band of all draws: a panel an attack."""
    rows = group.curves
    if rows.empty:
        return None
    # Of several seeds the widest band, and the mean of medians.
    shown = (
        rows.assign(panel=_panels(rows))
        .groupby(["panel", "network", "flips"], as_index=False)
        .agg(
            low=("accuracy_least", "min"),
            median=("accuracy_median", "mean"),
            high=("accuracy_most", "max"),
            clean=("clean_accuracy", "mean"),
            draws=("draws", "sum"),
            n=("n", "min"),
        )
    )
    percent = shown.assign(**{name: (100 * shown[name]).round(3) for name in ("low", "median", "high", "clean")})
    axis = alt.Y("median:Q", title="Accuracy (%)", scale=alt.Scale(domain=[0, 100]))
    base = alt.Chart().encode(
        x=alt.X("flips:Q", title="Flipped bits", scale=alt.Scale(type="log"), axis=alt.Axis(format="~s", tickCount=5)),
        color=_scale(alt.Color, group, COLOURS),
    )
    tooltips = {
        **{"network:N": "Network", "flips:Q": "Flipped bits", "median:Q": "Median accuracy (%)", "low:Q": "Least (%)"},
        **{"high:Q": "Most (%)", "clean:Q": "Clean (%)", "draws:Q": "Draws", "n:Q": "Samples"},
    }
    layers = alt.layer(
        base.mark_area(opacity=0.14).encode(y=alt.Y("low:Q", title="Accuracy (%)"), y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(y=axis),
        base.mark_point(filled=True, opacity=1, size=52).encode(
            y=axis,
            shape=_scale(alt.Shape, group, SHAPES),
            tooltip=[alt.Tooltip(field, title=title) for field, title in tooltips.items()],
        ),
        data=alt.Data(values=percent.to_dict("records")),
    )
    order = sorted(set(percent["panel"]))
    return layers.properties(width=PANEL[0], height=PANEL[1]).facet(
        facet=panels_of("panel", order), columns=min(len(order), 3)
    )


def flips_needed(group: Attacked) -> alt.FacetChart | None:
    """Flips until each goal, the median over draws and the least to the most: a panel an attack, a line a network."""
    rows = group.needed
    if rows.empty:
        return None
    ends = {name: rows[name].clip(upper=rows["budget"]) for name in ("least", "median", "most")}
    shown = rows.assign(
        panel=_panels(rows),
        goal=rows["goal"].map(GOALS),
        is_open=np.isinf(rows["median"]),
        told=[f"{value:g}" if isfinite(value) else "not reached" for value in rows["median"]],
        reached=(100 * rows["reached"]).round(1),
        **ends,
    )
    shown = shown[shown["budget"] > 0]  # there is nothing to flip for some attacks on some networks
    goals = [goal for goal in GOALS.values() if goal in set(shown["goal"])]
    base = alt.Chart().encode(
        y=alt.Y("network:N", title=None, sort=group.networks, axis=roomy_axis(group.networks)),
        yOffset=alt.YOffset("goal:N", sort=goals),
        color=alt.Color("goal:N", title="Flips until", scale=alt.Scale(domain=goals, range=COLOURS[: len(goals)])),
    )
    axis = alt.X("least:Q", title="Flipped bits", scale=alt.Scale(type="log"), axis=alt.Axis(format="~s", tickCount=5))
    tooltips = {
        **{"network:N": "Network", "goal:N": "Flips until", "told:N": "Median", "least:Q": "Least", "most:Q": "Most"},
        **{"reached:Q": "Reached (% of draws)", "budget:Q": "Most flips made", "draws:Q": "Draws"},
    }
    columns = ["panel", "network", "goal", "least", "median", "most", "is_open", "told", "reached", "budget", "draws"]
    layers = alt.layer(
        base.mark_rule(strokeWidth=3, opacity=0.35).encode(x=axis, x2="most:Q"),
        base.mark_point(opacity=1, size=52, filled=True).encode(
            x=alt.X("median:Q", title="Flipped bits"),
            shape=alt.Shape(
                "is_open:N",
                title=None,
                scale=alt.Scale(domain=[False, True], range=["circle", "triangle-right"]),
                legend=alt.Legend(labelExpr="datum.value ? 'more than that' : 'median'"),
            ),
            tooltip=[alt.Tooltip(field, title=title) for field, title in tooltips.items()],
        ),
        data=alt.Data(values=shown[columns].to_dict("records")),
    )
    panels = sorted(set(shown["panel"]))
    return layers.properties(width=PANEL[0], height=alt.Step(LINE, **{"for": "position"})).facet(
        facet=panels_of("panel", panels), columns=min(len(panels), 3)
    )


def flipped_layers(group: Attacked) -> alt.FacetChart | None:
    """Which layers were hit, as a share of the flips of an attack on a network: a panel an attack, a column a network.

    Layers are in the networks' order.
    """
    rows, kinds = group.bits, list(TENSORS)
    order = len(kinds) * rows["layer"].map(_layer_ranks(rows)) + rows["kind"].map(kinds.index)
    return _shares(rows.assign(row=rows["layer"] + rows["kind"].map(TENSORS), order=order), "Layer", group)


def flipped_bits(group: Attacked) -> alt.FacetChart | None:
    """Which bits of words were hit, the same way: those of the narrowest words first, and of each the highest."""
    rows = group.bits
    told = rows["bit"].astype(str) + " of " + rows["width"].astype(str)
    return _shares(rows.assign(row=told, order=WIDEST * rows["width"] - rows["bit"]), "Bit of the word", group)


def _layer_ranks(rows: pd.DataFrame) -> dict[str, int]:
    """Where each layer comes: networks of one model have theirs in one order, but not all the same ones, so that the
    places of tensors can be compared within a network, of what an attack reaches of it, alone."""
    order = TopologicalSorter()
    for _, hit in rows.groupby(["network", "attack"]):
        layers = hit.sort_values("place")["layer"].unique()
        order.add(layers[0])
        for first, second in pairwise(layers):
            order.add(second, first)
    return {layer: rank for rank, layer in enumerate(order.static_order())}


def _shares(rows: pd.DataFrame, title: str, group: Attacked) -> alt.FacetChart | None:
    """`rows` are of bits, `row` names the line of a panel that each belongs to, and `order` orders these lines."""
    if rows.empty:
        return None
    cells = (
        rows.assign(panel=_panels(rows))
        .groupby(["panel", "network", "row"], as_index=False)
        .agg(order=("order", "min"), flips=("flips", "sum"))
    )
    share = 100 * cells["flips"] / cells.groupby(["panel", "network"])["flips"].transform("sum")
    panels = sorted(set(cells["panel"]))
    chart = (
        alt.Chart(alt.Data(values=cells.assign(percent=share.round(3)).to_dict("records")))
        .mark_rect(stroke=alt.ExprRef("paper"), strokeWidth=1)
        .encode(
            x=alt.X("network:N", title=None, scale=alt.Scale(domain=group.networks), axis=alt.Axis(labelAngle=-45)),
            y=alt.Y(
                "row:N", title=None, sort=alt.EncodingSortField("order", op="min"), axis=roomy_axis(set(cells["row"]))
            ),
            color=alt.Color(
                "percent:Q",
                title="Share of the flips (%)",
                scale=alt.Scale(scheme="viridis", domain=[0, 100]),
                legend=alt.Legend(gradientLength=200, gradientThickness=10, tickCount=5),
            ),
            tooltip=[
                alt.Tooltip("network:N", title="Network"),
                alt.Tooltip("row:N", title=title),
                alt.Tooltip("flips:Q", title="Flips"),
                alt.Tooltip("percent:Q", title="Share (%)", format=".1f"),
            ],
        )
    )
    width = max(CELL * len(group.networks), LETTER * max(map(len, panels)))  # where a panel's name has room, too
    return (
        chart.properties(width=width, height=alt.Step(CELL))
        .facet(facet=panels_of("panel", panels), columns=min(len(panels), 2))
        .resolve_scale(y="independent")
    )


FIGURES: dict[str, Callable[[Attacked], alt.FacetChart | None]] = {
    "accuracy_vs_flips": accuracy_vs_flips,
    "flips_needed": flips_needed,
    "flipped_layers": flipped_layers,
    "flipped_bits": flipped_bits,
}
SUBJECTS = {
    "accuracy_vs_flips": ("accuracy against the number of flipped bits, a panel for each attack", "bit_flips.csv"),
    "flips_needed": ("the number of flipped bits until a goal is reached, a panel for each attack", "flips_needed.csv"),
    "flipped_layers": ("which layers of each network attacks hit, a panel for each attack", "flipped_bits.csv"),
    "flipped_bits": ("which bits of words attacks flip, a panel for each attack", "flipped_bits.csv"),
}
# Per figure: its link, its title, how to read it, and what stands there without it.
SECTIONS = {
    "accuracy_vs_flips": (
        "Bit flips",
        "What flipped bits of memory leave",
        "Accuracy against the number of flipped bits, on a logarithmic scale: the line is the median over draws "
        "(batches of samples, or random bits), the band reaches from the least to the most. Where an attack has ended, "
        "what was left then is drawn on. Which words may be hit is the attack's setting.",
        "No attack on memory was run.",
    ),
    "flips_needed": (
        "Flips needed",
        "How many flips it takes",
        "Flips until the network guesses, until half of what it knew is gone (half of the way from its clean accuracy "
        "to guessing, so that networks of other accuracy have as far to go), and of attacks with a target until that "
        "class gets half of the images aimed at: the median over draws, and of all seeds, and a bar from the least to "
        "the most. A triangle stands where the goal was not reached in half of the draws or more: it takes more flips "
        "than that. Random flips are judged at few numbers of flips, so that theirs are at most as many as shown.",
        "No attack on memory was run.",
    ),
    "flipped_layers": (
        "Which layers",
        "Which layers the attacks hit",
        "The share of an attack's flips of a network, over all draws and seeds, that hit a layer's words, in the "
        "networks' order: weights where nothing else is said.",
        "No attack chose its bits.",
    ),
    "flipped_bits": (
        "Which bits",
        "Which bits the attacks flip",
        "The share of an attack's flips of a network, over all draws and seeds, that hit a bit of words of so many "
        "bits. The highest bit of an integer is its sign; of a float32 word bit 31 is the sign and bits 23 to 30 are "
        "the exponent.",
        "No attack chose its bits.",
    ),
}
GLOSSARY = {
    "Bit flip": "The attacker, or a fault, inverts bits of the network in memory: of its integer weights, or of the "
    "float32 words that scales, biases and batch norm are. Inputs are clean. In the table of all cells n is the number "
    "of draws (batches of the attacker's samples, or random bits), accuracy their mean, and the interval Student's, or "
    "of one draw Wilson's over its test samples.",
    "Checksum": "Two bits kept of each group of weights, which the group's next use is compared with; a group that "
    "differs is set to zero. Detected is then the share of flipped bits in such groups, and accuracy with detector "
    "what is left after that.",
}


def description(name: str, group: Attacked) -> str:
    """A figure's text for those who cannot see it."""
    subject, table = SUBJECTS[name]
    return f"{group.title}: {subject}. The numbers are in {table}."


def _over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each network with several seeds the row over them."""
    several = rows[rows["seed"] == "all"]
    keys = ["scheme", "defense", "attack", "goal"]
    alone = ~rows.set_index(keys).index.isin(several.set_index(keys).index)
    return pd.concat([several, rows[alone]], ignore_index=True)


def _panels(rows: pd.DataFrame) -> pd.Series:
    """How panels name the attack of each row."""
    return rows["attack"].str.replace("_", " ")


def _scale(channel: type, group: Attacked, values: list[str]):
    cycled = [values[index % len(values)] for index in range(len(group.networks))]
    return channel("network:N", title="Network", scale=alt.Scale(domain=group.networks, range=cycled))
