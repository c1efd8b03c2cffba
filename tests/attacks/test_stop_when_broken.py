"""Attacks whose samples leave at their first error: the same success, by fewer passes."""

from functools import partial

import pytest
import torch
from torch import nn

from stages.attacks import apgd, apgd_targeted, auto_attack, pgd, pgd_l2
from stages.classifier import Classifier
from tests.attacks.linear import boundary_distance, linear_classifier
from tests.quantization.small_networks import images, quantized_case

ATTACKS = {
    "pgd": (partial(pgd.attack, steps=20), 4 / 255),
    "pgd with restarts on dlr": (partial(pgd.attack, restarts=3, loss="dlr"), 4 / 255),
    "pgd_l2": (partial(pgd_l2.attack, steps=20), 0.5),
    "apgd": (partial(apgd.attack, steps=20, restarts=2), 4 / 255),
    "apgd targeted": (partial(apgd_targeted.attack, steps=10, targets=3), 4 / 255),
    "auto_attack": (partial(auto_attack.attack, steps=10, targets=2, queries=20), 4 / 255),
}
every_attack = pytest.mark.parametrize(("attack", "epsilon"), ATTACKS.values(), ids=ATTACKS.keys())


def attacked(attack, classifier, inputs, labels, epsilons, **knobs):
    epsilons = torch.tensor(epsilons, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    return attack(classifier, inputs, labels, epsilons=epsilons, generator=generator, **knobs)


@every_attack
def test_success_is_that_of_the_full_budget(attack, epsilon):
    """On an integer network, whose logits do not depend on the rest of the batch, to the last sample."""
    inputs, labels = images("test", 50)
    classifier = Classifier(quantized_case("tiny_cnn", "w4a4").frozen, inputs.shape[1:], 10)
    epsilons = [0, epsilon / 2, epsilon, 4 * epsilon]
    full = attacked(attack, classifier, inputs, labels, epsilons)
    stopped = attacked(attack, classifier, inputs, labels, epsilons, stop_when_broken=True)
    assert torch.equal(stopped.success, full.success)
    assert 0 < full.success[1].sum() < len(labels)
    standing = ~full.success
    assert torch.equal(stopped.queries[standing], full.queries[standing])
    assert torch.equal(stopped.backwards[standing], full.backwards[standing])
    assert torch.equal(stopped.inputs[standing], full.inputs[standing])
    assert (stopped.backwards <= full.backwards).all()
    assert (stopped.distance <= torch.tensor(epsilons)[:, None] + 1e-7).all()
    assert stopped.backwards[3].sum() < full.backwards[3].sum() / 2  # where most falls


@pytest.mark.parametrize("attack", [attack for attack, _ in ATTACKS.values()], ids=ATTACKS.keys())
def test_passes_are_those_that_are_made(attack):
    classifier = linear_classifier(10)
    inputs = torch.rand(20, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    labels = classifier(inputs).argmax(1)
    norm = "l2" if attack.func is pgd_l2.attack else "linf"
    epsilon = boundary_distance(classifier, inputs, labels, norm).median().item()
    made = {"forward": 0, "backward": 0}

    def count(module, given, logits):
        assert len(logits) > 0
        made["forward"] += len(logits)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: made.update(backward=made["backward"] + len(gradient)))

    classifier.requires_grad_(False).network.last.register_forward_hook(count)
    # Judging is not counted: once the whole batch, and in the ensemble once more after each member.
    judged = 20 if attack.func is not auto_attack.attack else None
    result = attacked(attack, classifier, inputs, labels, [epsilon], stop_when_broken=True)
    assert 0 < result.success.sum() < 20
    assert made["backward"] == result.backwards.sum()
    if judged:
        assert made["forward"] == result.queries.sum() + judged


class Negated(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, inputs):
        return -self.network(inputs)


class Misleading(Classifier):
    def gradient_view(self, generator=None, samples=1):
        return Negated(self.network)


@pytest.mark.parametrize("attack", [pgd.attack, pgd_l2.attack, apgd.attack, apgd_targeted.attack])
def test_no_sample_leaves_before_the_classifier_itself_errs(attack):
    linear = linear_classifier(3)
    inputs = torch.rand(20, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    labels = linear(inputs).argmax(1)
    classifier = Misleading(linear.network, linear.input_shape, 3)
    small = partial(attack, stop_when_broken=True, steps=10)
    result = attacked(small, classifier, inputs, labels, [1e-4])
    assert not result.success.any()
    assert (result.backwards >= 10).all()  # though the view errs everywhere


@pytest.mark.parametrize("keep_best", [True, False])
def test_what_broke_on_the_way_is_kept(keep_best):
    """A ridge that steps jump over: the last point of the path is none of an error."""

    class Ridge(nn.Module):
        def forward(self, inputs):
            height = 1 - 40 * (inputs.flatten(1)[:, 0] - 0.63).abs()
            return torch.stack([torch.zeros_like(height), height], 1)

    inputs, labels = torch.linspace(0.45, 0.55, 64)[:, None], torch.zeros(64, dtype=torch.int64)
    attack = partial(pgd.attack, keep_best=keep_best, stop_when_broken=True)
    result = attacked(attack, Classifier(Ridge(), (1,), 2), inputs, labels, [0.2])
    assert result.success.all()
    assert (result.backwards < 10).all()
