"""What was asked and found, in sentences made from the numbers."""

from collections import Counter

import pandas as pd
from markupsafe import Markup, escape

from stages.metrics.flags import MEANINGS
from stages.metrics.results import THREATS, split_flags
from stages.reporting.figures import Group, epsilon_label

NUMBERS = ["No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve"]
FLOAT_SCHEME = "fp32"

# How the attacks of a threat are told, where its name in brackets would not do.
TOLD = {"transfer": "with {} transferred from the other variants", "noise": "with {} (no attacker)"}


def findings(results: pd.DataFrame, groups: list[Group], headline: float) -> list[Markup]:
    """What was done, what the best quantized variant of each group is and costs, and what must not be trusted."""
    return [_done(results), *(_best(group, headline, name_group=len(groups) > 1) for group in groups), _trust(results)]


def _done(results: pd.DataFrame) -> Markup:
    results = results[results["seed"] != "all"]
    attacked = results[~results["threat"].isin(["clean", "worst_case"]) & (results["epsilon"] < 1)]
    count = len(results[["dataset", "model", "scheme", "defense", "seed"]].drop_duplicates())
    sentence = Markup("{} of {} on {}").format(
        _count(count, "variant"), _list(sorted(set(results["model"]))), _list(sorted(set(results["dataset"])))
    )
    verb = "was" if count == 1 else "were"
    if attacked.empty:
        return sentence + Markup(" {} scored on clean images only: no attack was run.").format(verb)
    return sentence + Markup(" {} attacked {}, on {} test images each, at epsilon up to {}.").format(
        verb, _attacks(attacked), int(attacked["n"].min()), epsilon_label(attacked["epsilon"].max())
    )


def _attacks(attacked: pd.DataFrame) -> Markup:
    """Which attacks there were of each threat."""
    names = {threat: _list(sorted(set(rows["attack"]))) for threat, rows in attacked.groupby("threat")}
    told = {threat: TOLD.get(threat, f"with {{}} ({threat.replace('_', ' ')})") for threat in THREATS}
    phrases = [Markup(told[threat]).format(names[threat]) for threat in THREATS if threat in names]
    return Markup(", and ").join([Markup(", ").join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)


def _best(group: Group, headline: float, *, name_group: bool) -> Markup:
    where = Markup("On {}, the").format(group.title) if name_group else Markup("The")
    quantized = group.worst_case()
    quantized = quantized[quantized["scheme"] != FLOAT_SCHEME]
    trusted = quantized[~quantized["flagged"]]
    # Of equally robust variants the smaller one is better.
    smaller = [group.schemes.index(scheme) for scheme in trusted["scheme"]]
    trusted = trusted.assign(smaller=smaller).sort_values(["percent", "smaller"], ascending=False)
    if quantized.empty:
        return where + Markup(" study attacked no quantized variant at epsilon {}, so none can be recommended.").format(
            epsilon_label(headline)
        )
    if trusted.empty:
        return where + Markup(
            " worst case at epsilon {} is flagged for every quantized variant, so none can be recommended."
        ).format(epsilon_label(headline))
    best = trusted.iloc[0]
    return Markup(
        "{} most robust quantized variant without a flag is <b>{}</b>: <b>{:.1f} %</b> of the images stay correctly "
        "classified at epsilon {} under the worst of these attacks (95 % interval {:.1f} to {:.1f}{}){}."
    ).format(
        where,
        best["variant"],
        best["percent"],
        epsilon_label(headline),
        best["low"],
        best["high"],
        _runner_up(trusted),
        _cost(group, best),
    )


def _runner_up(trusted: pd.DataFrame) -> Markup:
    """Who is no worse than the best as far as its interval tells."""
    best = trusted.iloc[0]
    level = trusted.iloc[1:].loc[lambda rows: rows["percent"] >= best["low"]]
    if level.empty:
        return Markup("")
    return Markup("; {} lies within it with {:.1f} %").format(level.iloc[0]["variant"], level.iloc[0]["percent"])


def _cost(group: Group, best: pd.Series) -> Markup:
    """What the best is worth without its defense, and clean."""
    clean = group.clean().set_index("variant")["percent"]
    own = Markup("its clean accuracy is {:.1f} %").format(clean[best["variant"]])
    if best["defense"] == "none":
        return Markup(", without any defense; {}").format(own)
    undefended = group.worst_case().query("scheme == @best.scheme and defense == 'none'")
    if undefended.empty:
        return Markup("; {}").format(own)
    plain = undefended.iloc[0]
    lost = clean[plain["variant"]] - clean[best["variant"]]
    return Markup(", against {:.1f} %{} undefended; {}, {:.1f} points {} than undefended").format(
        plain["percent"], " (flagged)" if plain["flagged"] else "", own, abs(lost), "less" if lost >= 0 else "more"
    )


def _trust(results: pd.DataFrame) -> Markup:
    flags = results["flags"]
    flagged = int((flags != "").sum())
    if not flagged:
        return Markup("None of the {:,} cells of the result table is flagged.").format(len(results))
    reasons = Counter(flag for cell in flags for flag in split_flags(cell))
    reason, count = min(reasons.items(), key=lambda item: (-item[1], item[0]))
    meaning = MEANINGS[reason][0].lower() + MEANINGS[reason][1:]
    return Markup(
        "<b>{:,} of {:,} cells {} flagged</b> and must not be trusted, most often for <code>{}</code> ({:,}): {}"
    ).format(flagged, len(results), "is" if flagged == 1 else "are", reason, count, meaning)


def _count(count: int, noun: str) -> str:
    return f"{NUMBERS[count] if count < len(NUMBERS) else count} {noun}{'' if count == 1 else 's'}"


def _list(names: list[str]) -> Markup:
    names = [escape(name) for name in names]
    return Markup(" and ").join([Markup(", ").join(names[:-1]), names[-1]] if len(names) > 1 else names)
