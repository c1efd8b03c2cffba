"""AutoAttack: at least as strong as each of its members, each of which sees what the ones before left standing."""

import pytest
import torch

from stages.attacks import apgd, apgd_targeted, auto_attack, fab_targeted, square
from stages.classifier import Classifier
from tests.attacks.linear import boundary_distance, centred_inputs, linear_classifier
from tests.quantization.small_networks import images, quantized_case

KNOBS = {"steps": 5, "targets": 3, "queries": 30}


def attacked(attack, classifier, inputs, labels, epsilons, **knobs):
    epsilons = torch.as_tensor(epsilons, dtype=torch.float64)
    return attack(classifier, inputs, labels, epsilons=epsilons, generator=torch.Generator().manual_seed(0), **knobs)


@pytest.mark.parametrize("num_classes", [2, 3, 10])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_samples_fall_exactly_where_epsilon_reaches_the_boundary(num_classes, count):
    """Also with fewer classes than the ratio of logits needs."""
    classifier, inputs = linear_classifier(num_classes), centred_inputs(count)
    labels = classifier(inputs).argmax(1)
    distances = boundary_distance(classifier, inputs, labels)
    epsilons = torch.stack([0.999 * distances, 1.01 * distances])
    # One step of FAB-T is exact here, toward all classes.
    result = attacked(auto_attack.attack, classifier, inputs, labels, epsilons, steps=20, queries=10)
    assert not result.success[0].any()
    assert result.success[1].all()


@pytest.mark.parametrize(("scheme", "epsilon"), [("w4a4", 1 / 255), ("w1a1", 2 / 255)])
def test_no_member_breaks_what_the_ensemble_does_not(scheme, epsilon):
    inputs, labels = images("test", 40)
    classifier = Classifier(quantized_case("tiny_cnn", scheme).frozen, inputs.shape[1:], 10)
    result = attacked(auto_attack.attack, classifier, inputs, labels, [epsilon], **KNOBS)
    seeds = torch.randint(2**62, (4,), generator=torch.Generator().manual_seed(0)).tolist()

    def alone(attack, seed, **knobs):
        generator = torch.Generator().manual_seed(seed)
        epsilons = torch.tensor([epsilon], dtype=torch.float64)
        return attack(classifier, inputs, labels, epsilons=epsilons, generator=generator, **knobs).success[0]

    first = alone(apgd.attack, seeds[0], steps=5)
    second = alone(apgd_targeted.attack, seeds[1], steps=5, targets=3)
    third = fab_targeted.attack(classifier, inputs, labels, generator=torch.Generator(), steps=5, targets=3)
    fourth = alone(square.attack, seeds[3], queries=30, initial_fraction=0.8)
    within = third.success[0] & (third.distance[0] <= epsilon)
    clean = classifier(inputs).argmax(1) != labels
    expected = clean | first | second | within | fourth
    assert torch.equal(result.success[0], expected)
    assert clean.sum() < first.sum() and expected.sum() < len(labels)
    assert first.sum() < expected.sum() or scheme == "w4a4"  # the others add to the first
    # Who broke a sample shows in its passes.
    one, two = 1 + (5 + 1) + 1, 1 + 3 * (5 + 1) + 3 + 1
    assert (result.queries[0, clean] == 1).all() and (result.backwards[0, clean] == 0).all()
    assert torch.equal(result.inputs[0, clean], inputs[clean])
    assert (result.queries[0, first & ~clean] == one).all() and (result.backwards[0, first & ~clean] == 5).all()
    by_second = second & ~first & ~clean
    assert (result.queries[0, by_second] == one + two).all() and (result.backwards[0, by_second] == 20).all()
    three = 2 + 2 * 3 * 5
    standing = result.queries[0, ~expected]
    assert ((standing == one + two + three + 1 + 30 + 1) | (standing == one + two + three + 4 + 1 + 30 + 1)).all()


def test_what_stands_keeps_the_highest_loss_inside_its_ball():
    classifier, inputs = linear_classifier(3), centred_inputs(20)
    labels = classifier(inputs).argmax(1)
    epsilons = 0.9 * boundary_distance(classifier, inputs, labels)[None]
    result = attacked(auto_attack.attack, classifier, inputs, labels, epsilons, **KNOBS)
    alone = attacked(apgd.attack, classifier, inputs, labels, epsilons, steps=5)

    def loss(points):
        return torch.nn.functional.cross_entropy(classifier(points), labels, reduction="none").detach()

    assert not result.success.any()
    assert (result.distance <= epsilons.float()).all()
    assert (loss(result.inputs[0]) >= 0.99 * loss(alone.inputs[0])).all()
    assert (loss(result.inputs[0]) > loss(inputs)).all()


def test_inputs_that_are_no_images_are_refused():
    classifier, inputs = linear_classifier(3, (48,)), centred_inputs(4, (48,))
    with pytest.raises(ValueError, match=r"^inputs: shape \[4, 48\]: expected images \[N, C, H, W\]$"):
        attacked(auto_attack.attack, classifier, inputs, classifier(inputs).argmax(1), [0.1])
