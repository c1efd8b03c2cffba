"""What was asked and found, in sentences made from the numbers."""

from collections import Counter
from dataclasses import replace

import pandas as pd
from markupsafe import Markup, escape

from stages.metrics.flags import MEANINGS
from stages.metrics.results import THREATS, split_flags
from stages.norms import SNR
from stages.reporting.figures import Group, differ_in_samples, is_unbounded, medians
from stages.reporting.sizes import NORM_NAMES, budget_label

NUMBERS = ["No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve"]
FLOAT_SCHEME = "fp32"

# How the attacks of a threat are told, where its name in brackets would not do.
TOLD = {"transfer": "with {} transferred from the other variants", "noise": "with {} (no attacker)"}

# What may be attacked on fewer samples than the rest (a test set may be small), and the word before its name.
FEWER = {"dataset": "of", "defense": "of", "attack": "with"}


def findings(results: pd.DataFrame, groups: list[Group]) -> list[Markup]:
    """What was done, what the best quantized variant of each group is and costs, and what must not be trusted.

    Of groups with minimal-norm attacks also how near adversarial inputs lie.
    """
    norms = list(dict.fromkeys(group.norm for group in groups))
    several_subjects = len({group.subject for group in groups}) > 1
    found = []
    for group in groups:
        found.append(_best(group, name_subject=several_subjects, budget_first=len(norms) > 1))
        found += _nearest(group, name_subject=several_subjects)
    return [_done(results, norms), *found, _trust(results)]


def _done(results: pd.DataFrame, norms: list[str]) -> Markup:
    results = results[results["seed"] != "all"]
    attacked = results[~results["threat"].isin(["clean", "worst_case"]) & ~is_unbounded(results)]
    count = len(results[["dataset", "model", "scheme", "defense", "seed"]].drop_duplicates())
    sentence = Markup("{} of {} on {}").format(
        _count(count, "variant"), _list(sorted(set(results["model"]))), _list(sorted(set(results["dataset"])))
    )
    verb = "was" if count == 1 else "were"
    if attacked.empty:
        return sentence + Markup(" {} scored on clean samples only: no attack was run.").format(verb)
    tried = attacked.groupby("norm")["epsilon"]
    largest = {norm: tried.get_group(norm).agg("min" if norm == SNR else "max") for norm in norms}
    budgets = [budget_label(largest[norm], norm, several_norms=len(norms) > 1) for norm in norms]
    budgets = [budget.replace("epsilon", "epsilon up to").replace("SNR", "SNR down to") for budget in budgets]
    return sentence + Markup(" {} attacked {}, on {}, at {}.").format(
        verb, _attacks(attacked), _samples(attacked), _list(budgets)
    )


def _samples(attacked: pd.DataFrame) -> Markup:
    """On how many samples, and what was limited to fewer: each limit once, under the first of `FEWER` that has it."""
    most = attacked["n"].max()
    told = Markup("{:,} test samples each").format(most)
    limited = []
    for column, preposition in FEWER.items():
        counts = attacked.groupby(column)["n"].max()
        counts = counts[counts < most]
        for count, names in counts.groupby(counts):
            limited.append(Markup("{:,} {} {}").format(count, preposition, _list(list(names.index))))
        attacked = attacked[~attacked[column].isin(counts.index)]
    return told + Markup(" ({})").format(Markup(", ").join(limited)) if limited else told


def _attacks(attacked: pd.DataFrame) -> Markup:
    """Which attacks there were of each threat."""
    names = {threat: _list(sorted(set(rows["attack"]))) for threat, rows in attacked.groupby("threat")}
    told = {threat: TOLD.get(threat, f"with {{}} ({threat.replace('_', ' ')})") for threat in THREATS}
    phrases = [Markup(told[threat]).format(names[threat]) for threat in THREATS if threat in names]
    return Markup(", and ").join([Markup(", ").join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)


def _best(group: Group, *, name_subject: bool, budget_first: bool) -> Markup:
    """`budget_first`: groups differ in norm, so the sentence opens with it."""
    budget = f" at {group.budget}"
    opening = f"At {group.budget}" if budget_first else ""
    if name_subject:
        opening = f"On {group.subject}" + budget * budget_first
    where = Markup("{}, the").format(opening) if opening else Markup("The")
    there = "" if budget_first else budget
    attacked = group.worst_case()
    quantized = attacked[attacked["scheme"] != FLOAT_SCHEME]
    trusted = quantized[~quantized["flagged"]]
    # Of equally robust variants the smaller one is better.
    smaller = [group.schemes.index(scheme) for scheme in trusted["scheme"]]
    trusted = trusted.assign(smaller=smaller).sort_values(["percent", "smaller"], ascending=False)
    if quantized.empty:
        return Markup("{} study attacked no quantized variant{}, so none can be recommended.").format(where, there)
    if trusted.empty:
        return Markup("{} worst case{} is flagged for every quantized variant, so none can be recommended.").format(
            where, there
        )
    best = trusted.iloc[0]
    return Markup(
        "{} most robust quantized variant without a flag is <b>{}</b>: <b>{:.1f} %</b>{} stay correctly "
        "classified{} under the worst of these attacks (95 % interval {:.1f} to {:.1f}{}){}."
    ).format(
        where,
        best["variant"],
        best["percent"],
        _of_samples(best, attacked) or " of the samples",
        there,
        best["low"],
        best["high"],
        _runner_up(trusted, attacked),
        _cost(group, best, attacked),
    )


def _of_samples(row: pd.Series, rows: pd.DataFrame, preposition: str = "of") -> str:
    """Over how many samples a number is (of each seed), where the rows that it may be compared with differ in that."""
    return f" {preposition} {row['samples']:,} samples" if differ_in_samples(rows) else ""


def _nearest(group: Group, *, name_subject: bool) -> list[Markup]:
    """How near adversarial inputs lie: the extremes of the medians of variants without a flag."""
    trusted = replace(group, distances=group.distances[~group.distances["flagged"]])
    known = medians(trusted)
    if not known:
        return []
    opening = f"On {group.subject}, half" if name_subject else "Half"
    depending = ", depending on the variant" if len(known) > 1 else ""
    return [
        Markup("{} of the correctly classified samples have an adversarial one within an {} distance of {}{}.").format(
            opening, NORM_NAMES[group.norm], " to ".join(dict.fromkeys([known[0], known[-1]])), depending
        )
    ]


def _runner_up(trusted: pd.DataFrame, attacked: pd.DataFrame) -> Markup:
    """Who is no worse than the best as far as its interval tells."""
    best = trusted.iloc[0]
    level = trusted.iloc[1:].loc[lambda rows: rows["percent"] >= best["low"]]
    if level.empty:
        return Markup("")
    second = level.iloc[0]
    return Markup("; {} lies within it with {:.1f} %{}").format(
        second["variant"], second["percent"], _of_samples(second, attacked)
    )


def _cost(group: Group, best: pd.Series, attacked: pd.DataFrame) -> Markup:
    """What the best is worth without its defense, and clean."""
    clean = group.clean().set_index("variant")
    own = clean.loc[best["variant"]]
    told = Markup("its clean accuracy is {:.1f} %{}").format(own["percent"], _of_samples(own, clean, "on"))
    if best["defense"] == "none":
        return Markup(", without any defense; {}").format(told)
    undefended = attacked.query("scheme == @best.scheme and defense == 'none'")
    if undefended.empty:
        return Markup("; {}").format(told)
    plain = undefended.iloc[0]
    return Markup(", against {:.1f} %{}{} undefended; {}, {}").format(
        plain["percent"],
        _of_samples(plain, attacked),
        " (flagged)" if plain["flagged"] else "",
        told,
        _lost(own, clean.loc[plain["variant"]]),
    )


def _lost(own: pd.Series, plain: pd.Series) -> str:
    """What a defense costs in clean accuracy: no difference where the two are over other samples."""
    if own["samples"] != plain["samples"]:
        return f"that of the undefended one {plain['percent']:.1f} % on {plain['samples']:,}"
    lost = plain["percent"] - own["percent"]
    return f"{abs(lost):.1f} points {'less' if lost >= 0 else 'more'} than undefended"


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
