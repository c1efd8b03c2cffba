"""Attacks of Foolbox, ART and torchattacks under one signature, with their passes counted.

A peer is `attack(classifier, inputs, labels) -> adversarial inputs`, on inputs that the classifier gets right.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from stages.classifier import Classifier


class Outcome(NamedTuple):
    """What a peer reached: adversarial inputs [N, ...], whether they are (bool [N]), and its passes a sample."""

    inputs: Tensor
    success: Tensor
    forwards: float
    backwards: float


class Counted(nn.Module):
    """A network that counts the samples that pass through it, forward and backward."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        # torchattacks and ART take the device from the first parameter, and a frozen quantized network has none.
        self.network, self.marker = network, nn.Parameter(torch.empty(0), requires_grad=False)
        self.forwards = self.backwards = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.forwards += len(inputs)
        logits = self.network(inputs.float())  # ART's come in float64
        if logits.requires_grad:
            logits.register_hook(self._count_backwards)
        return logits

    def _count_backwards(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def outcome(
    run: Callable[[Counted, Tensor, Tensor], Tensor], classifier: Classifier, inputs: Tensor, labels: Tensor
) -> Outcome:
    """Run a peer, and judge by the classifier what comes out of it."""
    counted = Counted(classifier.network).eval()
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        np.random.seed(0)
        adversarial = run(counted, inputs, labels).detach()
    with torch.no_grad():
        success = classifier(adversarial).argmax(1) != labels
    return Outcome(adversarial, success, counted.forwards / len(inputs), counted.backwards / len(inputs))


def of_foolbox(attack, epsilon: float | None = None):
    """A Foolbox attack object; minimal-norm attacks take no epsilon."""

    def run(network: Counted, inputs: Tensor, labels: Tensor) -> Tensor:
        import foolbox

        model = foolbox.PyTorchModel(network, bounds=(0, 1))
        return attack(model, inputs, foolbox.criteria.Misclassification(labels), epsilons=epsilon)[1]

    return run


def of_torchattacks(attack: Callable[[nn.Module], Callable]):
    """An attack of torchattacks, made from the network."""
    return lambda network, inputs, labels: attack(network)(inputs, labels)


def of_art(attack: Callable, clip: tuple[float, float] = (0, 1)):
    """An attack of ART, made from its estimator, which sees float32 arrays and takes the labels as given."""

    def run(network: Counted, inputs: Tensor, labels: Tensor) -> Tensor:
        from art.estimators.classification import PyTorchClassifier

        with torch.no_grad():
            classes = network.network(inputs[:1]).shape[1]
        estimator = PyTorchClassifier(
            network, nn.CrossEntropyLoss(), tuple(inputs.shape[1:]), classes, clip_values=clip, device_type="cpu"
        )
        one_hot = nn.functional.one_hot(labels, classes).numpy().astype(np.float32)
        return torch.from_numpy(attack(estimator).generate(inputs.numpy(), one_hot)).float()

    return run
