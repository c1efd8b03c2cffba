"""Gradient attacks beside those of torchattacks (Kim, 2020, arXiv:2010.01950) on quantized networks, equal budgets."""

from functools import partial

import pytest
import torch
import torchattacks
from torch import nn

from stages.attacks import apgd, apgd_targeted, pgd
from stages.classifier import Classifier
from tests.quantization.small_networks import images, quantized_case

EPSILON = 8 / 255
IMAGES = 600
STEPS = 20
PEERS = {
    "pgd": (
        partial(pgd.attack, steps=STEPS, step_size=0.25),
        lambda network: torchattacks.PGD(network, EPSILON, EPSILON / 4, STEPS),
    ),
    "apgd": (
        partial(apgd.attack, steps=STEPS),
        lambda network: torchattacks.APGD(network, eps=EPSILON, steps=STEPS),
    ),
    "apgd on dlr": (
        partial(apgd.attack, steps=STEPS, loss="dlr"),
        lambda network: torchattacks.APGD(network, eps=EPSILON, steps=STEPS, loss="dlr"),
    ),
    "apgd targeted": (
        partial(apgd_targeted.attack, steps=STEPS // 2),
        lambda network: torchattacks.APGDT(network, eps=EPSILON, steps=STEPS // 2, n_classes=10),
    ),
}


class WithParameter(nn.Module):
    """torchattacks takes the device from the first parameter, and a frozen quantized network has none."""

    def __init__(self, network):
        super().__init__()
        self.network, self.marker = network, nn.Parameter(torch.empty(0), requires_grad=False)

    def forward(self, inputs):
        return self.network(inputs)


def robust_accuracy_of_peer(name, scheme):
    network = WithParameter(quantized_case("tiny_cnn", scheme).frozen).eval()
    inputs, labels = images("test", IMAGES)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adversarial = PEERS[name][1](network)(inputs, labels)
    with torch.no_grad():
        return (network(adversarial).argmax(1) == labels).float().mean().item()


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("scheme", ["int8", "w4a4"])
def test_no_more_is_left_standing_than_by_torchattacks(name, scheme):
    network = quantized_case("tiny_cnn", scheme).frozen
    inputs, labels = images("test", IMAGES)
    epsilons, generator = torch.tensor([EPSILON], dtype=torch.float64), torch.Generator().manual_seed(0)
    classifier = Classifier(network, inputs.shape[1:], 10)
    success = PEERS[name][0](classifier, inputs, labels, epsilons=epsilons, generator=generator).success
    theirs = robust_accuracy_of_peer(name, scheme)
    assert 0.1 < theirs < 0.4  # so that a weaker attack would leave more
    assert 1 - success.float().mean().item() <= theirs + 0.01
