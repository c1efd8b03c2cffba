"""Carlini and Wagner's attacks, EAD and JSMA, where the nearest adversarial input is known in closed form."""

import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from stages.attacks import carlini_wagner_l2, carlini_wagner_linf, elastic_net, jsma
from stages.attacks.carlini_wagner import from_tanh, to_tanh
from stages.attacks.distances import DISTANCES
from stages.attacks.elastic_net import elastic_net_distance, shrink
from stages.attacks.jsma import most_salient_pair
from stages.classifier import Classifier
from tests.attacks.linear import LinearNetwork, boundary_distance, centred_inputs, least_changes, linear_classifier
from tests.quantization.small_networks import SHAPE, images, quantized_case

ATTACKS = {
    "carlini_wagner_l2": (carlini_wagner_l2.attack, "l2"),
    "carlini_wagner_linf": (carlini_wagner_linf.attack, "linf"),
    "elastic_net": (elastic_net.attack, "l1"),
    "elastic_net by its own rule": (partial(elastic_net.attack, rule="elastic_net"), "l1"),
    "jsma": (jsma.attack, "l0"),
    "jsma toward a random class": (partial(jsma.attack, gamma=1.0, targets="random"), "l0"),
    "jsma toward all classes": (partial(jsma.attack, targets="all"), "l0"),
}
QUICK = {"carlini_wagner_l2": {"steps": 20, "search_steps": 4}, "elastic_net": {"steps": 20, "search_steps": 4}}
every_attack = pytest.mark.parametrize(
    ("attack", "norm"),
    [
        pytest.param(partial(attack, **QUICK.get(name.split()[0], {})), norm, id=name)
        for name, (attack, norm) in ATTACKS.items()
    ],
)


def attacked(attack, classifier, inputs, labels, seed=0):
    return attack(classifier, inputs, labels, generator=torch.Generator().manual_seed(seed))


def problem(num_classes=3, count=12, input_shape=(3, 4, 4)):
    classifier = linear_classifier(num_classes, input_shape)
    inputs = centred_inputs(count, input_shape)
    return classifier, inputs, classifier(inputs).argmax(1).detach()


def assert_same(result, other):
    for name in ("inputs", "distance", "queries", "backwards", "success"):
        assert torch.equal(getattr(result, name), getattr(other, name)), name


@pytest.mark.parametrize("num_classes", [2, 3, 10])
@pytest.mark.parametrize(
    ("attack", "norm"),
    [(carlini_wagner_l2.attack, "l2"), (carlini_wagner_linf.attack, "linf"), (elastic_net.attack, "l1")],
)
def test_a_linear_classifier_errs_near_its_boundary(attack, norm, num_classes):
    classifier, inputs, labels = problem(num_classes, 24)
    nearest = boundary_distance(classifier, inputs, labels, norm)
    result = attacked(attack, classifier, inputs, labels)
    assert result.success.all()
    assert (result.distance[0] > 0.999 * nearest).all()
    close = result.distance[0] < 1.25 * nearest
    # L1's nearest point lies where a single value has moved, which [0, 1] may not allow. One sample begins so near its
    # boundary that Adam's first step in L2, along signs, is longer than the distance.
    assert close.float().mean() >= {"linf": 1, "l2": 0.95, "l1": 0.8}[norm]


def opposite_classes(input_shape=(48,)):
    """Two classes whose gradients are opposite, so that the most salient values are those that gain most."""
    weights = torch.randn(48, generator=torch.Generator().manual_seed(0))
    biases = torch.tensor([4.0, -4.0]) - torch.stack([weights, -weights]).sum(1) / 2
    classifier = Classifier(LinearNetwork(torch.stack([weights, -weights]), biases), input_shape, 2)
    return classifier, 0.5 + 0.01 * (centred_inputs(8, input_shape) - 0.5), torch.zeros(8, dtype=torch.int64)


@pytest.mark.parametrize("input_shape", [(3, 4, 4), (48,), (6, 8)])
def test_jsma_changes_the_fewest_values_of_two_opposite_classes(input_shape):
    classifier, inputs, labels = opposite_classes(input_shape)
    least = least_changes(classifier, inputs, labels)
    assert (least > 2).all()
    results = {
        directions: attacked(partial(jsma.attack, gamma=1.0, directions=directions), classifier, inputs, labels)
        for directions in ("increase", "decrease", "both")
    }
    assert all(result.success.all() for result in results.values())
    assert torch.equal(results["both"].distance[0], least.float())
    assert (results["increase"].inputs >= inputs).all() and (results["decrease"].inputs <= inputs).all()


@pytest.mark.parametrize("num_classes", [3, 10])
def test_jsma_toward_all_classes_is_nearest(num_classes):
    classifier, inputs, labels = problem(num_classes, 24)
    least = least_changes(classifier, inputs, labels)
    one, every = (
        attacked(partial(jsma.attack, gamma=1.0, targets=targets), classifier, inputs, labels)
        for targets in ("likeliest", "all")
    )
    assert every.success.all()
    assert (every.distance[0] >= least).all() and (every.distance <= one.distance).all()
    assert every.distance.sum() < one.distance.sum() or num_classes == 3
    assert every.distance[0].median() <= 1.25 * least.float().median()


def test_the_most_salient_pair_is_that_of_all_pairs():
    generator = torch.Generator().manual_seed(0)
    gain, loss = torch.randn(2, 50, 30, generator=generator)
    gain[:5], loss[:5] = gain[:5].round(), loss[:5].round()  # ties
    loss[5:10] = -gain[5:10]  # where nothing dominates anything, and no pair raises one and lowers the other
    gain[10:15, 20:] = loss[10:15, 20:] = -torch.inf
    pairs, salient = most_salient_pair(gain, loss)
    raised, lowered = (part[:, :, None] + part[:, None, :] for part in (gain, loss))
    saliency = torch.where((raised > 0) & (lowered > 0), raised * lowered, 0)
    saliency.diagonal(dim1=1, dim2=2).zero_()
    best = saliency.flatten(1).amax(1)
    assert torch.equal(salient, best > 0)
    assert 0 < salient.sum() < len(salient)
    rows = torch.arange(len(pairs))[salient]
    assert (pairs[:, 0] != pairs[:, 1])[salient].all()
    torch.testing.assert_close(saliency[rows, pairs[salient, 0], pairs[salient, 1]], best[salient])


def test_jsma_keeps_to_the_share_of_values_that_may_change():
    classifier, inputs, labels = opposite_classes()
    least = int(least_changes(classifier, inputs, labels).max())
    for most in (least - 1, least + 1):
        result = attacked(partial(jsma.attack, gamma=(most + 0.5) / 48, theta=0.2), classifier, inputs, labels)
        assert (result.distance <= most).all()
        assert result.success.all() == (most >= least)
    none = attacked(partial(jsma.attack, gamma=0.0), classifier, inputs, labels)
    assert torch.equal(none.inputs[0], inputs) and not none.success.any()


def two_layer_classifier():
    """Two values, two classes, boundaries that bend."""
    torch_state = torch.Generator().manual_seed(3)
    network = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).requires_grad_(False)
    for parameter in network.parameters():
        parameter.copy_(1.5 * torch.randn(parameter.shape, generator=torch_state))
    axis = torch.linspace(0, 1, 401)
    grid = torch.cartesian_prod(axis, axis)
    logits = network(grid)
    network[2].bias[0] -= (logits[:, 0] - logits[:, 1]).median()  # both classes have half of the square
    return Classifier(network, (2,), 2), grid


@pytest.mark.parametrize(
    ("attack", "norm"),
    [(carlini_wagner_l2.attack, "l2"), (carlini_wagner_linf.attack, "linf"), (elastic_net.attack, "l1")],
)
def test_a_bent_boundary_is_met_where_a_grid_search_finds_it(attack, norm):
    classifier, grid = two_layer_classifier()
    inputs = torch.rand(40, 2, generator=torch.Generator().manual_seed(5))
    labels, classes = classifier(inputs).argmax(1), classifier(grid).argmax(1)
    assert 0 < labels.sum() < 40
    nearest = torch.stack(
        [
            DISTANCES[norm](grid[classes != label], point.expand(int((classes != label).sum()), 2)).min()
            for point, label in zip(inputs, labels, strict=True)
        ]
    )
    result = attacked(attack, classifier, inputs, labels)
    assert result.success.float().mean() >= 0.8  # others end where tanh has no slope
    ratio = result.distance[0] / nearest
    assert ratio[result.success[0]].median() < 1.05
    assert (ratio[result.success[0]] < 1.25).float().mean() > 0.8


def test_values_at_0_and_1_move_and_are_represented_as_they_are():
    inputs = torch.tensor([[0.0, 1.0, 0.5, 0.25]])
    points, derivatives = from_tanh(to_tanh(inputs))
    torch.testing.assert_close(points, inputs, rtol=0, atol=1e-6)
    assert (derivatives > 0.05).all()
    classifier = linear_classifier(2, (48,))
    inputs = centred_inputs(30, (48,), seed=4).round()
    labels = classifier(inputs).argmax(1).detach()
    result = attacked(carlini_wagner_l2.attack, classifier, inputs, labels)
    assert result.success.all()
    assert (result.inputs[0] != inputs).float().mean() > 0.3


def test_the_elastic_net_rule_keeps_the_least_elastic_net_distance():
    classifier, inputs, labels = problem(3, 24)
    weak = partial(elastic_net.attack, steps=20, search_steps=6, beta=0.01)
    by_l1, by_both = (attacked(partial(weak, rule=rule), classifier, inputs, labels) for rule in ("l1", "elastic_net"))
    assert (by_l1.distance <= by_both.distance).all() and not torch.equal(by_l1.distance, by_both.distance)
    of_l1, of_both = (elastic_net_distance(result.inputs[0], inputs, 0.01) for result in (by_l1, by_both))
    assert (of_both <= of_l1 + 1e-9).all() and not torch.equal(of_both, of_l1)
    torch.testing.assert_close(
        by_both.distance[0].double(), DISTANCES["l1"](by_both.inputs[0], inputs), rtol=1e-6, atol=0
    )


def test_shrinkage_leaves_small_changes_out():
    originals = torch.tensor([[0.5, 0.5, 0.5, 0.5, 0.95]])
    points = torch.tensor([[0.55, 0.7, 0.3, 0.45, 1.4]])
    torch.testing.assert_close(shrink(points, originals, 0.1), torch.tensor([[0.5, 0.6, 0.4, 0.5, 1.0]]))


@pytest.mark.parametrize("attack", [carlini_wagner_l2.attack, carlini_wagner_linf.attack, elastic_net.attack])
def test_confidence_is_kept_and_costs_distance(attack):
    classifier, inputs, labels = problem(3)
    plain, confident = (attacked(partial(attack, confidence=value), classifier, inputs, labels) for value in (0.0, 2.0))
    logits = classifier(confident.inputs[0]).detach()
    own = logits.gather(1, labels[:, None])[:, 0]
    margins = logits.scatter(1, labels[:, None], -torch.inf).amax(1) - own
    assert confident.success.all()
    assert (margins > 1.999).all()
    assert (confident.distance > plain.distance).all()


@every_attack
@pytest.mark.parametrize("num_classes", [2, 3, 10])
@pytest.mark.parametrize("input_shape", [(48,), (6, 8), (3, 4, 4)])
def test_results_are_well_formed(attack, norm, num_classes, input_shape):
    classifier, inputs, _ = problem(num_classes, 6, input_shape)
    inputs = torch.cat([torch.zeros(1, *input_shape), torch.ones(1, *input_shape), inputs])
    labels = classifier(inputs).argmax(1).detach()
    result = attacked(attack, classifier, inputs, labels)
    assert (result.inputs.shape, result.inputs.dtype) == ((1, 8, *input_shape), torch.float32)
    assert (result.inputs.min() >= 0) and (result.inputs.max() <= 1)
    assert not result.inputs.requires_grad and result.inputs.grad_fn is None
    for name, kind in {"distance": torch.float32, "queries": torch.int64, "backwards": torch.int64}.items():
        assert (getattr(result, name).shape, getattr(result, name).dtype) == ((1, 8), kind)
    assert torch.equal(result.distance[0], DISTANCES[norm](result.inputs[0], inputs).float())
    assert torch.equal(result.success[0], classifier(result.inputs[0]).argmax(1) != labels)
    assert result.success[0, 2:].all()


@every_attack
def test_what_is_wrong_already_is_left_alone(attack, norm):
    classifier, inputs, labels = problem(3)
    labels[:4] = (labels[:4] + 1) % 3
    result = attacked(attack, classifier, inputs, labels)
    assert torch.equal(result.inputs[0, :4], inputs[:4]) and result.success.all()
    assert (result.queries[0, :4] == 1).all() and not result.backwards[0, :4].any()
    assert (result.distance[0, 4:] > 0).all()


@every_attack
def test_passes_are_counted_and_no_graph_is_built_in_vain(attack, norm):
    classifier, inputs, labels = problem(3, 7)
    labels[2] = (labels[2] + 1) % 3
    counted = {"forward": 0, "graph": 0, "backward": 0}

    def count(module, inputs, logits):
        counted["forward"] += len(logits)
        if logits.requires_grad:
            counted["graph"] += len(logits)
            logits.register_hook(lambda gradient: counted.update(backward=counted["backward"] + len(gradient)))

    classifier.requires_grad_(False).network.last.register_forward_hook(count)
    result = attacked(attack, classifier, inputs, labels)
    assert counted["forward"] == result.queries.sum() + 7  # and judging
    assert counted["backward"] == result.backwards.sum()
    assert counted["graph"] * (2 if norm == "l0" else 1) == counted["backward"]


def test_budgets():
    classifier, inputs, labels = problem(3, 5)
    for attack in (carlini_wagner_l2.attack, elastic_net.attack):
        result = attacked(partial(attack, steps=8, search_steps=3), classifier, inputs, labels)
        assert (result.queries == 2 + 3 * 8).all() and (result.backwards == 1 + 3 * 7).all()
        longer = attacked(partial(attack, steps=300, search_steps=3), classifier, inputs, labels)
        assert (longer.queries < 2 + 3 * 300).any()  # a sample leaves a descent that has stalled


class OneByOne(nn.Module):
    """Computes each sample by itself, so that the rest of the batch changes not even a rounding."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, inputs):
        return torch.cat([self.network(sample) for sample in inputs.split(1)])


@every_attack
def test_other_samples_in_the_batch_change_nothing(attack, norm):
    linear, inputs, labels = problem(3, 9)
    classifier = Classifier(OneByOne(linear.network), linear.input_shape, 3)
    whole = attacked(attack, classifier, inputs, labels)
    for batch_size in (1, 3, 8):
        part = attacked(attack, classifier, inputs[:batch_size], labels[:batch_size])
        for name in ("inputs", "distance", "queries", "backwards", "success"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[:, :batch_size]), name
    others, other_labels = inputs.flip(0).clone(), labels.flip(0).clone()
    others[5], other_labels[5] = inputs[5], labels[5]
    other_labels[:4] = (other_labels[:4] + 1) % 3  # these are left alone, and the fifth still draws as before
    mixed = attacked(attack, classifier, others, other_labels)
    assert torch.equal(mixed.inputs[0, 5], whole.inputs[0, 5])


@every_attack
def test_seeds_global_states_and_the_classifier_itself(attack, norm):
    classifier, inputs, labels = problem(10)
    classifier.network.dropout = nn.Dropout()
    classifier.network.train()
    modes = [module.training for module in classifier.modules()]
    state = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    given = inputs.clone(), labels.clone()
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first = attacked(attack, classifier, inputs, labels, seed=3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
    with torch.no_grad():
        assert_same(first, attacked(attack, classifier, inputs, labels, seed=3))
    assert [module.training for module in classifier.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in classifier.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in classifier.parameters())
    assert torch.equal(inputs, given[0]) and torch.equal(labels, given[1])


def test_another_seed_gives_another_random_target():
    classifier, inputs, labels = problem(10)
    first, second = (
        attacked(partial(jsma.attack, targets="random"), classifier, inputs, labels, seed=seed) for seed in (3, 4)
    )
    assert not torch.equal(first.inputs, second.inputs)


@every_attack
@pytest.mark.parametrize("value", [-0.25, 1.5, float("nan")])
def test_inputs_outside_the_box_are_refused(attack, norm, value):
    classifier, inputs, labels = problem()
    inputs[3, 1, 2, 0] = value
    with pytest.raises(ValueError, match=rf"^inputs: {value}: expected values in \[0, 1\]$"):
        attacked(attack, classifier, inputs, labels)


@every_attack
def test_the_memory_layout_of_the_inputs_is_kept(attack, norm):
    classifier, inputs, labels = problem(3, 6)
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    layouts = []
    classifier.network.register_forward_hook(
        lambda module, given, logits: layouts.append(given[0].is_contiguous(memory_format=torch.channels_last))
    )
    attacked(attack, classifier, inputs, labels)
    assert all(layouts) and layouts


class Flat(nn.Module):
    """A network that says class 0 everywhere, without a slope."""

    def forward(self, inputs):
        return inputs.flatten(1).sum(1, keepdim=True) * 0 + torch.tensor([1.0, 0.0, 0.0])


@every_attack
def test_without_a_gradient_nothing_is_found_and_all_attacks_end(attack, norm):
    inputs, labels = centred_inputs(3), torch.zeros(3, dtype=torch.int64)
    result = attacked(attack, Classifier(Flat(), (3, 4, 4), 3), inputs, labels)
    assert torch.equal(result.inputs[0], inputs)
    assert not result.success.any() and not result.distance.any()


@every_attack
@pytest.mark.parametrize("scheme", ["w4a4", "w1a1"])
def test_quantized_networks_err(attack, norm, scheme):
    classifier = Classifier(quantized_case("tiny_cnn", scheme).frozen, SHAPE, 10)
    inputs, labels = images("test", 24)
    with torch.no_grad():
        right = classifier(inputs).argmax(1) == labels
    inputs, labels = inputs[right][:8], labels[right][:8]
    result = attacked(attack, classifier, inputs, labels)
    assert result.inputs.isfinite().all() and (result.inputs >= 0).all() and (result.inputs <= 1).all()
    # JSMA by default changes 113 values at most.
    assert result.success.float().mean() >= (0.25 if norm == "l0" else 0.75)
