"""The chart of uncertainty: what accuracy is gained by rejecting what a network is uncertain about."""

from dataclasses import dataclass

import altair as alt
import numpy as np
import pandas as pd

from stages.metrics.uncertainty import at_headlines, rejection_curve
from stages.reporting.figures import COLOURS, panels_of, variant_label
from stages.reporting.sizes import budget_label

CLEAN = "clean"
SHARES = np.linspace(0, 0.9, 46)  # of rejected samples, at which curves are drawn
SOLID, DASHED = [1, 0], [5, 3]  # dashed where colours come again
PANEL = (260, 220)  # pixels, as of the other charts


@dataclass(frozen=True)
class Uncertain:
    """The curves that share a figure, of one dataset and model: `panel series rejected percent n`, and their orders."""

    title: str
    curves: pd.DataFrame
    panels: list[str]
    series: list[str]


def uncertain(scores: pd.DataFrame, headlines: dict[str, float]) -> list[Uncertain]:
    """The curves of the networks that say how sure they are, each by its predictive entropy, over all seeds.

    Of an attack that was crafted on several other networks the strongest.
    """
    rows = at_headlines(scores, headlines)
    # Without the seed, which the surrogate shares with its target.
    rows = rows.assign(surrogate=rows["surrogate"].str.replace(r"-s\d+$", "", regex=True))
    return [_uncertain(f"{dataset} · {model}", mine) for (dataset, model), mine in rows.groupby(["dataset", "model"])]


def _uncertain(title: str, rows: pd.DataFrame) -> Uncertain:
    several_norms = rows.loc[rows["norm"] != "", "norm"].nunique() > 1
    curves = []
    for (scheme, defense), variant in rows.groupby(["scheme", "defense"], sort=False):
        for (attack, replayed, norm, epsilon), attacked in variant.groupby(
            ["attack", variant["surrogate"] != "", "norm", "epsilon"], sort=False
        ):
            if replayed:
                strongest = attacked.groupby("surrogate")["correct"].mean().idxmin()
                attacked = attacked[attacked["surrogate"] == strongest]
            name = f"{attack}, replayed" if replayed else attack
            if norm:
                name += f", {budget_label(epsilon, norm, several_norms=several_norms)}"
            rejected, accuracy = rejection_curve(attacked["correct"].to_numpy(), attacked["entropy"].to_numpy())
            for share in SHARES:
                at = np.flatnonzero(rejected <= share + 1e-9)[-1]
                curves.append(
                    {
                        "panel": variant_label(scheme, defense),
                        "series": CLEAN if attack == CLEAN else name,
                        "rejected": round(100 * share, 2),
                        "percent": round(100 * float(accuracy[at]), 3),
                        "n": len(attacked),
                    }
                )
    table = pd.DataFrame(curves)
    series = sorted(table["series"].unique(), key=lambda name: (name != CLEAN, name))
    return Uncertain(title, table, list(dict.fromkeys(table["panel"])), series)


def rejection(group: Uncertain) -> alt.FacetChart:
    """Accuracy of what is accepted against the share that is rejected: a panel a variant, a colour an attack."""
    colours = [COLOURS[place % len(COLOURS)] for place in range(len(group.series))]
    dashes = [SOLID if place < len(COLOURS) else DASHED for place in range(len(group.series))]
    legend = {"title": "Attack", "legend": alt.Legend(columns=3)}
    chart = (
        alt.Chart(alt.Data(values=group.curves.to_dict("records")))
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("rejected:Q", title="Rejected, the most uncertain (%)", scale=alt.Scale(domain=[0, 90])),
            y=alt.Y("percent:Q", title="Accuracy of the rest (%)", scale=alt.Scale(domain=[0, 100])),
            color=alt.Color("series:N", scale=alt.Scale(domain=group.series, range=colours), **legend),
            strokeDash=alt.StrokeDash("series:N", scale=alt.Scale(domain=group.series, range=dashes), **legend),
            tooltip=[
                alt.Tooltip("panel:N", title="Variant"),
                alt.Tooltip("series:N", title="Attack"),
                alt.Tooltip("rejected:Q", title="Rejected (%)", format=".0f"),
                alt.Tooltip("percent:Q", title="Accuracy (%)", format=".1f"),
                alt.Tooltip("n:Q", title="Samples"),
            ],
        )
    )
    width, height = PANEL
    return chart.properties(width=width, height=height).facet(
        facet=panels_of("panel", group.panels), columns=min(len(group.panels), 3)
    )


FIGURES = {"rejection": rejection}


def description(name: str, group: Uncertain) -> str:
    """A figure's text for those who cannot see it."""
    return (
        f"{group.title}: accuracy of the accepted samples against the share that is rejected as uncertain, a panel for "
        "each variant. The numbers are in uncertainty.csv."
    )
