"""The trained ResNet-8 that attacks and their peers are compared on."""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from stages.artifacts.classifiers import load_classifier
from stages.classifier import Classifier
from tests.quantization.small_networks import images

CHECKPOINT = Path(__file__).parents[1] / "checkpoints/fashion_mnist-resnet8-fp32-none-s0"


class Problem(NamedTuple):
    """A classifier, and inputs float32 [N, 1, 28, 28] with labels int64 [N] that it gets right."""

    classifier: Classifier
    inputs: Tensor
    labels: Tensor


@cache
def trained_problem(count: int) -> Problem:
    """The first `count` test images, spread over the classes, that the network gets right."""
    classifier = load_classifier(CHECKPOINT, torch.device("cpu")).eval()
    for parameter in classifier.parameters():
        parameter.requires_grad_(False)
    inputs, labels = images("test", 2 * count)
    with torch.no_grad():
        right = classifier(inputs).argmax(1) == labels
    return Problem(classifier, inputs[right][:count], labels[right][:count])
