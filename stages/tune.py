"""Finds the budgets at which doubling an attack's iterations no longer helps, on validation data.

Test data has no say in the choice of an attack's budget, as it has none in that of a network.
"""

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

from stages import plugins
from stages.artifacts.classifiers import load_classifier
from stages.artifacts.datasets import load_dataset
from stages.attack import BATCH_SIZE, threat_of
from stages.attacks.attacked import Attacked
from stages.datasets.arrays import evaluation_samples
from stages.datasets.tensors import as_input
from stages.metrics.paired import significantly_lower
from stages.plan import Variant, variants
from stages.probe import broken_within, twice
from stages.runtime import configure
from stages.seeds import seed_of


def tune(
    params: Any,
    attacks: dict[str, dict[str, Any]],
    count: int,
    doublings: int,
    tell: Callable[[str], None] = print,
) -> dict[str, dict[str, Any]]:
    """The settings of attacks, written as in params.yaml, budgets doubled for as long as that helps on any variant.

    Helping is leaving significantly fewer of `count` validation samples correct at the headline epsilon of the
    attack's norm (McNemar's exact test, as in `not_converged`). What each doubling leaves is told in a line.
    Raises FileNotFoundError where the study's networks were not made yet, ValueError where it has no headline epsilon
    in the norm of an attack.
    """
    device = configure(params)
    params = params.model_copy(update={"attacks": attacks})
    for name in attacks:
        if plugins.norm(params.plugin(name)) not in params.evaluation.headline_epsilon:
            norm = plugins.norm(params.plugin(name))
            raise ValueError(f"evaluation.headline_epsilon: has no {norm!r}, expected one to tune {name!r} at")
    found = {}
    for name, settings in attacks.items():
        plugin = importlib.import_module(f"stages.attacks.{params.plugin(name)}")
        found[name] = settings
        if hasattr(plugin, "BUDGET"):
            attacked = [_Target(variant, name, plugin, params, count, device) for variant in variants(params)]
            found[name] = settings | _enough(attacked, name, plugin, params.settings_of(name), doublings, tell)
    return found


def as_yaml(attacks: dict[str, dict[str, Any]]) -> str:
    """The settings as the `attacks` of a params.yaml."""
    return yaml.safe_dump({"attacks": attacks}, sort_keys=False, default_flow_style=None, width=100)


class _Target:
    """Validation samples of one variant, to be attacked again and again."""

    def __init__(self, variant: Variant, attack: str, plugin: Any, params: Any, count: int, device: torch.device):
        evaluation = params.values["evaluation"]
        validation = load_dataset(Path(f"{variant.prepared}.safetensors")).val
        samples = evaluation_samples(validation.labels, min(count, len(validation)))
        classifier = load_classifier(Path(variant.network), device)
        self.digital = evaluation["grid"] == "digital"
        _, eot_samples = threat_of(plugin, classifier, params.eot_samples(attack))
        self.classifier = Attacked(classifier, digital=self.digital, eot_samples=eot_samples)
        self.inputs = as_input(torch.from_numpy(validation.inputs[samples]).to(device))
        self.labels = torch.from_numpy(validation.labels[samples]).to(device)
        self.plugin, self.name = plugin, f"{variant.name}-{attack}"
        self.epsilon = evaluation["headline_epsilon"][plugin.NORM]

    def correct(self, knobs: dict[str, Any]) -> pd.Series:
        """Which samples withstand the attack within the headline epsilon, bool [N]."""
        setting = {"epsilon": self.epsilon, "digital": self.digital}
        broken = []
        for start in range(0, len(self.inputs), BATCH_SIZE):
            batch = self.inputs[start : start + BATCH_SIZE], self.labels[start : start + BATCH_SIZE]
            seed = seed_of(self.name, f"attack from sample {start}")
            broken += broken_within(self.plugin, self.classifier, *batch, knobs, **setting, seed=seed).tolist()
        return ~pd.Series(broken)


def _enough(targets: list[_Target], name: str, plugin: Any, knobs: dict[str, Any], doublings: int, tell) -> dict:
    """The settings with the first budget whose double helps on no target, or with the largest that was tried."""
    defaults = inspect.signature(plugin.attack).parameters
    knobs = {knob: defaults[knob].default for knob in plugin.BUDGET} | knobs
    left = [target.correct(knobs) for target in targets]
    tell(_line(name, plugin, knobs, targets, left))
    for _ in range(doublings):
        doubled = twice(plugin, knobs)
        now = [target.correct(doubled) for target in targets]
        tell(_line(name, plugin, doubled, targets, now))
        if not any(significantly_lower(after, before) for after, before in zip(now, left, strict=True)):
            return knobs
        knobs, left = doubled, now
    tell(f"{name}: doubling still helped at the last try")
    return knobs


def _line(name: str, plugin: Any, knobs: dict[str, Any], targets: list[_Target], left: list[pd.Series]) -> str:
    shares = ", ".join(
        f"{target.name.removesuffix(f'-{name}')} {series.mean():.1%}"
        for target, series in zip(targets, left, strict=True)
    )
    return f"{name} {', '.join(f'{knob} {knobs[knob]}' for knob in plugin.BUDGET)}: left standing {shares}"
