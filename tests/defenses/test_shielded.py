"""The shield as a classifier: passes, votes, what attackers differentiate, costs, and what it reports."""

from dataclasses import asdict

import pytest
import torch

from stages.classifier import Classifier
from stages.defenses import random_resize_pad, shield, shielded
from stages.defenses.filtered import set_threshold
from stages.defenses.shielded import Shielded
from stages.defenses.votes import majority, mean_probabilities
from stages.models.footprint import Footprint, footprint
from stages.plugins import knobs
from tests.quantization.small_networks import SHAPE, images, quantized_case

SHIELDS = {
    "dropout": {"layers": ["activations"], "rate": 0.2, "passes": 3},
    "last_hidden": {"rate": 0.3, "passes": 4, "vote": "majority"},
    "filters": {"filters": [{"bit_depth": {"bits": 4}}, "gaussian"], "layers": ["block2"], "rate": 0.2, "passes": 3},
    "random filter": {"filters": ["random_resize_pad", "median"], "rate": 0.0, "passes": 3, "vote": "majority"},
    "both": {"filters": ["random_resize_pad", "jpeg"], "layers": ["activations"], "rate": 0.2, "passes": 2},
}


def made(scheme="w4a4", **settings):
    network = quantized_case("resnet8", scheme).frozen
    return Shielded(network, shield.filter(SHAPE, **settings), SHAPE, 10).requires_grad_(False).eval()


def plain(scheme="w4a4"):
    return Classifier(quantized_case("resnet8", scheme).frozen, SHAPE, 10)


def inputs(count=12):
    return images("test", count)[0]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("vote", ["mean", "majority"])
def test_one_pass_that_drops_nothing_is_the_plain_network_bit_for_bit(vote):
    classifier = made(rate=0.0, passes=1, vote=vote)
    assert torch.equal(classifier(inputs()), plain()(inputs()))
    assert torch.equal(classifier.gradient_view(seeded(), 5)(inputs()), plain()(inputs()))
    assert not classifier.stochastic


def test_passes_that_drop_nothing_agree():
    classifier = made(rate=0.0, passes=6)
    torch.testing.assert_close(classifier(inputs()), plain()(inputs()).log_softmax(1))
    assert classifier.uncertainties(inputs())["mutual_information"].max() < 1e-6


@pytest.mark.parametrize("name", SHIELDS)
def test_draws_are_the_seeds_and_fresh_without_one(name):
    classifier = made(**SHIELDS[name])
    assert classifier.stochastic
    classifier.reseed(1)
    first, second = classifier(inputs()), classifier(inputs())
    classifier.reseed(1)
    assert torch.equal(classifier(inputs()), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", SHIELDS)
def test_the_gradient_view_gives_the_same_logits_for_the_same_draws_and_a_gradient(name):
    classifier = made(**SHIELDS[name])
    classifier.reseed(2)
    logits = classifier(inputs())
    leaf = inputs().requires_grad_()
    view = classifier.gradient_view(seeded(2))(leaf)
    assert torch.equal(view, logits)
    (gradient,) = torch.autograd.grad(view.log_softmax(1)[:, 3].sum(), leaf)
    assert gradient.isfinite().all() and (gradient.flatten(1) != 0).any(1).all()


@pytest.mark.parametrize(("vote", "expected"), [("mean", mean_probabilities), ("majority", majority)])
def test_the_vote_is_over_the_passes(vote, expected):
    classifier = made(**SHIELDS["dropout"] | {"vote": vote})
    passes = classifier.pass_logits(inputs(), 3, seeded(3), classifier.filter)
    classifier.reseed(3)
    assert passes.shape == (3, 12, 10)
    assert torch.equal(classifier(inputs()), expected(passes))


@pytest.mark.parametrize("name", ["dropout", "both"])
def test_passes_in_several_groups_have_the_gradient_of_all(name, monkeypatch):
    """Groups are computed again on the way back, and have to draw the same."""
    classifier = made(**SHIELDS[name])
    values = classifier.dropout.values_of_all if classifier.filter.stochastic else classifier.dropout.values
    monkeypatch.setattr(shielded, "VALUES_AT_ONCE", len(inputs(4)) * values)  # one pass at a time
    leaf = inputs(4).requires_grad_()
    view = classifier.gradient_view(seeded(4), 3)(leaf)
    (gradient,) = torch.autograd.grad(view[:, 2].sum(), leaf)
    one_by_one = []
    again, draws = inputs(4).requires_grad_(), seeded(4)
    for _ in range(3 * classifier.passes):
        one_by_one.append(classifier.pass_logits(again, 1, draws, classifier.filter.backward_view))
    expected = mean_probabilities(torch.cat(one_by_one))
    assert torch.equal(view, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected[:, 2].sum(), again)[0])


def test_behind_a_random_filter_groups_are_as_large_as_the_whole_network_allows(monkeypatch):
    classifier = made(filters=["random_resize_pad"], layers=["last_hidden"], rate=0.3, passes=4)
    assert classifier.dropout.values < classifier.dropout.values_of_all
    monkeypatch.setattr(shielded, "VALUES_AT_ONCE", 2 * len(inputs(3)) * classifier.dropout.values_of_all)
    counts, group = [], classifier._group

    def counted(given, passes, *others):
        counts.append(passes)
        return group(given, passes, *others)

    monkeypatch.setattr(classifier, "_group", counted)
    classifier(inputs(3))
    assert counts == [2, 2]


def test_the_gradients_variance_falls_as_one_over_the_draws():
    classifier = made(layers=["block2"], rate=0.3, passes=1)
    image = inputs()[:1]

    def variance(samples):
        gradients = []
        for seed in range(48):
            leaf = image.clone().requires_grad_()
            logits = classifier.gradient_view(seeded(seed), samples)(leaf)
            gradients.append(torch.autograd.grad(logits[:, 0].sum() - logits[:, 1].sum(), leaf)[0])
        return torch.stack(gradients).var(0).sum().item()

    # A ratio of two variances from 48 draws each; the logarithm of the mean is not quite a mean.
    assert variance(1) / variance(16) == pytest.approx(16, rel=0.4)


def test_its_network_may_be_read_by_its_parts():
    classifier = made(**SHIELDS["filters"])
    classifier.reseed(5)
    features = classifier.features(inputs())
    assert len(features.integers) == len(inputs())
    classifier.reseed(6)
    assert not torch.equal(classifier.features(inputs()).integers, features.integers)


def test_what_comes_before_the_first_dropout_is_paid_once():
    case = quantized_case("resnet8", "w4a4")
    alone = footprint(case.network, SHAPE, case.format)
    once, last = made(passes=1, rate=0.2), made(passes=10, rate=0.2)
    assert asdict(once.footprint(alone)) == asdict(alone)
    assert last.footprint(alone).macs == alone.macs + 9 * 64 * 10  # the linear layer alone
    pooled = last.footprint(alone).peak_activation_bytes - alone.peak_activation_bytes
    assert pooled == 64 * case.frozen.pool.quantizer.bits // 8
    early = made(passes=10, rate=0.2, layers=["activation"])
    first = 28 * 28 * 16 * 9
    assert early.footprint(alone).macs == 10 * alone.macs - 9 * first
    random = made(passes=10, rate=0.0, filters=["random_resize_pad"])
    assert random.footprint(alone).macs == 10 * (alone.macs + 4 * 28 * 28)
    assert made(passes=10, rate=0.0, filters=["gaussian"]).footprint(alone).macs == alone.macs + 2 * 7 * 28 * 28


def test_draws_count_as_operations():
    assert made(passes=10, rate=0.2, filters=["bit_depth"]).operations() == 28 * 28 + 10 * 64
    assert made(passes=10, rate=0.0, filters=["random_resize_pad"]).operations() == 10 * 4 * 28 * 28
    assert made(filters=["feature_squeezing"]).operations() is None


@pytest.mark.parametrize("uncertainty", ["entropy", "mutual_information"])
def test_one_in_twenty_clean_inputs_is_rejected(uncertainty):
    classifier = made(**SHIELDS["dropout"], uncertainty=uncertainty)
    clean = images("test", 60)[0]
    classifier.reseed(7)
    set_threshold(classifier, clean)
    classifier.reseed(7)
    reported = classifier.detected(clean)
    assert reported.sum() == 3
    classifier.reseed(7)
    suspicion = classifier.suspicion(clean)
    classifier.reseed(7)
    assert torch.equal(suspicion, classifier.uncertainties(clean)[uncertainty])
    assert set(suspicion.topk(3).indices.tolist()) == set(reported.nonzero()[:, 0].tolist())


def test_without_an_uncertainty_nothing_is_rejected():
    classifier = made(uncertainty="none")
    assert not classifier.detects and classifier.suspicion(inputs()) is None and classifier.detected(inputs()) is None


def test_confidence_is_the_probability_of_the_prediction():
    classifier = made(**SHIELDS["dropout"])
    classifier.reseed(8)
    logits = classifier(inputs())
    classifier.reseed(8)
    torch.testing.assert_close(classifier.uncertainties(inputs())["confidence"], logits.exp().amax(1))


def test_a_random_filter_by_itself_is_asked_once():
    network = quantized_case("resnet8", "int8").frozen
    filter = random_resize_pad.filter(SHAPE)
    classifier = filter.composed(network, filter, SHAPE, 10).eval()
    classifier.reseed(9)
    assert torch.equal(classifier(inputs()), network(filter(inputs(), first_draws(9))))
    assert classifier.stochastic and not classifier.detects


def first_draws(seed):
    """The generator that the first passes draw from."""
    return seeded(torch.randint(2**62, (), generator=seeded(seed)).item())


def test_all_of_it_is_in_the_networks_state():
    state = made(**SHIELDS["both"]).state_dict()
    assert {name.split(".")[0] for name in state} == {"network", "filter"}
    assert {name.removeprefix("network.") for name in state if name.startswith("network.")} == set(
        quantized_case("resnet8", "w4a4").frozen.state_dict()
    )


def test_the_settings_and_their_defaults():
    assert knobs("defenses", "shield")().model_dump() == {
        "filters": [],
        "layers": ["last_hidden"],
        "rate": 0.1,
        "passes": 10,
        "vote": "mean",
        "uncertainty": "entropy",
    }
    with pytest.raises(ValueError, match="rate is 1, expected a share below 1"):
        shield.filter(SHAPE, rate=1.0)


def test_a_footprint_adds_up():
    assert shield.filter(SHAPE, filters=["gaussian", "jpeg"]).footprint(SHAPE) == Footprint(
        0, 2 * 7 * 784 + 32 * 784, 0, 28 * (28 + 16)
    )
