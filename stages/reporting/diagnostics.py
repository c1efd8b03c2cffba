"""The charts of diagnostics: what quantization did to gradients, to the decision boundary, to logits and classes."""

from collections.abc import Callable
from dataclasses import dataclass

import altair as alt
import numpy as np
import pandas as pd

from stages.datasets.levels import LEVELS
from stages.metrics.diagnostics import NOISE_LEVELS, PARTS, diagnostics_table, quantile
from stages.reporting.figures import COLOURS, SHAPES, panels_of, variant_label
from stages.reporting.sizes import NORM_NAMES, levels_in

BEFORE, AFTER = "float", "quantized"
DISTANCES = ("l2", "linf")
CURVE = np.linspace(0, 1, 41)  # shares of the samples at which a distribution is drawn
PANEL = (260, 220)  # pixels, as of the other charts
BAR_STEP = 40


@dataclass(frozen=True)
class Diagnosed:
    """The diagnostics that share one figure: of one dataset and model, over all seeds, with the orders of its axes.

    `rows` has the columns of diagnostics files, and `table` those of the table made from them (seed 0 for all seeds).
    """

    title: str
    rows: pd.DataFrame
    table: pd.DataFrame
    schemes: list[str]
    defenses: list[str]

    @property
    def levels(self) -> int:
        """What distances in Linf are told in parts of: as PGD's budget is, else 255."""
        budgets = self.table["epsilon"].dropna()
        return levels_in("linf", budgets.max()) if len(budgets) else LEVELS

    @property
    def quantized(self) -> list[str]:
        """The schemes but the float one."""
        present = set(self.table.loc[self.table["part"] == "all", "scheme"])
        return [scheme for scheme in self.schemes if scheme in present]


def diagnosed(rows: pd.DataFrame, variants: pd.DataFrame) -> list[Diagnosed]:
    """Split diagnostics into those that share figures.

    `variants` is the table of footprints (one row a variant): schemes are ordered by the bytes of their weights, the
    largest first, defenses by name after `none`.
    """
    return [_diagnosed(f"{dataset} · {model}", mine, variants) for (dataset, model), mine in _subjects(rows)]


def _subjects(rows: pd.DataFrame) -> list[tuple[tuple, pd.DataFrame]]:
    return list(rows.groupby(["dataset", "model"], sort=False))


def _diagnosed(title: str, rows: pd.DataFrame, variants: pd.DataFrame) -> Diagnosed:
    weight_bytes = variants.groupby("scheme")["weight_bytes"].min()  # without a filter, where there is such a variant
    return Diagnosed(
        title,
        rows,
        diagnostics_table(rows.assign(seed=0)),
        schemes=sorted(set(rows["scheme"]), key=lambda scheme: (-weight_bytes[scheme], scheme)),
        defenses=sorted(set(rows["defense"]), key=lambda defense: (defense != "none", defense)),
    )


def gradient_cosine(group: Diagnosed) -> alt.FacetChart | None:
    """The distribution of the cosine between float and quantized input gradients: a panel a defense, a colour a scheme.

    Read at a cosine: the share of samples whose gradients are no more alike. Marks are medians.
    """
    rows = group.rows[(group.rows["diagnostic"] == "gradient_cosine") & (group.rows["part"] == "all")]
    if rows.empty:
        return None
    curves = [
        {
            "scheme": scheme,
            "panel": f"Defense {defense}",
            "cosine": round(quantile(mine["value"], share), 4),
            "percent": round(100 * share, 2),
        }
        for (scheme, defense), mine in rows.groupby(["scheme", "defense"], sort=False)
        for share in CURVE
        if mine["value"].notna().any()
    ]
    base = alt.Chart().encode(
        x=alt.X("cosine:Q", title="Cosine of the two gradients", scale=alt.Scale(domain=[_floor(curves), 1])),
        y=alt.Y("percent:Q", title="Samples at most there (%)", scale=alt.Scale(domain=[0, 100])),
        color=_scheme_colour(group),
        tooltip=[
            alt.Tooltip("scheme:N", title="Scheme"),
            alt.Tooltip("cosine:Q", title="Cosine", format=".3f"),
            alt.Tooltip("percent:Q", title="Samples at most there (%)", format=".0f"),
        ],
    )
    medians = base.mark_point(filled=True, opacity=1, size=52).encode(shape=_scheme_shape(group))
    layers = alt.layer(
        base.mark_line(interpolate="step-after", strokeWidth=2),
        medians.transform_filter("datum.percent === 50"),
        data=alt.Data(values=curves),
    )
    return _paneled(layers, [f"Defense {defense}" for defense in group.defenses])


def _floor(curves: list[dict]) -> float:
    """Where the axis begins: below 0 only where gradients oppose each other."""
    lowest = min((point["cosine"] for point in curves), default=0.0)
    return min(0.0, np.floor(5 * lowest) / 5)


def boundary_distance(group: Diagnosed) -> alt.FacetChart | None:
    """Quartiles of the distance to the nearest error before and after quantization: a panel a norm and defense."""
    rows = group.table[group.table["scheme"].isin(group.quantized) & group.table["part"].isin(["none", "all"])]
    if rows.empty:
        return None
    boxes, panels = [], []
    for defense in group.defenses:
        for norm in DISTANCES:
            levels = group.levels if norm == "linf" else 1
            panels.append(f"{NORM_NAMES[norm]}{f', in 1/{levels}' if levels > 1 else ''}\ndefense {defense}")
            boxes += _boxes(rows[rows["defense"] == defense], f"distance_{norm}", levels, panels[-1])
    base = alt.Chart().encode(
        y=alt.Y("scheme:N", sort=group.quantized, title="Scheme"),
        yOffset=alt.YOffset("network:N", sort=[BEFORE, AFTER]),
        color=alt.Color(
            "network:N", title="Network", scale=alt.Scale(domain=[BEFORE, AFTER], range=[COLOURS[4], COLOURS[0]])
        ),
        tooltip=[
            alt.Tooltip("scheme:N", title="Scheme"),
            alt.Tooltip("network:N", title="Network"),
            alt.Tooltip("told:N", title="Quartiles"),
            alt.Tooltip("n:Q", title="Samples that are right"),
        ],
    )
    title = "Distance to the nearest error that was found"
    bars = base.mark_bar(size=12, opacity=0.45).encode(
        x=alt.X("low:Q", title=title, scale=alt.Scale(zero=True)), x2="high:Q"
    )
    medians = base.mark_tick(thickness=3, size=16, opacity=1).encode(x="median:Q")
    layers = alt.layer(bars, medians, data=alt.Data(values=boxes)).properties(
        width=PANEL[0], height=alt.Step(22, **{"for": "offset"})
    )
    return layers.facet(facet=_panels(panels), columns=2).resolve_scale(x="independent", y="independent")


def _boxes(rows: pd.DataFrame, diagnostic: str, levels: int, panel: str) -> list[dict]:
    """One box a network. Where an end is infinite, no error being found, the box ends with the widest finite one."""
    ends = rows[[f"{diagnostic}_q1", f"{diagnostic}_median", f"{diagnostic}_q3"]].to_numpy() * levels
    finite = ends[np.isfinite(ends)]
    widest = finite.max() if len(finite) else 1.0
    boxes = []
    for (_, row), quartiles in zip(rows.iterrows(), ends, strict=True):
        low, median, high = (round(float(min(end, widest)), 4) for end in quartiles)
        boxes.append(
            {
                "scheme": row["scheme"],
                "network": BEFORE if row["part"] == "none" else AFTER,
                "panel": panel,
                "low": low,
                "median": median if np.isfinite(quartiles[1]) else None,
                "high": high,
                "told": ", ".join(f"{end:.3g}" if np.isfinite(end) else "none found" for end in quartiles),
                "n": round(row["n"] * row["clean_accuracy"]),
            }
        )
    return boxes


SHIFTS = {"prediction_change": "Classes changed", "logit_shift": "Change of the logits"}


def quantization_shift(group: Diagnosed) -> alt.FacetChart | None:
    """What quantization changes on noisy samples, against the noise: panels are measures and defenses."""
    rows = group.table[group.table["part"] == "all"]
    if rows.empty:
        return None
    points, panels = [], []
    for defense in group.defenses:
        for shift, name in SHIFTS.items():
            panels.append(f"{name}\ndefense {defense}")
            for _, row in rows[rows["defense"] == defense].iterrows():
                points += [
                    {
                        "scheme": row["scheme"],
                        "panel": panels[-1],
                        "noise": levels,
                        "percent": round(100 * row[f"{shift}_{levels}"], 3),
                        "n": int(row["n"]),
                    }
                    for levels in NOISE_LEVELS
                ]
    base = alt.Chart().encode(
        x=alt.X("noise:Q", title="Uniform noise (in 1/255)", axis=alt.Axis(values=NOISE_LEVELS)),
        y=alt.Y("percent:Q", title="From the float network (%)", scale=alt.Scale(zero=True)),
        color=_scheme_colour(group),
    )
    marks = base.mark_point(filled=True, opacity=1, size=52).encode(
        shape=_scheme_shape(group),
        tooltip=[
            alt.Tooltip("scheme:N", title="Scheme"),
            alt.Tooltip("noise:Q", title="Noise (1/255)"),
            alt.Tooltip("percent:Q", title="From the float network (%)", format=".1f"),
            alt.Tooltip("n:Q", title="Samples"),
        ],
    )
    layers = alt.layer(base.mark_line(strokeWidth=2), marks, data=alt.Data(values=points))
    return _paneled(layers, panels, columns=2)


def attribution(group: Diagnosed) -> alt.FacetChart | None:
    """Accuracy under PGD (bars) and clean (lines) where one part alone is quantized: a panel a variant.

    Nothing where the study has no budget in linf.
    """
    rows = group.table[group.table["scheme"].isin(group.quantized) & group.table["robust_accuracy"].notna()]
    if rows.empty:
        return None
    names = [variant_label(scheme, defense) for defense in group.defenses for scheme in group.quantized]
    bars = [
        {
            "panel": variant_label(row["scheme"], row["defense"]),
            "part": row["part"],
            "robust": round(100 * row["robust_accuracy"], 3),
            "clean": round(100 * row["clean_accuracy"], 3),
            "cosine": None if np.isnan(row["gradient_cosine_median"]) else round(row["gradient_cosine_median"], 3),
            "zero": round(100 * row["zero_gradients"], 3),
            "n": int(row["n"]),
        }
        for _, row in rows.iterrows()
    ]
    x = alt.X("part:N", sort=list(PARTS), title="Quantized part", axis=alt.Axis(labelAngle=-40))
    titles = {"robust": "Under PGD (%)", "clean": "Clean (%)", "cosine": "Median cosine", "zero": "Zero gradients (%)"}
    base = alt.Chart().encode(
        x=x,
        tooltip=[
            alt.Tooltip("part:N", title="Quantized part"),
            *(alt.Tooltip(f"{key}:Q", title=title) for key, title in titles.items()),
            alt.Tooltip("n:Q", title="Samples"),
        ],
    )
    height = alt.Y("robust:Q", title="Accuracy (%): bar under PGD, line clean", scale=alt.Scale(domain=[0, 100]))
    layers = alt.layer(
        base.mark_bar(color=COLOURS[0], size=24).encode(y=height),
        base.mark_tick(color=COLOURS[1], thickness=3, size=30).encode(y="clean:Q"),
        base.mark_text(dy=-7, fontSize=11).encode(y="robust:Q", text=alt.Text("robust:Q", format=".0f")),
        data=alt.Data(values=bars),
    )
    shown = [name for name in names if name in {bar["panel"] for bar in bars}]
    return layers.properties(width=alt.Step(BAR_STEP), height=PANEL[1]).facet(
        facet=_panels(shown), columns=min(len(shown), 3)
    )


FIGURES: dict[str, Callable[[Diagnosed], alt.FacetChart | None]] = {
    "attribution": attribution,
    "gradient_cosine": gradient_cosine,
    "boundary_distance": boundary_distance,
    "quantization_shift": quantization_shift,
}
SUBJECTS = {
    "attribution": "accuracy clean and under PGD with one part alone quantized, a panel for each variant",
    "gradient_cosine": "distribution of the cosine between float and quantized input gradients",
    "boundary_distance": "median and quartiles of the distance to the nearest error, before and after quantization",
    "quantization_shift": "change of classes and logits from the float network against the magnitude of noise",
}


def description(name: str, group: Diagnosed) -> str:
    """A figure's text for those who cannot see it."""
    return f"{group.title}: {SUBJECTS[name]}. The numbers are in diagnostics.csv."


def _paneled(chart: alt.Chart | alt.LayerChart, panels: list[str], columns: int = 3) -> alt.FacetChart:
    width, height = PANEL
    return chart.properties(width=width, height=height).facet(facet=_panels(panels), columns=min(len(panels), columns))


def _panels(order: list[str]) -> alt.Facet:
    # A long name of a defense has a line of its own: on one line it would end beyond its panel.
    return panels_of("panel", order, labelExpr="split(datum.value, '\\n')")


def _scheme_colour(group: Diagnosed) -> alt.Color:
    scale = alt.Scale(domain=group.quantized, range=_as_everywhere(COLOURS, group))
    return alt.Color("scheme:N", title="Scheme", scale=scale)


def _scheme_shape(group: Diagnosed) -> alt.Shape:
    scale = alt.Scale(domain=group.quantized, range=_as_everywhere(SHAPES, group))
    return alt.Shape("scheme:N", title="Scheme", scale=scale)


def _as_everywhere(values: list[str], group: Diagnosed) -> list[str]:
    """For each quantized scheme the value that it has in the charts with all schemes."""
    return [values[group.schemes.index(scheme) % len(values)] for scheme in group.quantized]
