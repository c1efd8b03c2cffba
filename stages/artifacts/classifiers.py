"""Classifiers as artifacts: a network, or a filter and the network behind it, whole in one file."""

from importlib import import_module
from pathlib import Path

import torch

from stages.artifacts.network_files import load_description, load_tensors
from stages.artifacts.networks import build
from stages.classifier import Classifier
from stages.defenses.filtered import Filtered
from stages.defenses.input_filter import InputFilter
from stages.quantization.frozen_layers import check_exact


def load_classifier(path: Path, device: torch.device | str = "cpu") -> Classifier:
    """The classifier to attack and score: what is at `path`, parameters frozen, on `device`.

    Raises ValueError if tensors and description do not fit, or if sums of integer layers would not be exact.
    """
    description = load_description(path)
    shape, classes = tuple(description["input_shape"]), len(description["classes"])
    classifier = Classifier(build(description), shape, classes)
    if "filter" in description:
        classifier = compose(classifier.network, build_filter(description), description)
        load_tensors(path, classifier, description)
    else:
        load_tensors(path, classifier.network, description)
    if description["format"] is not None:
        check_exact(classifier.network, shape)
    classifier.requires_grad_(False).to(device, memory_format=torch.channels_last)
    return classifier.eval()


def build_filter(description: dict) -> InputFilter:
    """The filter that a classifier's description names, not fitted yet."""
    plugin = import_module(f"stages.defenses.{description['filter']['defense']}")
    return plugin.filter(tuple(description["input_shape"]), **description["filter"]["settings"])


def compose(network: torch.nn.Module, filter: InputFilter, description: dict) -> Filtered:
    """A filter and the network behind it as one classifier.

    Raises ValueError if a filter draws and names no classifier that knows how to.
    """
    if filter.stochastic and filter.composed is None:
        raise ValueError(
            f"stages/defenses/{description['filter']['defense']}.py: the filter draws, expected its class to have "
            "`composed = Shielded`"
        )
    composed = filter.composed or Filtered
    return composed(network, filter, tuple(description["input_shape"]), len(description["classes"]))
