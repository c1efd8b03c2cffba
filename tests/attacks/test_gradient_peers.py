"""Gradient attacks with a budget, and FAB-T, beside their peers on a trained ResNet-8, with equal numbers of steps."""

from copy import deepcopy
from functools import cache, partial

import foolbox
import pytest
import torch
import torchattacks

from stages.attacks import apgd, apgd_targeted, auto_attack, fab_targeted, pgd, pgd_l2
from stages.attacks.distances import linf
from stages.classifier import Classifier
from tests.attacks.peers import of_foolbox, of_torchattacks, outcome
from tests.attacks.trained import Problem, trained_problem

pytestmark = pytest.mark.slow

LINF, L2, STEPS = 4 / 255, 0.4, 20

# Ours, the epsilon, and its peers.
RIVALS = {
    "pgd": (
        partial(pgd.attack, steps=STEPS),
        LINF,
        [
            of_foolbox(foolbox.attacks.LinfPGD(rel_stepsize=0.25, steps=STEPS), LINF),
            of_torchattacks(lambda network: torchattacks.PGD(network, LINF, LINF / 4, STEPS)),
        ],
    ),
    "pgd_l2": (
        partial(pgd_l2.attack, steps=STEPS),
        L2,
        [
            of_foolbox(foolbox.attacks.L2PGD(rel_stepsize=0.25, steps=STEPS), L2),
            of_torchattacks(lambda network: torchattacks.PGDL2(network, L2, L2 / 4, STEPS)),
        ],
    ),
    "apgd": (
        partial(apgd.attack, steps=STEPS),
        LINF,
        [of_torchattacks(lambda network: torchattacks.APGD(network, eps=LINF, steps=STEPS))],
    ),
    "apgd targeted": (
        partial(apgd_targeted.attack, steps=STEPS),
        LINF,
        [of_torchattacks(lambda network: torchattacks.APGDT(network, eps=LINF, steps=STEPS, n_classes=10))],
    ),
    "auto_attack": (
        partial(auto_attack.attack, steps=STEPS, queries=100, stop_when_broken=True),
        LINF,
        [of_torchattacks(lambda network: torchattacks.AutoAttack(network, eps=LINF, n_classes=10))],
    ),
}


@cache
def problem() -> Problem:
    """Peers flatten what they differentiate by views, which fail in the layout of channels last."""
    classifier, inputs, labels = trained_problem(100)
    network = deepcopy(classifier.network).to(memory_format=torch.contiguous_format)
    return Problem(Classifier(network, classifier.input_shape, 10).eval(), inputs.contiguous(), labels)


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("attack", "epsilon", "peers"), RIVALS.values(), ids=RIVALS.keys())
def test_success_is_that_of_the_best_peer(attack, epsilon, peers):
    classifier, inputs, labels = problem()
    ours = attack(classifier, inputs, labels, epsilons=torch.tensor([epsilon]), generator=generator())
    theirs = max(outcome(peer, classifier, inputs, labels).success.float().mean().item() for peer in peers)
    assert 0.3 < theirs < 1  # so that a weaker attack would break fewer
    assert ours.success.float().mean().item() >= theirs - 0.01 - 1e-6


def test_fab_t_comes_as_near_as_its_peer():
    classifier, inputs, labels = problem()
    # At epsilon 1 the peer is content with the first class that it reaches.
    ours = fab_targeted.attack(classifier, inputs, labels, steps=STEPS, targets=1, generator=generator())
    peer = of_torchattacks(
        lambda network: torchattacks.FAB(network, eps=1.0, steps=STEPS, multi_targeted=True, n_classes=10)
    )
    theirs = outcome(peer, classifier, inputs, labels)
    distance = linf(theirs.inputs, inputs).masked_fill(~theirs.success, torch.inf)
    assert ours.success.float().mean() >= theirs.success.float().mean() - 0.01
    assert ours.distance[0].median() <= 1.05 * distance.median()
