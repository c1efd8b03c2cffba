"""The report's charts, as Altair specifications that both the page and the SVG files draw."""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import inf

import altair as alt
import numpy as np
import pandas as pd
import vl_convert

from stages.metrics.flags import WITH_GRADIENTS
from stages.metrics.results import at_epsilon, split_flags
from stages.norms import FULL_RANGES, SNR, strength
from stages.reporting.sizes import NORM_NAMES, budget_label, distance_label, levels_in

VARIANT = ["dataset", "model", "scheme", "defense"]
CLEAN = "Clean"
WORST_CASE = "worst case"

# Dark enough for 3:1 against white and light enough for it against the dark page, apart under the common colour
# blindnesses; shapes repeat with another period than colours, so that a pair of both is unique for 56 categories.
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#b85c93", "#7a7a7a", "#94702a", "#3f97cc", "#7b62c9"]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right"]

THEMES = {
    "light": {"paper": "#ffffff", "ink": "#1c2126", "soft": "#5b6570", "grid": "#e4e7ea"},
    "dark": {"paper": "#14181c", "ink": "#e8eaed", "soft": "#a3adb8", "grid": "#2c333a"},
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"

IN_FULL = "format(datum.value, '~g')"  # an axis's own format rounds 0.25 where ticks are far apart
DISTANCE_ROW = 44  # pixels
EDGE = 8  # times the largest median: what lies beyond would leave the rest no room
NAME_LINE = 13  # pixels
LETTER = 8  # pixels, of a wide one
FLAGGED = {True: ", flagged", False: ""}  # where there is no mark that could be hollow
DISTANCE_DATA = [
    "variant",
    "scheme",
    "panel",
    "end",
    "is_open",
    "label",
    "found_for",
    "n",
    "attacks",
    "flagged",
    "flags",
]
IN_LINES = "length(datum.label) > 9 ? split(datum.label, '_') : datum.label"  # names that are wider than a cell
HEATMAP_CELL = (64, 48)  # four schemes and the labels fit a phone of 390 pixels
FLAG_LINES = 7  # pixels between the hatching lines of a flagged cell
# From here on numbers are black: both sides of it keep a contrast of 4.4:1 on viridis.
BLACK_TEXT_FROM = 45


@dataclass(frozen=True)
class Group:
    """The rows that share one figure: one dataset, model and norm, with the orders of its axes.

    `rows` has the columns of the result table, of several seeds only the row over them, and beside these `variant`
    ("int8 · none"), `percent`, `low`, `high` (of accuracy, in 0 to 100), `samples` (how many there were of each seed)
    and `flagged`; surrogates are named like variants. `distances` has those of `stages.reporting.distances`, and
    `variant` and `flagged`. `subject` is the dataset and model, `headline` the norm's headline epsilon, `budget` what
    readers call it.
    """

    title: str
    subject: str
    norm: str
    headline: float
    budget: str
    rows: pd.DataFrame
    distances: pd.DataFrame
    footprints: pd.DataFrame
    schemes: list[str]
    defenses: list[str]

    @property
    def variants(self) -> list[str]:
        """The names on the axes of the transfer matrix, defense by defense, those with results only."""
        present = set(self.rows["variant"])
        names = [variant_label(scheme, defense) for defense in self.defenses for scheme in self.schemes]
        return [name for name in names if name in present]

    @property
    def levels(self) -> int:
        """What sizes in this norm are told in parts of: in Linf the levels of inputs, else 1."""
        return levels_in(self.norm, self.headline)

    def clean(self) -> pd.DataFrame:
        """The clean rows, one a variant."""
        return self.rows[self.rows["threat"] == "clean"]

    def worst_case(self) -> pd.DataFrame:
        """The worst-case rows at the headline epsilon, one a variant."""
        return at_epsilon(self.rows[self.rows["threat"] == "worst_case"], self.headline)


def variant_label(scheme: str, defense: str) -> str:
    """How figures name a variant whose dataset, model and seed are plain from their title."""
    return f"{scheme} · {defense}"


def groups(
    results: pd.DataFrame, variants: pd.DataFrame, headlines: dict[str, float], distances: pd.DataFrame
) -> list[Group]:
    """Split the result table into the groups that figures draw side by side.

    `variants` is the table of footprints (one row a variant): schemes are ordered by the bytes of their weights, the
    largest first, defenses by name after `none`. `headlines` has the headline epsilon of each norm, in the order of
    the groups. Rows where any input was allowed are left out, and attacks on memory, which have figures of their own.
    """
    rows = _once(_with_labels(results[~is_unbounded(results) & (results["flips"] == 0)]))
    evaluated = set(rows.loc[rows["threat"] == "worst_case", "norm"])
    norms = [norm for norm in headlines if norm in evaluated] or [""]
    return [
        _group(rows, variants, distances, subject, norm, headlines, several_norms=len(norms) > 1)
        for subject in rows[["dataset", "model"]].drop_duplicates().itertuples(index=False)
        for norm in norms
    ]


def is_unbounded(results: pd.DataFrame) -> pd.Series:
    """Which rows of the result table are those where any input was allowed (clean rows have no norm)."""
    strengths = results["epsilon"].where(results["norm"] != SNR, -results["epsilon"])
    full = {norm: strength(epsilon, norm) for norm, epsilon in FULL_RANGES.items()}
    return strengths >= results["norm"].map(full).fillna(np.inf)


def surrogate_labels(results: pd.DataFrame) -> pd.Series:
    """The surrogates of the result table's rows, named as in figures; empty where there is none."""
    labels = {
        f"{dataset}-{model}-{scheme}-{defense}": variant_label(scheme, defense)
        for dataset, model, scheme, defense in results[VARIANT].drop_duplicates().itertuples(index=False)
    }
    return results["surrogate"].str.replace(r"-s(\d+|all)$", "", regex=True).map(labels | {"": ""})


def _with_labels(results: pd.DataFrame) -> pd.DataFrame:
    return results.assign(
        surrogate=surrogate_labels(results),
        variant=_variant_labels(results),
        percent=100 * results["accuracy"],
        low=100 * results["ci_low"],
        high=100 * results["ci_high"],
        flagged=results["flags"] != "",
    )


def _variant_labels(table: pd.DataFrame) -> list[str]:
    return [variant_label(*parts) for parts in zip(table["scheme"], table["defense"], strict=True)]


def _once(rows: pd.DataFrame) -> pd.DataFrame:
    """Of the rows of a cell's seeds only that over all of them, where there are several; with `samples` of a seed."""
    cell = [*VARIANT, "threat", "surrogate", "attack", "norm", "grid", "epsilon", "flips"]
    samples = rows[rows["seed"] != "all"].groupby(cell)["n"].min().rename("samples")
    over_seeds_first = rows.sort_values("seed", key=lambda seed: seed != "all", kind="stable")
    return over_seeds_first.drop_duplicates(cell).sort_index().join(samples, on=cell)


def differ_in_samples(rows: pd.DataFrame) -> bool:
    """Whether some of a group's rows are over another number of samples, so over other samples, than the rest."""
    return rows["samples"].nunique() > 1


def _group(rows, variants, distances, subject, norm, headlines, *, several_norms) -> Group:
    def of_subject(table):
        return table[(table["dataset"] == subject.dataset) & (table["model"] == subject.model)]

    mine = of_subject(rows)
    mine = mine[mine["norm"].isin(["", norm])]
    footprints = of_subject(variants)
    weight_bytes = footprints.groupby("scheme")["weight_bytes"].min()  # without a filter, where there is such a variant
    found = of_subject(distances)
    found = found[found["norm"] == norm]
    name = f"{subject.dataset} · {subject.model}"
    # A study without attacks has no norm; its figures say what they lack.
    budget_norm = norm or next(iter(headlines))
    return Group(
        title=f"{name} · {NORM_NAMES[norm]}" if several_norms else name,
        subject=name,
        norm=norm,
        headline=headlines[budget_norm],
        budget=budget_label(headlines[budget_norm], budget_norm, several_norms=several_norms),
        rows=mine,
        distances=found.assign(variant=_variant_labels(found), flagged=found["flags"] != ""),
        footprints=footprints,
        schemes=sorted(set(mine["scheme"]), key=lambda scheme: (-weight_bytes[scheme], scheme)),
        defenses=sorted(set(mine["defense"]), key=lambda defense: (defense != "none", defense)),
    )


def heatmap(group: Group) -> alt.FacetChart | None:
    """Defense x scheme: worst-case accuracy at the headline epsilon beside clean accuracy, flagged cells hatched.

    A cell over another number of samples than most of its panel says over how many.
    """
    worst_case = f"Worst case, {group.budget}"
    panels = {CLEAN: group.clean(), worst_case: group.worst_case()}
    cells = pd.concat([rows.assign(panel=panel, count=_unusual(rows["samples"])) for panel, rows in panels.items()])
    base = alt.Chart().encode(
        x=alt.X("scheme:N", sort=group.schemes, title="Scheme", axis=alt.Axis(labelAngle=0, labelExpr=IN_LINES)),
        # In a font that is wider than the one that it was measured in, the longest name would run into the title.
        y=alt.Y("defense:N", sort=group.defenses, title="Defense", axis=alt.Axis(titlePadding=20)),
        tooltip=_tooltips("variant", "flags"),
    )
    width, height = HEATMAP_CELL
    counts = base.mark_text(dy=15, fontSize=10).encode(text="count:N", color=_on_colour())
    layers = alt.layer(
        *_cell_layers(base, width, height, ".1f"),
        counts.transform_filter("isValid(datum.count)"),
        data=_data(cells, "panel", "scheme", "defense", "count"),
    )
    # As wide a gap as titles need above few columns, in a font that is wider than the one that they are measured in.
    return layers.properties(width=alt.Step(width), height=alt.Step(height)).facet(
        facet=panels_of("panel", [worst_case, CLEAN]), columns=2, spacing={"column": 50}
    )


def _unusual(samples: pd.Series) -> pd.Series:
    """`n = 8` where the number of samples is not the most common (of equally common ones the largest), else null."""
    return samples.map("n = {:,}".format).where(samples != samples.mode().max())


def accuracy_vs_epsilon(group: Group) -> alt.FacetChart | None:
    """Robust accuracy against epsilon with 95 % bands: a panel a defense, a colour a scheme.

    What the parameter `series` names is drawn: the worst case, an attack, or a transfer attack's strongest surrogate.
    An attack that follows gradients is one series on whichever network: white box on most, adaptive on filters and
    random networks, so that these stand beside the undefended ones.
    """
    curves = epsilon_curves(group)
    if curves.empty:
        return None
    sizes = curves["epsilon"] * group.levels
    curves = curves.assign(
        size=sizes.round(6), panel="Defense " + curves["defense"], threat=curves["threat"].str.replace("_", " ")
    )
    base = alt.Chart().encode(
        x=alt.X(
            "size:Q",
            title=_size_title("Epsilon", group),
            scale=_budgets(curves["size"], group.norm),
            axis=alt.Axis(values=sorted(set(curves["size"])), labelExpr=IN_FULL, labelOverlap=True),
        ),
        color=_colour("scheme", group.schemes),
    )
    percent = alt.Y("percent:Q", title="Robust accuracy (%)", scale=alt.Scale(domain=[0, 100]))
    points = base.encode(
        y=percent,
        shape=_shape("scheme", group.schemes),
        tooltip=_tooltips("variant", "series", "threat", "surrogate", "flags"),
    )
    layers = alt.layer(
        base.mark_area(opacity=0.14).encode(y=alt.Y("low:Q", title="Robust accuracy (%)"), y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(y=percent),
        points.mark_point(filled=True, opacity=1, size=52),
        _hollow(points, 16),
        data=_data(curves, "panel", "size", "series", "threat", "surrogate", "scheme", "defense"),
    ).transform_filter("datum.series === series")
    return _fluid(layers, [f"Defense {defense}" for defense in group.defenses])


def _budgets(sizes: pd.Series, norm: str) -> alt.Scale:
    """An axis on which budgets grow to the right: of an SNR, from the faintest change to the loudest that was tried."""
    if norm == SNR:
        return alt.Scale(domain=[sizes.min(), sizes.max()], reverse=True)
    return alt.Scale(domain=[0, sizes.max()])


def _size_title(size: str, group: Group) -> str:
    """An axis title with the norm and its units."""
    if group.norm == SNR:
        return "Signal-to-noise ratio (dB)"
    units = {"linf": f"in 1/{group.levels}", "l0": "L0, values changed"}
    return f"{size} ({units.get(group.norm, NORM_NAMES[group.norm])})"


def epsilon_curves(group: Group) -> pd.DataFrame:
    """The rows of each selectable series of accuracy against epsilon, `series` naming it; the worst case first.

    Where nothing but replays was tried there is no worst case: between budgets that were attacked it would look as if
    accuracy rose.
    """
    rows = group.rows
    attacked = (rows["epsilon"] == 0) | ~rows["flags"].map(split_flags).map(lambda flags: "only_transferred" in flags)
    worst_case = rows[(rows["threat"] == "worst_case") & attacked].assign(series=WORST_CASE)
    direct = rows[~rows["threat"].isin(["clean", "worst_case", "transfer"])]
    transfer = rows[rows["threat"] == "transfer"].sort_values(["accuracy", "surrogate"], kind="stable")
    strongest = transfer.drop_duplicates(["variant", "attack", "epsilon"])
    return pd.concat(
        [
            worst_case,
            direct.assign(series=direct["attack"] + direct["threat"].map(_in_brackets)),
            strongest.assign(series="transferred " + strongest["attack"] + ", strongest surrogate"),
        ]
    ).sort_values("epsilon", kind="stable")


def _in_brackets(threat: str) -> str:
    """What tells apart, in a series' name, attackers who have no gradients."""
    return "" if threat in ("noise", *WITH_GRADIENTS) else f" ({threat.replace('_', ' ')})"


def series_names(group: Group) -> list[str]:
    """What `accuracy_vs_epsilon` can show, the worst case first."""
    return sorted(set(epsilon_curves(group)["series"]), key=lambda name: (name != WORST_CASE, name))


def transfer(group: Group) -> alt.FacetChart | None:
    """Surrogate x target: what an attack crafted on one variant leaves of another at the headline epsilon.

    The diagonal is the white-box (or adaptive) attack on the target itself.
    """
    cells = transfer_cells(group)
    if cells.empty:
        return None
    step = 40 if len(group.variants) <= 16 else 26
    base = alt.Chart().encode(
        x=alt.X("variant:N", sort=group.variants, title="Target", axis=alt.Axis(labelAngle=-45)),
        y=alt.Y("surrogate:N", sort=group.variants, title="Surrogate"),
        tooltip=_tooltips("variant", "surrogate", "attack", "flags"),
    )
    diagonal = base.mark_rect(filled=False, strokeWidth=2, stroke=alt.ExprRef("ink")).transform_filter(
        "datum.variant === datum.surrogate"
    )
    layers = alt.layer(
        *_cell_layers(base, step, step, ".0f"),
        diagonal,
        data=_data(cells, "panel", "attack", "surrogate"),
    )
    return layers.properties(width=alt.Step(step), height=alt.Step(step)).facet(
        facet=panels_of("panel", sorted(set(cells["panel"]))), columns=1
    )


def transfer_cells(group: Group) -> pd.DataFrame:
    """One row a surrogate, target and attack at the headline epsilon, empty without transfer attacks."""
    rows = at_epsilon(group.rows, group.headline)
    moved = rows[rows["threat"] == "transfer"]
    own = rows[rows["threat"].isin(WITH_GRADIENTS) & rows["attack"].isin(moved["attack"])]
    cells = pd.concat([moved, own.assign(surrogate=own["variant"])])
    return cells.assign(panel="Attack " + cells["attack"])


def distance(group: Group) -> alt.FacetChart | None:
    """Median and quartiles of the distance to the nearest adversarial input that was found: a panel a defense.

    A bar runs from the lower to the upper quartile, to an arrow at the edge where the upper one lies beyond: far from
    all medians, or nowhere, since no adversarial input was found for more than a quarter of the samples.
    """
    rows = group.distances
    if rows.empty:
        return None
    scaled = rows[["low", "median", "high"]] * group.levels
    found = scaled.where(np.isfinite(scaled))
    # Room for the arrows; without any number the axis is empty, of whichever length.
    farthest = np.nanmax([0, *found["high"], *found["median"], *found["low"]])
    edge = min(1.15 * farthest, EDGE * np.nanmax([0, *found["median"]]) or inf) or 1
    found = found.where(found < edge)
    found_for = (100 * rows["found"]).map("found for {:.0f} %".format)
    told = {name: [_told(value, group.levels) for value in rows[name]] for name in scaled}
    data = rows.assign(
        **found.round(6),  # of sound a ten-thousandth is far
        end=found["high"].fillna(edge).round(6),
        is_open=found["low"].notna() & found["high"].isna(),
        label=np.where(np.isfinite(rows["median"]), told["median"], found_for + rows["flagged"].map(FLAGGED)),
        found_for=found_for,
        panel="Defense " + rows["defense"],
        **{f"{name}_told": values for name, values in told.items()},
    )
    base = alt.Chart().encode(
        y=alt.Y("scheme:N", sort=group.schemes, title="Scheme"),
        color=_colour("scheme", group.schemes).legend(None),
        tooltip=_distance_tooltips(),
    )
    x = {
        "title": _size_title("Distance", group),
        "scale": alt.Scale(domain=[0, edge], nice=False),
        "axis": alt.Axis(labelExpr=IN_FULL, tickCount=5, labelOverlap=True),
    }
    bars = base.mark_rule(strokeWidth=7, opacity=0.55).encode(x=alt.X("low:Q", **x), x2="end:Q")
    arrows = base.mark_point(filled=True, opacity=1, size=110, shape="triangle-right").encode(x=alt.X("end:Q", **x))
    known = base.transform_filter("isValid(datum.median)").encode(x=alt.X("median:Q", **x))
    points = known.encode(shape=_shape("scheme", group.schemes).legend(None))
    layers = alt.layer(
        bars.transform_filter("isValid(datum.low)"),
        arrows.transform_filter("datum.is_open"),
        points.mark_point(filled=True, opacity=1, size=90),
        _hollow(points, 26),
        known.mark_text(dy=-13, fontSize=11).encode(text="label:N", color=alt.value(alt.ExprRef("ink"))),
        base.transform_filter("!isValid(datum.median)")
        .mark_text(dy=-13, dx=4, fontSize=11, align="left")
        .encode(x=alt.value(0), text="label:N", color=alt.value(alt.ExprRef("ink"))),
        data=_values(data[[*DISTANCE_DATA, *found.columns, *("low_told", "median_told", "high_told")]]),
    )
    return _fluid(layers, [f"Defense {defense}" for defense in group.defenses], height=alt.Step(DISTANCE_ROW))


def _told(distance: float, levels: int) -> str:
    return distance_label(distance, levels) if np.isfinite(distance) else "none found"


def _distance_tooltips() -> list[alt.Tooltip]:
    titles = {
        **{"variant": "Variant", "low_told": "Nearest quarter within", "median_told": "Nearest half within"},
        **{"high_told": "Nearest three quarters within", "found_for": "Adversarial inputs", "n": "Samples"},
        **{"attacks": "Attacks", "flags": "Flags"},
    }
    return [alt.Tooltip(f"{name}:N", title=title) for name, title in titles.items()]


def medians(group: Group) -> list[str]:
    """The median distances that are known with their variants (`0.42 (int8 · none)`), the least first."""
    known = group.distances[np.isfinite(group.distances["median"])].sort_values("median", kind="stable")
    labels = (distance_label(median, group.levels) for median in known["median"])
    return [f"{label} ({variant})" for label, variant in zip(labels, known["variant"], strict=True)]


def pareto(group: Group) -> alt.FacetChart | None:
    """Accuracy against the bytes of the weights, clean and worst case, each with its front of unflagged variants."""
    worst_case = f"Worst case, {group.budget}"
    sizes = group.footprints.groupby(["scheme", "defense"], as_index=False)["weight_bytes"].max()
    points = pd.concat([group.clean().assign(panel=CLEAN), group.worst_case().assign(panel=worst_case)])
    points = points.merge(sizes, on=["scheme", "defense"]).assign(kilobytes=lambda rows: rows["weight_bytes"] / 1000)
    panels = (rows.assign(front=on_front(rows)) for _, rows in points.groupby("panel"))
    crowded = len(group.schemes) > 5
    points = pd.concat([_with_names(rows, group.schemes, ", " if crowded else "\n") for rows in panels])
    scale = alt.Scale(type="log", domain=[points["kilobytes"].min() / 1.4, points["kilobytes"].max() * 1.4], nice=False)
    x = alt.X(
        "kilobytes:Q",
        title="Weights (kB)",
        scale=scale,
        axis=alt.Axis(values=sorted(set(points["kilobytes"])), format=".3~s", labelOverlap="greedy", grid=False),
    )
    base = alt.Chart().encode(x=x, y=alt.Y("percent:Q", title="Accuracy (%)", scale=alt.Scale(domain=[0, 100])))
    marks = base.encode(
        color=_colour("defense", group.defenses),
        shape=_shape("defense", group.defenses),
        tooltip=[*_tooltips("variant", "flags"), alt.Tooltip("kilobytes:Q", title="Weights (kB)", format=".1f")],
    )
    front = base.mark_line(interpolate="step-after", strokeWidth=1.5, strokeDash=[4, 3], color=alt.ExprRef("soft"))
    is_slanted = crowded or max(map(len, group.schemes)) > 15
    slanted = {"angle": 300 if crowded else 320, "align": "left"} if is_slanted else {}
    # The position is the first line's, and the last one stands on the panel.
    first_line = f"-3 - {NAME_LINE} * (length(split(datum.names, '\\n')) - 1)"
    lines = {"baseline": "bottom", "fontSize": 11, "lineHeight": NAME_LINE, "lineBreak": "\n"}
    names = base.mark_text(**lines, **slanted, color=alt.ExprRef("soft")).encode(
        x=alt.X("middle:Q", title="Weights (kB)", scale=scale), y=alt.value(alt.ExprRef(first_line)), text="names:N"
    )
    layers = alt.layer(
        front.transform_filter("datum.front"),
        marks.mark_point(filled=True, opacity=1, size=80),
        _hollow(marks, 26),
        names.transform_filter("isValid(datum.names)"),
        data=_data(points, "panel", "kilobytes", "middle", "names", "front", "scheme", "defense"),
    )
    return _fluid(layers, [worst_case, CLEAN])


def _with_names(points: pd.DataFrame, schemes: list[str], separator: str) -> pd.DataFrame:
    """A panel's points with `middle`, the median of the `kilobytes` of their scheme, and with `names`.

    These are the schemes there, between them the separator, at one of their points and null at the others: names of
    equally large ones would be printed over each other.
    """
    # Not the mean, which a filter that is larger than its network would move away from the others' points.
    points = points.assign(middle=points.groupby("scheme")["kilobytes"].transform("median"))
    names = points.groupby("middle")["scheme"].agg(lambda there: separator.join(sorted(set(there), key=schemes.index)))
    return points.assign(names=points["middle"].map(names).where(~points.duplicated("middle")))


def on_front(points: pd.DataFrame) -> pd.Series:
    """Which unflagged points beat every unflagged point of at most their `kilobytes` in `percent`."""
    ordered = points.sort_values(["kilobytes", "percent"], ascending=[True, False], kind="stable")
    eligible = ordered["percent"].where(~ordered["flagged"], -np.inf)
    front = eligible > eligible.cummax().shift(fill_value=-np.inf)
    return front.reindex(points.index)


SUBJECTS = {
    "heatmap": "heat map of worst-case and clean accuracy, defense against number format",
    "accuracy_vs_epsilon": "robust accuracy against epsilon with 95 % bands, a panel for each defense",
    "distance": "median and quartiles of the distance to the nearest adversarial input, a panel for each defense",
    "transfer": "matrix of the accuracy that attacks crafted on each surrogate leave of each target",
    "pareto": "clean and worst-case accuracy against the bytes of the weights",
}
FIGURES: dict[str, Callable[[Group], alt.FacetChart | None]] = {
    "heatmap": heatmap,
    "accuracy_vs_epsilon": accuracy_vs_epsilon,
    "distance": distance,
    "transfer": transfer,
    "pareto": pareto,
}


def description(name: str, group: Group) -> str:
    """A figure's text for those who cannot see it."""
    numbers = _told_distances(group) if name == "distance" else _told_accuracies(group)
    return " ".join([f"{group.title}: {SUBJECTS[name]}.", *numbers])


def _told_accuracies(group: Group) -> list[str]:
    """The extremes, since the table has all of them."""
    in_the_table = "The numbers are in the table of all cells."
    robust = group.worst_case().sort_values("percent", kind="stable")
    if robust.empty:
        return [in_the_table]
    counts = ", {samples:,} samples" if differ_in_samples(robust) else ""
    told = f"{{percent:.1f}} % ({{variant}}{counts})"
    low, high = (told.format(**robust.iloc[end]) for end in (0, -1))
    return [
        f"Worst-case robust accuracy at {group.budget} goes from {low} to {high}; {_flagged_of(robust)}.",
        in_the_table,
    ]


def _told_distances(group: Group) -> list[str]:
    """Every median, since the table has none."""
    rows = group.distances
    sentences = [f"Median {NORM_NAMES[group.norm]} distances: {', '.join(medians(group)) or 'none is known'}."]
    unknown = rows[~np.isfinite(rows["median"])]
    if len(unknown):
        names = ", ".join(unknown["variant"])
        sentences.append(f"None was found for more than half of the samples of {names}.")
    return [*sentences, f"{_flagged_of(rows)}.".capitalize()]


def _flagged_of(rows: pd.DataFrame) -> str:
    return f"{int(rows['flagged'].sum())} of {len(rows)} variants are flagged"


def specification(chart: alt.TopLevelMixin, theme: str = "light") -> dict:
    """The chart's Vega-Lite object, with the parameters that its marks refer to."""
    constants = {"series": WORST_CASE} | {name: THEMES[theme][name] for name in ("paper", "ink", "soft")}
    return chart.to_dict() | {
        "params": [{"name": name, "value": value} for name, value in constants.items()],
        "background": THEMES[theme]["paper"],
        "config": configuration(theme),
    }


def svg(charts: Sequence[tuple[str, alt.TopLevelMixin | None]], nothing: str) -> str:
    """One SVG of titled charts below each other; where there is none, one that says `nothing`."""
    drawn = [chart.properties(title=title) for title, chart in charts if chart is not None]
    if not drawn:
        drawn = [
            alt.Chart(alt.Data(values=[{}])).mark_text(align="left", x=0, text=nothing).properties(width=480, height=40)
        ]
    drawing = specification(alt.vconcat(*drawn).resolve_scale(color="independent", shape="independent"))
    return _numbered_from_zero(vl_convert.vegalite_to_svg(drawing))


def _numbered_from_zero(drawing: str) -> str:
    """The same SVG with identifiers that do not depend on what the process drew before."""
    identifiers = dict.fromkeys(re.findall(r'id="((?:clip|gradient)_?\d+)"', drawing))
    numbers = {old: f"{old.rstrip('0123456789')}{number}" for number, old in enumerate(identifiers)}
    return re.sub(r"\b(?:clip|gradient)_?\d+\b", lambda match: numbers[match.group()], drawing)


def configuration(theme: str) -> dict:
    """Vega-Lite's settings of a theme: quiet axes, the page's fonts and colours."""
    colours = THEMES[theme]
    text = {"labelColor": colours["soft"], "titleColor": colours["ink"], "labelFontSize": 12, "titleFontSize": 12}
    return {
        "font": FONT,
        "axis": text
        | {"gridColor": colours["grid"], "domainColor": colours["soft"], "tickColor": colours["soft"]}
        # Labels at the ends stay at their ticks: pushed inside, they touch their neighbours.
        | {"titleFontWeight": 500, "titlePadding": 8, "labelLimit": 200, "labelFlush": False},
        "legend": text
        | {"orient": "bottom", "titleFontWeight": 500, "symbolSize": 80, "symbolOpacity": 1, "columns": 4}
        | {"columnPadding": 30, "labelLimit": 280},
        "header": text
        | {"labelFontSize": 13, "labelFontWeight": 600, "labelColor": colours["ink"], "labelPadding": 12},
        "title": {"color": colours["ink"], "anchor": "start", "fontSize": 15, "fontWeight": 600, "offset": 12},
        "view": {"stroke": None},
        "text": {"color": colours["ink"]},
        "facet": {"spacing": 36},
    }


def _data(rows: pd.DataFrame, *columns: str) -> alt.Data:
    shown = dict.fromkeys(["variant", "percent", "low", "high", "samples", "flagged", "flags", *columns])
    seeds = rows["n"].map(" × {} seeds".format).where(rows["seed"] == "all", "")
    rows = rows.assign(samples=rows["samples"].map("{:,}".format) + seeds)
    return _values(rows[list(shown)].round({"percent": 3, "low": 3, "high": 3}))


def _values(rows: pd.DataFrame) -> alt.Data:
    """Rows as a chart's data, flags as people read them, and null for what is missing, since JSON has no NaN."""
    rows = rows.assign(flags=rows["flags"].str.replace(";", ", ").replace("", "none"))
    return alt.Data(values=rows.astype(object).where(rows.notna(), None).to_dict("records"))


def _tooltips(*names: str) -> list[alt.Tooltip]:
    titles = {
        **{"variant": "Variant", "series": "Attack", "attack": "Attack", "threat": "Threat"},
        **{"surrogate": "Surrogate", "flags": "Flags"},
    }
    numbers = {"percent": "Accuracy (%)", "low": "95 % from", "high": "95 % to"}
    return [
        *(alt.Tooltip(f"{name}:N", title=titles[name]) for name in names if name != "flags"),
        *(alt.Tooltip(f"{name}:Q", title=title, format=".1f") for name, title in numbers.items()),
        alt.Tooltip("samples:N", title="Samples"),
        *(alt.Tooltip(f"{name}:N", title=titles[name]) for name in names if name == "flags"),
    ]


def _cell_layers(base: alt.Chart, width: int, height: int, number: str) -> list[alt.Chart]:
    """Coloured cells with their number, flagged ones hatched."""
    colour = alt.Color(
        "percent:Q",
        title="Accuracy (%)",
        scale=alt.Scale(scheme="viridis", domain=[0, 100]),
        legend=alt.Legend(gradientLength=200, gradientThickness=10, tickCount=5),
    )
    # A size of 4 draws a path in pixels.
    hatching = base.mark_point(
        filled=False, size=4, shape=hatch(width, height, FLAG_LINES), strokeWidth=1, opacity=0.55
    )
    return [
        base.mark_rect(stroke=alt.ExprRef("paper"), strokeWidth=2).encode(color=colour),
        hatching.transform_filter("datum.flagged").encode(color=_on_colour()),
        base.mark_text(fontSize=13 if width > 30 else 10, fontWeight=600).encode(
            text=alt.Text("percent:Q", format=number), color=_on_colour()
        ),
    ]


def _on_colour() -> dict:
    """Black or white, whichever stands out from a cell."""
    return alt.condition(f"datum.percent > {BLACK_TEXT_FROM}", alt.value("#000000"), alt.value("#ffffff"))


def hatch(width: float, height: float, spacing: float) -> str:
    """An SVG path of diagonal lines that fills a box of `width` x `height` around the origin."""
    reach = (width + height) / 2
    offsets = np.arange(-reach + spacing / 2, reach, spacing)
    starts = np.maximum(-width / 2, offsets - height / 2)
    ends = np.minimum(width / 2, offsets + height / 2)
    return "".join(
        f"M{start:g},{start - offset:g}L{end:g},{end - offset:g}"
        for offset, start, end in zip(offsets, starts, ends, strict=True)
    )


def _hollow(points: alt.Chart, size: int) -> alt.Chart:
    """Flagged points look hollow: a dot of the page's colour on each."""
    return (
        points.mark_point(filled=True, opacity=1, size=size)
        .encode(color=alt.value(alt.ExprRef("paper")), tooltip=alt.Undefined)
        .transform_filter("datum.flagged")
    )


def _colour(field: str, order: list[str]) -> alt.Color:
    return alt.Color(
        f"{field}:N", title=field.title(), scale=alt.Scale(domain=order, range=_cycle(COLOURS, len(order)))
    )


def _shape(field: str, order: list[str]) -> alt.Shape:
    return alt.Shape(f"{field}:N", title=field.title(), scale=alt.Scale(domain=order, range=_cycle(SHAPES, len(order))))


def _cycle(values: list[str], count: int) -> list[str]:
    return [values[index % len(values)] for index in range(count)]


def panels_of(column: str, order: list[str], **header: str) -> alt.Facet:
    """A panel for each value of a column, in this order, with its name above it."""
    return alt.Facet(f"{column}:N", sort=order, title=None, header=alt.Header(labelAnchor="start", **header))


def roomy_axis(names: Collection[str]) -> alt.Axis:
    """An axis on which the longest name has room in a font that is wider than the one that it is measured in."""
    return alt.Axis(minExtent=LETTER * max(map(len, names)))


def _fluid(layers: alt.LayerChart, panels: list[str], height: int | alt.Step = 220) -> alt.FacetChart:
    """Panels of a fixed size, which the page's script fits to its width."""
    return layers.properties(width=260, height=height).facet(
        facet=panels_of("panel", panels), columns=min(len(panels), 3)
    )
