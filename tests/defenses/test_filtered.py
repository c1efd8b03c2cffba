"""A filter and a network as one classifier: what attackers differentiate, thresholds, saving."""

from functools import cache

import pytest
import torch
from safetensors.torch import load, save

from stages.attacks import pgd
from stages.attacks.attacked import Attacked
from stages.attacks.planted import last_layer, plant, two_classes
from stages.datasets.fashion_mnist import INPUT_SHAPE
from stages.defenses import feature_squeezing, pixel_defend
from stages.defenses.filtered import Filtered, set_threshold
from stages.defenses.input_filter import InputFilter, with_gradient_of
from stages.models.footprint import Footprint
from tests.quantization.small_networks import images, quantized_case


class Halved(InputFilter):
    """A filter that detects nothing."""

    def forward(self, inputs):
        return inputs / 2


def made(name):
    if name == "halved":
        return Halved()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name == "pixel_defend":
            return pixel_defend.filter(INPUT_SHAPE, radius=4 / 255, width=4, blocks=1)
        return feature_squeezing.filter(INPUT_SHAPE)


@cache
def filtered(name):
    """The filter before a frozen 8-bit network."""
    network = quantized_case("tiny_cnn", "int8").frozen
    return Filtered(network, made(name), INPUT_SHAPE, 10).requires_grad_(False).eval()


def inputs(count=6):
    return images("test", count)[0]


FILTERS = ("halved", "feature_squeezing", "pixel_defend")


@pytest.mark.parametrize("name", FILTERS)
def test_the_logits_are_those_of_the_filtered_inputs(name):
    classifier = filtered(name)
    seen = classifier.filter(inputs())
    assert not torch.equal(seen, inputs())
    assert torch.equal(classifier(inputs()), classifier.network(seen))
    assert torch.equal(classifier.features(inputs()).values, classifier.network.features(seen).values)


@pytest.mark.parametrize("name", FILTERS)
def test_the_gradient_view_gives_the_same_logits_bit_for_bit_and_a_gradient(name):
    classifier, view = filtered(name), filtered(name).gradient_view()
    leaf = inputs().requires_grad_()
    logits = view(leaf)
    assert torch.equal(logits, classifier(inputs()))
    (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum(), leaf)
    assert (gradient.flatten(1) != 0).any(1).all()


@pytest.mark.parametrize("name", ["halved", "feature_squeezing"])
def test_a_filter_that_learns_nothing_costs_nothing(name):
    assert made(name).footprint(INPUT_SHAPE) == Footprint(0, 0, 0, 0)


def test_without_a_view_of_its_own_the_gradient_is_that_at_the_filtered_input():
    classifier, leaf = filtered("halved"), inputs().requires_grad_()
    (by_view,) = torch.autograd.grad(classifier.gradient_view()(leaf).sum(), leaf)
    at_filtered = (inputs() / 2).requires_grad_()
    (expected,) = torch.autograd.grad(classifier.network(at_filtered).sum(), at_filtered)
    assert torch.equal(by_view, expected)  # and not half of it, the filter's true gradient


def test_values_are_one_tensor_s_and_the_gradient_goes_to_the_other():
    smooth, values = torch.tensor([0.1, 0.2], requires_grad=True), torch.tensor([3.0, 1e-9], requires_grad=True)
    result = with_gradient_of(smooth, values)
    assert torch.equal(result, values)
    gradients = torch.autograd.grad((result * torch.tensor([2.0, 5.0])).sum(), (smooth, values), allow_unused=True)
    assert gradients[0].tolist() == [2, 5]
    assert gradients[1] is None


def test_an_attack_runs_against_a_filter_before_a_quantized_network():
    classifier = Attacked(filtered("feature_squeezing"), digital=True, eot_samples=1)
    originals, labels = images("test", 40)
    generator = torch.Generator().manual_seed(0)
    result = pgd.attack(classifier, originals, labels, epsilons=torch.tensor([0.1]), generator=generator)
    accuracy = (classifier(originals).argmax(1) == labels).float().mean()
    assert (classifier(result.inputs[0]).argmax(1) == labels).float().mean() < accuracy - 0.3
    assert result.distance.max() <= 0.1 + 1e-6


def test_an_example_can_be_planted_behind_a_filter():
    classifier, original = filtered("feature_squeezing"), inputs()[3]
    setting = {"norm": "linf", "epsilon": 0.3, "digital": True, "margin": 3.0}
    readout = plant(classifier, original, **setting, generator=torch.Generator().manual_seed(0))
    with two_classes(classifier, last_layer(classifier, inputs()).layer, readout):
        both = torch.stack([original, readout.point])
        assert classifier(both).argmax(1).tolist() == [0, 1]
        assert torch.equal(classifier.gradient_view()(both), classifier(both))


@pytest.mark.parametrize("name", FILTERS[1:])
def test_the_threshold_reports_one_in_twenty_clean_inputs(name):
    classifier, clean = filtered(name), images("test", 60)[0]
    before = classifier.detected(clean)
    set_threshold(classifier, clean, batch_size=7)
    try:
        reported = classifier.detected(clean)
    finally:
        classifier.filter.threshold.fill_(torch.inf)
    assert before.sum() == 0
    assert reported.sum() == 3
    assert set(classifier.suspicion(clean).topk(3).indices.tolist()) == set(reported.nonzero()[:, 0].tolist())


def test_equal_suspicions_never_make_more_false_positives():
    class Constant(Halved):
        def suspicion(self, logits_of, inputs):
            return torch.ones(len(inputs))

    classifier = Filtered(filtered("halved").network, Constant(), INPUT_SHAPE, 10)
    set_threshold(classifier, inputs(), false_positives=0.5)
    assert classifier.detected(inputs()).sum() == 0


def test_a_filter_that_detects_nothing_has_no_threshold_to_set():
    classifier = filtered("halved")
    set_threshold(classifier, inputs())
    assert classifier.filter.threshold == torch.inf
    assert classifier.detected(inputs()) is None


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_an_impossible_share_of_false_positives_is_refused(share):
    with pytest.raises(ValueError, match=r"false_positives is .*expected a share in \[0, 1\)"):
        set_threshold(filtered("feature_squeezing"), inputs(), share)


def test_a_suspicion_that_is_not_finite_is_refused():
    class Broken(Halved):
        def suspicion(self, logits_of, inputs):
            return torch.full((len(inputs),), torch.nan)

    classifier = Filtered(filtered("halved").network, Broken(), INPUT_SHAPE, 10)
    with pytest.raises(ValueError, match="not finite"):
        set_threshold(classifier, inputs())


@pytest.mark.parametrize("name", FILTERS[1:])
def test_all_that_a_filter_learned_is_saved_with_it(name):
    classifier = filtered(name)
    saved = save({key: value.contiguous() for key, value in classifier.state_dict().items()})
    with torch.random.fork_rng():
        torch.manual_seed(1)
        other = pixel_defend.filter(INPUT_SHAPE, radius=4 / 255, width=4, blocks=1) if name == "pixel_defend" else None
    other = Filtered(quantized_case("tiny_cnn", "int8").frozen, other or made(name), INPUT_SHAPE, 10).eval()
    other.load_state_dict(load(saved))
    assert torch.equal(other(inputs()), classifier(inputs()))
    assert torch.equal(other.suspicion(inputs()), classifier.suspicion(inputs()))
