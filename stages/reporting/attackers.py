"""The chart of attackers: what each of them leaves of a variant, from the weakest to the strongest."""

import altair as alt
import pandas as pd

from stages.metrics.results import at_epsilon
from stages.reporting.figures import COLOURS, Group, panels_of, roomy_axis, variant_label

ROW = 20  # pixels
WIDTH = 260
CLEAN, WORST_CASE = "clean", "worst case"
UNDEFENDED = "none"
THREATS = ["clean", "noise", "transfer", "black_box", "white_box", "adaptive", "worst_case"]


def attackers(group: Group) -> alt.FacetChart | None:
    """Accuracy at the headline epsilon by attacker, clean first and the worst case last: a panel a variant.

    Of an attack that was crafted on several other networks the strongest, and beside it the one on the undefended
    network of the same number format, which who knows of no defense would replay. Flagged bars are pale.
    """
    bars = bars_of(group)
    if bars.empty:
        return None
    colours = {threat: COLOURS[place] for place, threat in enumerate(THREATS)}
    present = [threat for threat in THREATS if threat in set(bars["threat"])]
    order = order_of(bars)
    base = alt.Chart().encode(
        y=alt.Y("attacker:N", title=None, sort=order, axis=roomy_axis(order)),
        x=alt.X("percent:Q", title="Accuracy (%)", scale=alt.Scale(domain=[0, 100])),
        tooltip=[
            alt.Tooltip("attacker:N", title="Attacker"),
            alt.Tooltip("percent:Q", title="Accuracy (%)", format=".1f"),
            alt.Tooltip("low:Q", title="95 % from", format=".1f"),
            alt.Tooltip("high:Q", title="95 % to", format=".1f"),
            alt.Tooltip("eot:Q", title="Draws a gradient averages"),
            alt.Tooltip("flags:N", title="Flags"),
        ],
    )
    scale = alt.Scale(
        domain=[threat.replace("_", " ") for threat in present], range=[colours[name] for name in present]
    )
    filled = base.mark_bar().encode(
        color=alt.Color("told:N", title="Threat", scale=scale),
        opacity=alt.condition("datum.flagged", alt.value(0.35), alt.value(1)),
    )
    intervals = base.mark_rule(color=alt.ExprRef("ink")).encode(x=alt.X("low:Q", title="Accuracy (%)"), x2="high:Q")
    layers = alt.layer(filled, intervals, data=alt.Data(values=bars.to_dict("records")))
    return layers.properties(width=WIDTH, height=alt.Step(ROW)).facet(
        facet=panels_of("variant", group.variants), columns=2
    )


def bars_of(group: Group) -> pd.DataFrame:
    """One row a variant and attacker: `variant attacker threat told percent low high eot flagged flags`."""
    rows = group.rows
    at_headline = at_epsilon(rows[rows["threat"] != "clean"], group.headline)
    if at_headline.empty:
        return at_headline
    shown = pd.concat([group.clean(), at_headline]).sort_values("accuracy", kind="stable")
    unaware = shown[shown["surrogate"] == shown["scheme"].map(lambda scheme: variant_label(scheme, UNDEFENDED))]
    shown = shown.drop_duplicates(["variant", "threat", "attack"])
    names = shown["attack"].where(shown["threat"] != "transfer", shown["attack"] + ", replayed")
    names = names.mask(shown["threat"] == "worst_case", WORST_CASE)
    shown = pd.concat(
        [shown.assign(attacker=names), unaware.assign(attacker=unaware["attack"] + f", replayed from {UNDEFENDED}")]
    )
    return pd.DataFrame(
        {
            "variant": shown["variant"],
            "attacker": shown["attacker"],
            "threat": shown["threat"],
            "told": shown["threat"].str.replace("_", " "),
            **{bound: shown[bound].round(3) for bound in ("percent", "low", "high")},
            "eot": shown["eot_samples"].astype(int),
            "flagged": shown["flagged"],
            "flags": shown["flags"].str.replace(";", ", ").replace("", "none"),
        }
    ).reset_index(drop=True)


def order_of(bars: pd.DataFrame) -> list[str]:
    """Attackers from the weakest to the strongest, between the clean samples and the worst case.

    By their mean rank on a variant, as a share of its attackers, since not all attack the same variants.
    """
    between = bars[~bars["attacker"].isin([CLEAN, WORST_CASE])]
    ranks = between.groupby("variant")["percent"].rank(ascending=False, pct=True)
    order = ranks.groupby(between["attacker"]).mean().sort_values(kind="stable").index
    present = set(bars["attacker"])
    return [name for name in (CLEAN, *order, WORST_CASE) if name in present]


FIGURES = {"attackers": attackers}


def description(name: str, group: Group) -> str:
    """A figure's text for those who cannot see it."""
    return (
        f"{group.title}: accuracy at {group.budget} that each attacker leaves, a panel for each variant. The numbers "
        "are in the table of all cells."
    )
