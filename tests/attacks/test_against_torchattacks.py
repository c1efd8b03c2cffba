"""Gradient attacks beside those of torchattacks (Kim, 2020, arXiv:2010.01950) on quantized networks, equal budgets."""

from functools import partial

import pytest
import torch
import torchattacks

from stages.attacks import apgd, apgd_targeted, pgd
from stages.classifier import Classifier
from tests.attacks.peers import of_torchattacks, outcome
from tests.quantization.small_networks import images, quantized_case

EPSILON = 8 / 255
IMAGES = 600
STEPS = 20
PEERS = {
    "pgd": (
        partial(pgd.attack, steps=STEPS, step_size=0.25),
        of_torchattacks(lambda network: torchattacks.PGD(network, EPSILON, EPSILON / 4, STEPS)),
    ),
    "apgd": (
        partial(apgd.attack, steps=STEPS),
        of_torchattacks(lambda network: torchattacks.APGD(network, eps=EPSILON, steps=STEPS)),
    ),
    "apgd on dlr": (
        partial(apgd.attack, steps=STEPS, loss="dlr"),
        of_torchattacks(lambda network: torchattacks.APGD(network, eps=EPSILON, steps=STEPS, loss="dlr")),
    ),
    "apgd targeted": (
        partial(apgd_targeted.attack, steps=STEPS // 2),
        of_torchattacks(lambda network: torchattacks.APGDT(network, eps=EPSILON, steps=STEPS // 2, n_classes=10)),
    ),
}


@pytest.mark.parametrize(("attack", "peer"), PEERS.values(), ids=PEERS.keys())
@pytest.mark.parametrize("scheme", ["int8", "w4a4"])
def test_no_more_is_left_standing_than_by_torchattacks(attack, peer, scheme):
    inputs, labels = images("test", IMAGES)
    classifier = Classifier(quantized_case("tiny_cnn", scheme).frozen, inputs.shape[1:], 10).eval()
    epsilons, generator = torch.tensor([EPSILON], dtype=torch.float64), torch.Generator().manual_seed(0)
    ours = attack(classifier, inputs, labels, epsilons=epsilons, generator=generator).success.float().mean().item()
    theirs = outcome(peer, classifier, inputs, labels).success.float().mean().item()
    assert 0.6 < theirs < 0.9  # so that a weaker attack would break fewer
    assert ours >= theirs - 0.01
