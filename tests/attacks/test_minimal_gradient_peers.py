"""Gradient attacks of minimal norm beside those of Foolbox, ART and torchattacks, at equal budgets."""

from functools import partial
from typing import NamedTuple

import pytest
import torch

from stages.attacks import ddn, deepfool, deepfool_linf, fmn_l2, fmn_linf
from stages.attacks.distances import DISTANCES
from tests.attacks.peers import of_art, of_foolbox, of_torchattacks, outcome
from tests.attacks.trained import trained_problem

STEPS = 100
IMAGES = 100


class Reached(NamedTuple):
    success: float
    median: float  # distance, infinite where nothing was found


def reached(adversarial, success, inputs, norm) -> Reached:
    distance = DISTANCES[norm](adversarial, inputs).masked_fill(~success, torch.inf)
    return Reached(success.float().mean().item(), distance.median().item())


def peers():
    import foolbox.attacks
    import torchattacks
    from art.attacks.evasion import DeepFool

    return {
        "deepfool": [
            of_foolbox(foolbox.attacks.L2DeepFoolAttack(steps=STEPS)),
            of_art(lambda estimator: DeepFool(estimator, STEPS, epsilon=0.02, batch_size=IMAGES, verbose=False)),
            of_torchattacks(lambda network: torchattacks.DeepFool(network, steps=STEPS)),
        ],
        "deepfool_linf": [of_foolbox(foolbox.attacks.LinfDeepFoolAttack(steps=STEPS))],
        "fmn_linf": [of_foolbox(foolbox.attacks.LInfFMNAttack(steps=STEPS))],
        "fmn_l2": [
            of_foolbox(foolbox.attacks.L2FMNAttack(steps=STEPS)),
            of_foolbox(foolbox.attacks.DDNAttack(steps=STEPS)),
        ],
        "ddn": [of_foolbox(foolbox.attacks.DDNAttack(steps=STEPS))],
    }


@pytest.mark.slow
@pytest.mark.parametrize("plugin", [ddn, deepfool, deepfool_linf, fmn_l2, fmn_linf])
def test_as_much_falls_and_as_near_as_with_the_best_peer(plugin):
    classifier, inputs, labels = trained_problem(IMAGES)
    rivals = [outcome(peer, classifier, inputs, labels) for peer in peers()[plugin.__name__.split(".")[-1]]]
    theirs = [reached(rival.inputs, rival.success, inputs, plugin.NORM) for rival in rivals]
    attack = partial(plugin.attack, steps=STEPS, generator=torch.Generator().manual_seed(0))
    result = attack(classifier, inputs, labels)
    ours = reached(result.inputs[0], result.success[0], inputs, plugin.NORM)
    assert max(rival.success for rival in theirs) > 0.9
    assert ours.success >= max(rival.success for rival in theirs) - 0.01
    assert ours.median <= 1.05 * min(rival.median for rival in theirs)
