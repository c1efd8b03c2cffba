"""Attacks that see logits or classes alone, and Gaussian noise: on linear classifiers the nearest error is known."""

import random
from functools import cache, partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from stages.attacks import boundary, gaussian_noise, geoda, hop_skip_jump, square, square_l2, zoo
from stages.attacks.decision_based import without_noise
from stages.classifier import Classifier
from tests.attacks.linear import LinearNetwork, boundary_distance, centred_inputs, linear_classifier
from tests.quantization.small_networks import images, quantized_case

NEAREST = {
    "zoo": partial(zoo.attack, steps=60, search_steps=9, coordinates=48),
    "boundary": partial(boundary.attack, iterations=150),
    "geoda": partial(geoda.attack, queries=800, iterations=6),
    "hop_skip_jump": partial(hop_skip_jump.attack, iterations=6),
}
QUICK = {
    "zoo": partial(zoo.attack, steps=4, search_steps=2, coordinates=24, learning_rate=0.1),
    "boundary": partial(boundary.attack, iterations=10),
    "geoda": partial(geoda.attack, queries=80, iterations=3),
    "geoda in a subspace": partial(geoda.attack, queries=80, iterations=3, sub_dimension=2),
    "hop_skip_jump": partial(hop_skip_jump.attack, iterations=3, initial_probes=40),
}
DECISIONS = [name for name in QUICK if name != "zoo"]
SHAPES = [(3, 4, 4), (48,), (6, 8), (1, 6, 8)]

every_quick_attack = pytest.mark.parametrize("attack", QUICK.values(), ids=QUICK.keys())


def attacked(attack, classifier, inputs, labels, seed=0, **knobs):
    return attack(classifier, inputs, labels, generator=torch.Generator().manual_seed(seed), **knobs)


def problem(num_classes=3, count=8, input_shape=(3, 4, 4)):
    classifier = linear_classifier(num_classes, input_shape)
    inputs = centred_inputs(count, input_shape)
    return classifier, inputs, classifier(inputs).argmax(1)


def exact_problem(count=8, input_shape=(3, 4, 4)):
    """Integer weights in float64 of float32 inputs: no rounding of a logit depends on the batch."""

    class Exact(LinearNetwork):
        def forward(self, inputs):
            return (inputs.flatten(1).double()[:, None] * self.last.weight).sum(2)

    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(-9, 10, (3, torch.Size(input_shape).numel()), generator=generator).double()
    classifier = Classifier(Exact(weights, torch.zeros(3)), input_shape, 3)
    inputs = centred_inputs(count, input_shape)
    return classifier, inputs, classifier(inputs).argmax(1)


def assert_same(result, other):
    for name in ("inputs", "distance", "queries", "backwards", "success"):
        assert torch.equal(getattr(result, name), getattr(other, name)), name


@pytest.mark.parametrize("attack", NEAREST.values(), ids=NEAREST.keys())
@pytest.mark.parametrize(("num_classes", "input_shape"), [(2, (48,)), (3, (6, 8)), (3, (1, 6, 8)), (10, (3, 4, 4))])
def test_the_nearest_error_of_a_linear_classifier_is_nearly_found(attack, num_classes, input_shape):
    classifier, inputs, labels = problem(num_classes, 8, input_shape)
    best = boundary_distance(classifier, inputs, labels, "l2")
    result = attacked(attack, classifier, inputs, labels)
    assert result.success.all()
    assert (result.distance[0] >= 0.999 * best).all()
    ratio = result.distance[0] / best
    assert ratio.median() <= 1.25
    assert (ratio <= 1.6).all()


class TwoLayers(nn.Module):
    """A bent boundary in two dimensions, by five units."""

    def forward(self, inputs):
        first, second = inputs.unbind(1)
        bends = torch.relu(first - 0.3) - 2 * torch.relu(first - 0.5) + 3 * torch.relu(first - 0.8) - 0.5 * first
        score = second - 0.6 - bends
        return torch.stack([torch.zeros_like(score), 5 * score], 1)


@cache
def nearest_errors_of_two_layers():
    """The classifier, inputs with their labels, and the distance to the nearest error on a fine grid."""
    classifier = Classifier(TwoLayers(), (2,), 2)
    inputs = 0.2 + 0.6 * torch.rand(20, 2, generator=torch.Generator().manual_seed(0))
    labels = classifier(inputs).argmax(1)
    ticks = torch.linspace(0, 1, 1001)
    grid = torch.cartesian_prod(ticks, ticks)
    errs = classifier(grid).argmax(1) != labels[:, None]
    return classifier, inputs, labels, torch.cdist(inputs, grid).masked_fill(~errs, torch.inf).amin(1)


@pytest.mark.parametrize("attack", NEAREST.values(), ids=NEAREST.keys())
def test_the_nearest_error_of_two_layers_is_that_of_a_grid(attack):
    classifier, inputs, labels, best = nearest_errors_of_two_layers()
    result = attacked(attack, classifier, inputs, labels)
    assert result.success.all()
    assert (result.distance[0] > best - 0.002).all()
    assert (result.distance[0] <= 1.25 * best + 0.002).float().mean() >= 0.9


@every_quick_attack
@pytest.mark.parametrize("input_shape", SHAPES)
def test_shapes_types_and_the_box(attack, input_shape):
    classifier = linear_classifier(3, input_shape)
    inputs = torch.cat([torch.zeros(1, *input_shape), torch.ones(1, *input_shape), torch.rand(3, *input_shape)])
    result = attacked(attack, classifier, inputs, classifier(inputs).argmax(1))
    assert (result.inputs.shape, result.inputs.dtype) == ((1, 5, *input_shape), torch.float32)
    assert (result.distance.shape, result.distance.dtype) == ((1, 5), torch.float32)
    assert (result.queries.dtype, result.backwards.dtype) == (torch.int64, torch.int64)
    assert result.inputs.min() >= 0 and result.inputs.max() <= 1
    assert not result.inputs.requires_grad and not result.backwards.any()
    lengths = (result.inputs[0].double() - inputs.double()).flatten(1).norm(dim=1)
    assert torch.equal(result.distance[0], lengths.float())
    assert result.success.float().mean() >= 0.5
    errs = classifier(result.inputs[0]).argmax(1) != classifier(inputs).argmax(1)
    assert torch.equal(result.success[0], errs)


@every_quick_attack
def test_what_is_wrong_already_is_left_alone(attack):
    classifier, inputs, labels = problem(3)
    labels[[0, 4]] = (labels[[0, 4]] + 1) % 3
    result = attacked(attack, classifier, inputs, labels)
    assert torch.equal(result.inputs[0, [0, 4]], inputs[[0, 4]])
    assert result.success[0, [0, 4]].all() and not result.distance[0, [0, 4]].any()
    assert result.queries[0, [0, 4]].tolist() == [1, 1]
    assert (result.queries[0, [1, 2, 3]] > 20).all()


@every_quick_attack
def test_nothing_is_found_where_there_is_nothing(attack):
    class OneClass(nn.Module):
        def forward(self, inputs):
            return torch.tensor([[1.0, 0.0]]).expand(len(inputs), -1)

    inputs = centred_inputs(4)
    labels = torch.zeros(4, dtype=torch.int64)
    result = attacked(attack, Classifier(OneClass(), (3, 4, 4), 2), inputs, labels)
    assert not result.success.any() and torch.equal(result.inputs[0], inputs) and not result.distance.any()


@every_quick_attack
def test_every_query_is_counted(attack):
    classifier, inputs, labels = problem(3, 7)
    seen = []
    classifier.network.register_forward_hook(lambda module, given, logits: seen.append(len(logits)))
    result = attacked(attack, classifier, inputs, labels)
    judging = len(inputs)
    assert sum(seen) == result.queries.sum() + judging


def test_zoo_asks_as_many_queries_as_it_says():
    classifier, inputs, labels = problem(3, 4)
    result = attacked(zoo.attack, classifier, inputs, labels, steps=3, search_steps=2, coordinates=16, halvings=8)
    expected = 1 + 2 * (3 * (16 + 1) + 1)
    assert set(result.queries[0].tolist()) <= {expected, expected + 8}
    assert result.success.any()


def test_geoda_shares_its_queries_out_by_the_contraction():
    counts = geoda.shares(1000, 4, 0.6)
    assert sum(counts) == 1000
    for fewer, more in pairwise(counts):
        assert more / fewer == pytest.approx(0.6 ** (-2 / 3), rel=0.02)
    assert sum(geoda.shares(3, 10, 0.6)) == 3


@pytest.mark.parametrize("name", DECISIONS)
def test_decisions_are_all_that_is_looked_at(name):
    class Decision(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, inputs):
            return nn.functional.one_hot(self.network(inputs).argmax(1), 3).float()

    classifier, inputs, labels = problem(3)
    hidden = Classifier(Decision(classifier.network), (3, 4, 4), 3)
    seen, also = (attacked(QUICK[name], network, inputs, labels) for network in (classifier, hidden))
    assert torch.equal(seen.queries, also.queries)
    torch.testing.assert_close(seen.inputs, also.inputs, rtol=0, atol=1e-3)


@every_quick_attack
def test_no_gradients_are_asked_for(attack):
    class Closed(Classifier):
        def forward(self, inputs):
            assert not torch.is_grad_enabled() and not self.training
            return super().forward(inputs)

        def gradient_view(self, generator=None, samples=1):
            raise AssertionError("a black-box attacker has no gradients")

    classifier, inputs, labels = problem(3)
    closed = Closed(classifier.network, (3, 4, 4), 3).train()
    assert attacked(attack, closed, inputs, labels).success.any()
    assert closed.training


@every_quick_attack
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_samples_behind_change_nothing(attack, batch_size):
    classifier, inputs, labels = exact_problem()
    whole = attacked(attack, classifier, inputs, labels)
    part = attacked(attack, classifier, inputs[:batch_size], labels[:batch_size])
    assert torch.equal(part.queries, whole.queries[:, :batch_size])
    torch.testing.assert_close(part.inputs, whole.inputs[:, :batch_size], rtol=0, atol=1e-4)


@every_quick_attack
def test_draws_depend_on_the_place_in_the_batch_and_not_on_the_samples_beside(attack):
    classifier, inputs, labels = exact_problem()
    expected = attacked(attack, classifier, inputs, labels)
    wrong = (labels + 1) % 3
    wrong[4] = labels[4]  # the others are wrong already, and leave the batch
    alone = attacked(attack, classifier, inputs, wrong)
    assert torch.equal(alone.queries[0, 4], expected.queries[0, 4])
    torch.testing.assert_close(alone.inputs[0, 4], expected.inputs[0, 4], rtol=0, atol=1e-4)


@every_quick_attack
def test_the_seed_decides_every_byte(attack):
    classifier, inputs, labels = problem()
    torch.manual_seed(1)
    first = attacked(attack, classifier, inputs, labels, seed=3)
    torch.manual_seed(2)
    assert_same(first, attacked(attack, classifier, inputs, labels, seed=3))
    assert not torch.equal(first.inputs, attacked(attack, classifier, inputs, labels, seed=4).inputs)


@every_quick_attack
def test_global_random_states_and_the_classifier_stay(attack):
    classifier, inputs, labels = problem()
    classifier.network.dropout = nn.Dropout()
    classifier.train()
    modes = [module.training for module in classifier.modules()]
    state = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    given = inputs.clone(), labels.clone()
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    attacked(attack, classifier, inputs, labels)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1]) and random.getstate() == before[2]
    assert [module.training for module in classifier.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in classifier.state_dict().items())
    assert torch.equal(inputs, given[0]) and torch.equal(labels, given[1])


@every_quick_attack
def test_inputs_outside_the_box_are_refused(attack):
    classifier, inputs, labels = problem()
    inputs[3, 1, 2, 0] = 1.5
    with pytest.raises(ValueError, match=r"^inputs: 1.5: expected values in \[0, 1\]$"):
        attacked(attack, classifier, inputs, labels)


@pytest.mark.parametrize("scheme", ["w4a4", "w1a1"])
@every_quick_attack
def test_quantized_networks_have_errors_nearby(attack, scheme):
    classifier = Classifier(quantized_case("tiny_cnn", scheme).frozen, (1, 28, 28), 10)
    inputs, labels = images("test", 24)
    right = classifier(inputs).argmax(1) == labels
    inputs, labels = inputs[right][:6], labels[right][:6]
    result = attacked(attack, classifier, inputs, labels)
    assert result.inputs.isfinite().all() and result.inputs.min() >= 0 and result.inputs.max() <= 1
    assert torch.equal(result.success[0], classifier(result.inputs[0]).argmax(1) != labels)
    if attack is not QUICK["zoo"]:  # whose few coordinates are not enough here
        assert result.success.all()
        assert result.distance.median() < 4


def test_noise_is_taken_from_estimates_and_not_the_signal():
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(50, 1, 8, 8, generator=generator).expand(-1, 3, -1, -1)
    signal = 10 * signal / signal.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    noise = torch.randn(50, 3, 8, 8, generator=generator)
    energy = torch.full((50,), 3 * 64.0)

    def cosine(estimate):
        return nn.functional.cosine_similarity(estimate.flatten(1), signal.flatten(1)).mean()

    assert cosine(without_noise(signal + noise, energy)) > cosine(signal + noise) + 0.15
    assert torch.equal(without_noise(signal, torch.zeros(50)), signal)
    colours = torch.randn(50, 3, 8, 8, generator=generator)
    torch.testing.assert_close(without_noise(100 * colours, energy), 100 * colours, rtol=0.01, atol=0.05)
    assert torch.equal(without_noise(noise[:, :1], energy), noise[:, :1])
    assert without_noise(torch.zeros(2, 3, 8, 8), energy[:2]).isfinite().all()


# Square in the Euclidean norm, and what both forms share.

IMAGES = [(3, 4, 4), (1, 6, 8), (3, 16, 16), (1, 2, 5)]


def square_attacked(attack, classifier, inputs, labels, epsilons, seed=0, **knobs):
    generator = torch.Generator().manual_seed(seed)
    table = torch.as_tensor(epsilons, dtype=torch.float64)
    return attack(classifier, inputs, labels, epsilons=table, generator=generator, **knobs)


@pytest.mark.parametrize("input_shape", IMAGES)
def test_square_l2_stays_in_the_ball_and_uses_it(input_shape):
    classifier = linear_classifier(3, input_shape)
    inputs = centred_inputs(6, input_shape)
    result = square_attacked(
        square_l2.attack, classifier, inputs, classifier(inputs).argmax(1), [0, 0.3, 50], queries=40
    )
    lengths = (result.inputs.double() - inputs.double()).flatten(2).norm(dim=2)
    assert torch.equal(result.inputs[0], inputs) and not result.queries[0].any()
    assert (lengths[1] <= 0.3).all() and (lengths[1] > 0.299).all()
    assert (lengths[2] > 0.3).all() and (result.queries[1:] == 40).all()
    assert result.inputs.min() >= 0 and result.inputs.max() <= 1 and result.inputs.isfinite().all()


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_square_l2_breaks_nothing_before_the_boundary_and_all_well_beyond(num_classes):
    classifier, inputs, labels = problem(num_classes, 20, (3, 8, 8))
    distances = boundary_distance(classifier, inputs, labels, "l2")
    table = torch.stack([0.99 * distances, 4 * distances])
    before, beyond = square_attacked(square_l2.attack, classifier, inputs, labels, table, queries=600).success
    assert not before.any()
    assert beyond.float().mean() >= 0.9


def test_square_l2_lowers_the_margin_on_and_on():
    classifier, inputs, labels = problem(2, 20, (3, 8, 8))
    slope = classifier.network.last.weight.diff(dim=0).norm()

    def share_of_the_possible(queries):
        result = square_attacked(square_l2.attack, classifier, inputs, labels, [0.5], queries=queries)
        logits, clean = classifier(result.inputs[0]), classifier(inputs)
        sign = 1 - 2 * labels
        fall = sign * (logits[:, 1] - logits[:, 0] - clean[:, 1] + clean[:, 0])
        return (fall / (0.5 * slope)).mean()

    few, more, many = (share_of_the_possible(queries) for queries in (1, 50, 1000))
    assert few < more < many
    assert many > 0.5  # neither colours nor windows fit these weights, which are white noise


@pytest.mark.parametrize("side", [3, 4, 5, 9])
def test_a_window_is_two_bumps_of_opposite_signs(side):
    window = square_l2.window(side)
    assert window.norm() == pytest.approx(1)
    assert (window[:, : side // 2] > 0).all() and (window[:, side // 2 :] < 0).all()
    peak = square_l2.pyramid(5, 5)
    assert torch.equal(peak, peak.T) and torch.equal(peak, peak.flip(0))
    # Equation 2 with n = 2: 1/9, 1/9 + 1/4, 1/9 + 1/4 + 1.
    torch.testing.assert_close(peak[2], torch.tensor([1 / 9, 13 / 36, 49 / 36, 13 / 36, 1 / 9]))


def test_an_exchange_moves_length_between_two_windows_and_keeps_the_rest():
    classifier = linear_classifier(2, (1, 16, 16))
    inputs = torch.full((30, 1, 16, 16), 0.5)
    seen = []
    classifier.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].clone()))
    labels = classifier(inputs).argmax(1)
    seen.clear()
    square_attacked(square_l2.attack, classifier, inputs, labels, [0.5], queries=1001, initial_fraction=0.03)
    start, candidate = ((asked - 0.5)[:, 0] for asked in seen[:2])  # windows of 3 pixels
    torch.testing.assert_close(start.flatten(1).norm(dim=1), torch.full((30,), 0.5), rtol=1e-4, atol=0)
    torch.testing.assert_close(candidate.flatten(1).norm(dim=1), torch.full((30,), 0.5), rtol=1e-4, atol=0)
    changed = ((start - candidate).abs() > 1e-5).flatten(1).sum(1)
    assert (changed <= 2 * 9).all() and (changed > 0).all() and (changed > 9).any()
    emptied = (candidate.abs() < 1e-6).flatten(1).sum(1)
    assert (emptied <= 9).all() and (emptied > 0).any()


@pytest.mark.parametrize("attack", [square.attack, square_l2.attack])
def test_broken_samples_leave_the_batch_when_they_may(attack):
    classifier, inputs, labels = problem(3, 20, (3, 8, 8))
    norm = "linf" if attack is square.attack else "l2"
    epsilon = [2.5 * boundary_distance(classifier, inputs, labels, norm).median()]
    whole = square_attacked(attack, classifier, inputs, labels, epsilon, queries=200)
    seen = []
    classifier.register_forward_pre_hook(lambda module, arguments: seen.append(len(arguments[0])))
    stopped = square_attacked(attack, classifier, inputs, labels, epsilon, queries=200, stop_when_broken=True)
    assert torch.equal(stopped.success, whole.success) and 0 < whole.success.sum() < 20
    assert (whole.queries == 200).all()
    assert (stopped.queries[~stopped.success] == 200).all() and (stopped.queries[stopped.success] < 200).all()
    assert sum(seen) == stopped.queries.sum() + len(inputs)


@pytest.mark.parametrize("attack", [square.attack, square_l2.attack])
def test_squares_keep_the_memory_layout(attack):
    classifier, inputs, labels = problem(3, 6)
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    layouts = []
    classifier.register_forward_pre_hook(
        lambda module, given: layouts.append(given[0].is_contiguous(memory_format=torch.channels_last))
    )
    square_attacked(attack, classifier, inputs, labels, [0.3], queries=10)
    assert all(layouts) and len(layouts) == 11


@pytest.mark.parametrize("batch_size", [1, 3])
def test_square_l2_depends_on_the_place_in_the_batch_alone(batch_size):
    classifier, inputs, labels = exact_problem()
    whole = square_attacked(square_l2.attack, classifier, inputs, labels, [0, 0.2, 0.4], queries=40)
    part = square_attacked(square_l2.attack, classifier, inputs[:batch_size], labels[:batch_size], [0.4], queries=40)
    torch.testing.assert_close(part.inputs[0], whole.inputs[2, :batch_size], rtol=0, atol=1e-5)
    again = square_attacked(square_l2.attack, classifier, inputs, labels, [0, 0.2, 0.4], queries=40)
    assert_same(whole, again)
    other = square_attacked(square_l2.attack, classifier, inputs, labels, [0, 0.2, 0.4], seed=1, queries=40)
    assert not torch.equal(whole.inputs[1], other.inputs[1])


@pytest.mark.parametrize("shape", [(48,), (12, 4), (3, 2, 2, 4)])
def test_square_l2_refuses_other_inputs_than_images(shape):
    inputs = centred_inputs(5, shape)
    with pytest.raises(ValueError, match=rf"^inputs: shape \[5, .*{shape[-1]}\]: expected images \[N, C, H, W\]$"):
        square_attacked(square_l2.attack, linear_classifier(3, shape), inputs, torch.zeros(5, dtype=torch.int64), [0.1])


# Gaussian noise.


def test_gaussian_noise_has_one_direction_and_the_length_of_epsilon():
    classifier, inputs, labels = problem(2, 200)
    small, large = square_attacked(gaussian_noise.attack, classifier, inputs, labels, [0.1, 0.4]).inputs - inputs
    torch.testing.assert_close(4 * small, large, rtol=0, atol=1e-6)
    torch.testing.assert_close(large.flatten(1).norm(dim=1), torch.full((200,), 0.4), rtol=1e-5, atol=0)
    values = large.flatten() * (48**0.5 / 0.4)
    assert abs(values.mean()) < 0.05 and values.std() == pytest.approx(1, abs=0.02)
    assert (values.abs() < 0.6745).float().mean() == pytest.approx(0.5, abs=0.02)  # as of a normal distribution


def test_gaussian_noise_stays_in_the_ball_and_the_box_and_asks_nothing():
    classifier = linear_classifier(3)
    inputs = torch.cat([torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4), torch.rand(30, 3, 4, 4)])
    labels = classifier(inputs).argmax(1)
    result = square_attacked(gaussian_noise.attack, classifier, inputs, labels, [0, 0.3, 100])
    lengths = (result.inputs.double() - inputs.double()).flatten(2).norm(dim=2)
    assert torch.equal(result.inputs[0], inputs) and (lengths[1] <= 0.3).all()
    assert result.inputs.min() >= 0 and result.inputs.max() <= 1
    assert not result.queries.any() and not result.backwards.any()
    again = square_attacked(gaussian_noise.attack, classifier, inputs, labels, [0, 0.3, 100])
    assert_same(result, again)
    alone = square_attacked(gaussian_noise.attack, classifier, inputs, labels, [0.3])
    assert torch.equal(alone.inputs[0], result.inputs[1])


@pytest.mark.parametrize("shape", [(5,), (3, 7), (3, 4, 4)])
def test_gaussian_noise_of_a_sample_does_not_depend_on_those_behind_it(shape):
    classifier, inputs = linear_classifier(3, shape), centred_inputs(4, shape)
    labels = classifier(inputs).argmax(1)
    all_four = square_attacked(gaussian_noise.attack, classifier, inputs, labels, [0.1]).inputs
    for count in (1, 2, 3):
        first = square_attacked(gaussian_noise.attack, classifier, inputs[:count], labels[:count], [0.1]).inputs
        assert torch.equal(first, all_four[:, :count])
    assert (all_four[0, 0] - inputs[0] != all_four[0, 1] - inputs[1]).any()


def test_gaussian_noise_is_weaker_than_an_attacker():
    classifier, inputs, labels = problem(2, 64)
    distances = boundary_distance(classifier, inputs, labels, "l2")
    result = square_attacked(gaussian_noise.attack, classifier, inputs, labels, 1.01 * distances[None])
    assert result.success.float().mean() < 0.5
