"""Gradient attacks of minimal norm, on classifiers whose nearest adversarial inputs are known."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from stages.attacks import ddn, deepfool, deepfool_linf, fmn_l2, fmn_linf
from stages.attacks.ddn import log_odds
from stages.attacks.distances import DISTANCES
from stages.attacks.losses import cross_entropy
from stages.classifier import Classifier
from tests.attacks.linear import boundary_distance, centred_inputs, linear_classifier
from tests.quantization.small_networks import images, quantized_case

PLUGINS = {
    "deepfool": deepfool,
    "deepfool_linf": deepfool_linf,
    "fmn_l2": fmn_l2,
    "fmn_linf": fmn_linf,
    "ddn": ddn,
}
DEEPFOOL = {name: plugin for name, plugin in PLUGINS.items() if name.startswith("deepfool")}
EVERY_STEP = {name: plugin for name, plugin in PLUGINS.items() if name not in DEEPFOOL}

every_attack = pytest.mark.parametrize("plugin", PLUGINS.values(), ids=PLUGINS.keys())


def attacked(plugin, classifier, inputs, labels, seed=0, **knobs):
    return plugin.attack(classifier, inputs, labels, generator=torch.Generator().manual_seed(seed), **knobs)


def problem(num_classes=3, count=20, input_shape=(3, 4, 4)):
    classifier = linear_classifier(num_classes, input_shape)
    inputs = centred_inputs(count, input_shape)
    return classifier, inputs, classifier(inputs).argmax(1)


def assert_same(result, other):
    for name in ("inputs", "distance", "queries", "backwards", "success"):
        assert torch.equal(getattr(result, name), getattr(other, name)), name


@every_attack
@pytest.mark.parametrize("num_classes", [2, 3, 10])
@pytest.mark.parametrize("input_shape", [(3, 4, 4), (48,), (6, 8)])
def test_a_linear_classifiers_boundary_is_found(plugin, num_classes, input_shape):
    classifier, inputs, labels = problem(num_classes, 32, input_shape)
    optimum = boundary_distance(classifier, inputs, labels, plugin.NORM)
    result = attacked(plugin, classifier, inputs, labels)
    ratio = result.distance[0] / optimum
    assert result.success.all()
    assert ratio.min() > 1 - 1e-5
    assert ratio.median() < 1.021  # DeepFool goes 0.02 beyond
    assert ratio.max() < 1.25


@pytest.mark.parametrize("plugin", DEEPFOOL.values(), ids=DEEPFOOL.keys())
@pytest.mark.parametrize("overshoot", [0.01, 0.3])
def test_deepfool_crosses_a_linear_boundary_in_one_step_by_the_overshoot(plugin, overshoot):
    classifier, inputs, labels = problem(10)
    optimum = boundary_distance(classifier, inputs, labels, plugin.NORM)
    result = attacked(plugin, classifier, inputs, labels, overshoot=overshoot)
    torch.testing.assert_close(result.distance[0].double(), (1 + overshoot) * optimum, rtol=1e-4, atol=0)
    assert (result.backwards == 9).all() and (result.queries == 3).all()


@pytest.mark.parametrize("plugin", DEEPFOOL.values(), ids=DEEPFOOL.keys())
def test_deepfool_considers_the_candidates_with_the_highest_logits(plugin):
    classifier, inputs, labels = problem(10, 40)
    weights, logits = classifier.network.last.weight.detach(), classifier(inputs).detach()
    ordered = logits.argsort(1, descending=True)
    slopes = weights[ordered] - weights[labels][:, None]
    distances = (logits.amax(1, keepdim=True) - logits.gather(1, ordered)) / torch.linalg.vector_norm(
        slopes, {"l2": 2, "linf": 1}[plugin.NORM], dim=2
    )
    assert (distances[:, 1] > 1.01 * distances[:, 1:].amin(1)).any()
    for candidates in (1, 2, 9, 50):
        result = attacked(plugin, classifier, inputs, labels, candidates=candidates)
        assert (result.backwards == min(candidates, 9)).all()
        expected = 1.02 * distances[:, 1 : candidates + 1].amin(1)
        torch.testing.assert_close(result.distance[0], expected, rtol=1e-3, atol=1e-6)


def distance_in_the_box(classifier, inputs, norm):
    """The distance [N] to the other class of two inside [0, 1]."""
    weights = classifier.network.last.weight.detach().double()
    logits = classifier(inputs).detach().double()
    label = logits.argmax(1)
    slopes = weights[1 - label] - weights[label]
    needed = (logits.gather(1, label[:, None]) - logits.gather(1, 1 - label[:, None]))[:, 0]
    low, high = torch.zeros(len(inputs), 1).double(), torch.full((len(inputs), 1), 1e3).double()
    originals = inputs.flatten(1).double()
    for _ in range(100):  # bisect how far along the slopes, or their signs, the nearest point on the boundary is
        middle = (low + high) / 2
        direction = slopes if norm == "l2" else slopes.sign()
        changes = (originals + middle * direction).clamp(0, 1) - originals
        crossed = ((changes * slopes).sum(1) > needed)[:, None]
        low, high = torch.where(crossed, low, middle), torch.where(crossed, middle, high)
    assert (high < 900).all()
    return torch.linalg.vector_norm(changes, {"l2": 2, "linf": torch.inf}[norm], dim=1)


@every_attack
def test_the_box_is_not_left_and_what_it_clips_is_made_up_for(plugin):
    classifier = linear_classifier(2)
    generator = torch.Generator().manual_seed(5)
    inputs = torch.rand(60, 3, 4, 4, generator=generator)
    inputs[:40] = (inputs[:40] * 3 - 1).clamp(0, 1)  # two thirds of the values cannot go further one way
    labels = classifier(inputs).argmax(1)
    optimum = distance_in_the_box(classifier, inputs, plugin.NORM)
    clipped = optimum > 1.02 * boundary_distance(classifier, inputs, labels, plugin.NORM)
    result = attacked(plugin, classifier, inputs, labels)
    assert clipped.sum() > 20
    assert result.success.all()
    assert (result.inputs.min(), result.inputs.max()) == (0, 1)
    assert (result.distance[0] / optimum).min() > 1 - 1e-5
    assert (result.distance[0] / optimum).max() < 1.25


class TwoLayers(nn.Module):
    """A small random network of two values, bent enough that its nearest boundary is not where it first looks."""

    def __init__(self, num_classes=3, hidden=12):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.register_buffer("first", 6 * torch.randn(hidden, 2, generator=generator))
        self.register_buffer("offsets", -(self.first * torch.rand(hidden, 2, generator=generator)).sum(1))
        self.register_buffer("last", torch.randn(num_classes, hidden, generator=generator))

    def forward(self, inputs):
        return torch.tanh(inputs.flatten(1) @ self.first.T + self.offsets) @ self.last.T


@every_attack
def test_the_nearest_boundary_of_two_layers_is_found(plugin):
    classifier = Classifier(TwoLayers(), (2,), 3)
    inputs = torch.rand(40, 2, generator=torch.Generator().manual_seed(1))
    labels = classifier(inputs).argmax(1)
    ticks = torch.linspace(0, 1, 401)
    grid = torch.cartesian_prod(ticks, ticks)
    classes = classifier(grid).argmax(1)
    optimum = torch.stack(
        [
            DISTANCES[plugin.NORM](grid, original.expand(len(grid), -1))[classes != label].min()
            for original, label in zip(inputs, labels, strict=True)
        ]
    )
    spacing = 1 / 400
    assert (optimum > 4 * spacing).sum() > 20
    result = attacked(plugin, classifier, inputs, labels)
    assert result.success.all()
    assert (result.distance[0] > optimum - 1.5 * spacing).all()
    ratio = (result.distance[0] - spacing) / optimum
    if plugin in DEEPFOOL.values():  # which stops at the first boundary that it meets
        assert ratio.median() < 1.5
    else:
        assert (ratio < 1.25).float().mean() >= 0.9


@every_attack
@pytest.mark.parametrize("scheme", ["int8", "w4a4", "w1a1"])
def test_frozen_quantized_networks_are_attacked(plugin, scheme):
    inputs, _ = images("test", 24)
    classifier = Classifier(quantized_case("tiny_cnn", scheme).frozen, inputs.shape[1:], 10)
    right = torch.arange(24) % 4 != 0  # of labels made for it: how good the network is differs by processor
    with torch.no_grad():
        labels = torch.where(right, classifier(inputs).argmax(1), (classifier(inputs).argmax(1) + 1) % 10)
    result = attacked(plugin, classifier, inputs, labels, steps=30)
    assert result.inputs.isfinite().all() and result.distance.isfinite().all()
    assert ((result.inputs >= 0) & (result.inputs <= 1)).all()
    assert result.success.float().mean() > 0.9
    assert result.distance[0, ~right].eq(0).all()
    assert result.distance[0, right & result.success[0]].median() < {"l2": 2, "linf": 0.1}[plugin.NORM]


class Constant(nn.Module):
    """Class 0 everywhere, and no gradient; two other classes tie."""

    def forward(self, inputs):
        return torch.tensor([1.0, 0.0, 0.0]) + 0 * inputs.flatten(1).sum(1, keepdim=True)


@every_attack
def test_without_a_gradient_nothing_is_found_and_nothing_is_nan(plugin):
    inputs, labels = centred_inputs(3), torch.zeros(3, dtype=torch.int64)
    result = attacked(plugin, Classifier(Constant(), (3, 4, 4), 3), inputs, labels, steps=5)
    assert not result.success.any() and not result.distance.any()
    assert torch.equal(result.inputs[0], inputs)


@pytest.mark.parametrize("plugin", DEEPFOOL.values(), ids=DEEPFOOL.keys())
def test_deepfool_gives_up_where_nothing_can_move(plugin):
    inputs, labels = centred_inputs(3), torch.zeros(3, dtype=torch.int64)
    result = attacked(plugin, Classifier(Constant(), (3, 4, 4), 3), inputs, labels, steps=5)
    assert (result.backwards == 2).all() and (result.queries == 3).all()


class Stairs(nn.Module):
    """Logits in whole steps of the inputs' sum, with the gradient of the sum."""

    def forward(self, inputs):
        total = inputs.flatten(1).sum(1)
        stairs = total + (total.round() - total).detach()
        return torch.stack([torch.full_like(total, 25.0), stairs], 1)


@every_attack
def test_a_tie_on_a_plateau_is_overcome(plugin):
    inputs = torch.full((2, 3, 4, 4), 0.5)  # 24, one stair below the tie
    inputs[1] = 25.4 / 48  # at the tie itself, where the gap is 0
    labels = torch.zeros(2, dtype=torch.int64)
    result = attacked(plugin, Classifier(Stairs(), (3, 4, 4), 2), inputs, labels)
    assert result.success.all()


@every_attack
def test_shapes_and_types(plugin):
    classifier, inputs, labels = problem(3, 5)
    result = attacked(plugin, classifier, inputs, labels)
    assert (result.inputs.shape, result.inputs.dtype) == ((1, 5, 3, 4, 4), torch.float32)
    assert (result.distance.shape, result.distance.dtype) == ((1, 5), torch.float32)
    assert (result.queries.shape, result.queries.dtype) == ((1, 5), torch.int64)
    assert (result.backwards.shape, result.backwards.dtype) == ((1, 5), torch.int64)
    assert (result.success.shape, result.success.dtype) == ((1, 5), torch.bool)
    assert not result.inputs.requires_grad and result.inputs.grad_fn is None
    assert torch.equal(result.distance[0], DISTANCES[plugin.NORM](result.inputs[0], inputs).float())


@every_attack
def test_clean_mistakes_are_left_alone(plugin):
    classifier, inputs, labels = problem(3)
    labels[:7] = (labels[:7] + 1) % 3
    result = attacked(plugin, classifier, inputs, labels)
    assert torch.equal(result.inputs[0, :7], inputs[:7]) and result.success.all()
    assert (result.queries[0, :7] == 1).all() and not result.backwards[0, :7].any()
    assert (result.distance[0, 7:] > 0).all()


class OneByOne(nn.Module):
    """Computes each sample by itself, so that the rest of the batch changes not even a rounding."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, inputs):
        return torch.cat([self.network(sample) for sample in inputs.split(1)])


@every_attack
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_the_rest_of_the_batch_changes_nothing(plugin, batch_size):
    linear, inputs, labels = problem(3, 9)
    classifier = Classifier(OneByOne(linear.network), linear.input_shape, 3)
    whole = attacked(plugin, classifier, inputs, labels, steps=20)
    part = attacked(plugin, classifier, inputs[-batch_size:], labels[-batch_size:], steps=20)
    for name in ("inputs", "distance", "queries", "backwards", "success"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[:, -batch_size:]), name


@every_attack
def test_the_bytes_are_the_same_each_time_and_global_random_states_stay(plugin):
    classifier, inputs, labels = problem()
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first = attacked(plugin, classifier, inputs, labels, steps=20)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
    torch.manual_seed(2)
    assert_same(first, attacked(plugin, classifier, inputs, labels, steps=20))


@every_attack
def test_the_classifier_and_what_was_given_come_back_as_they_were(plugin):
    classifier, inputs, labels = problem()
    classifier.network.dropout = nn.Dropout()
    classifier.network.train()
    classifier.network.last.eval()
    classifier.network.last.weight.grad = torch.ones_like(classifier.network.last.weight)
    modes = [module.training for module in classifier.modules()]
    state = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    given = inputs.clone(), labels.clone()
    attacked(plugin, classifier, inputs, labels, steps=5)
    assert [module.training for module in classifier.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in classifier.state_dict().items())
    assert (classifier.network.last.weight.grad == 1).all() and classifier.network.last.bias.grad is None
    assert torch.equal(inputs, given[0]) and torch.equal(labels, given[1]) and not inputs.requires_grad


@every_attack
def test_the_classifier_is_attacked_in_evaluation_mode_and_where_gradients_are_off(plugin):
    classifier, inputs, labels = problem()
    classifier.network = nn.Sequential(nn.Dropout(0.9), classifier.network)
    with torch.no_grad():
        result = attacked(plugin, classifier.train(), inputs, labels, steps=20)
    assert_same(result, attacked(plugin, linear_classifier(3), inputs, labels, steps=20))


@every_attack
def test_success_is_judged_on_the_classifier_and_not_on_its_gradient_view(plugin):
    class Misleading(Classifier):
        def gradient_view(self, generator=None, samples=1):
            return nn.Sequential(self.network, Shifted())

    class Shifted(nn.Module):
        def forward(self, logits):
            return logits + torch.tensor([-0.05, 0.05])

    honest, inputs, _ = problem(2)
    labels = torch.zeros(len(inputs), dtype=torch.int64)
    classifier = Misleading(honest.network, honest.input_shape, 2)
    result = attacked(plugin, classifier, inputs, labels)
    assert torch.equal(result.success[0], classifier(result.inputs[0]).argmax(1) != labels)
    assert (classifier.gradient_view()(result.inputs[0]).argmax(1) != labels).all()


@every_attack
def test_passes_are_counted_as_they_were(plugin):
    classifier, inputs, labels = problem(3, 7)
    labels[:3] = (labels[:3] + 1) % 3
    counted = {"forward": 0, "backward": 0}

    def count(module, given, logits):
        counted["forward"] += len(logits)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: counted.update(backward=counted["backward"] + len(gradient)))

    classifier.requires_grad_(False).network.last.register_forward_hook(count)
    result = attacked(plugin, classifier, inputs, labels, steps=6)
    judging = 7
    assert counted == {
        "forward": result.queries.sum().item() + judging,
        "backward": result.backwards.sum().item(),
    }


@pytest.mark.parametrize("plugin", EVERY_STEP.values(), ids=EVERY_STEP.keys())
def test_every_sample_gets_all_steps(plugin):
    result = attacked(plugin, *problem(3, 7), steps=6)
    assert (result.queries == 1 + 6 + 1).all() and (result.backwards == 6).all()


@pytest.mark.parametrize("plugin", EVERY_STEP.values(), ids=EVERY_STEP.keys())
def test_more_steps_come_nearer(plugin):
    classifier = Classifier(TwoLayers(), (2,), 3)
    inputs = torch.rand(40, 2, generator=torch.Generator().manual_seed(1))
    labels = classifier(inputs).argmax(1)
    # FMN's step of 0.1, which was chosen for images, leaves no way round where there are two values.
    knobs = {"step_size": 0.3} if plugin is fmn_l2 else {}
    few, many = (
        attacked(plugin, classifier, inputs, labels, steps=steps, **knobs).distance.mean() for steps in (10, 100)
    )
    assert many < 0.98 * few


@every_attack
def test_the_memory_layout_of_the_inputs_is_kept(plugin):
    classifier, inputs, labels = problem(3, 6)
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    layouts = []
    classifier.network.register_forward_hook(
        lambda module, given, logits: layouts.append(given[0].is_contiguous(memory_format=torch.channels_last))
    )
    result = attacked(plugin, classifier, inputs, labels, steps=5)
    assert all(layouts) and layouts
    assert all(row.is_contiguous(memory_format=torch.channels_last) for row in result.inputs)


@every_attack
@pytest.mark.parametrize("value", [-0.25, 1.5, float("nan")])
def test_inputs_outside_the_box_are_refused(plugin, value):
    classifier, inputs, labels = problem()
    inputs[3, 1, 2, 0] = value
    with pytest.raises(ValueError, match=rf"^inputs: {value}: expected values in \[0, 1\]$"):
        attacked(plugin, classifier, inputs, labels)


def test_ddn_starts_on_the_sphere_of_the_initial_epsilon_and_adapts_by_gamma():
    classifier, inputs, labels = problem(2, 1)
    optimum = boundary_distance(classifier, inputs, labels, "l2").item()
    seen = []
    hook = lambda module, given: seen.append(DISTANCES["l2"](given[0], inputs).item())  # noqa: E731
    classifier.network.register_forward_pre_hook(hook)
    attacked(ddn, classifier, inputs, labels, steps=4, initial_epsilon=0.99 * optimum, gamma=0.1)
    assert seen[:2] == [0, 0]  # by the classifier itself, and for the first gradient
    first = 0.99 * optimum
    expected = [first, 1.1 * first, 1.1 * 0.9 * first, 1.1 * 0.9 * 1.1 * first]
    assert seen[2:] == pytest.approx(
        [*expected, min(expected[1], expected[3])], rel=1e-4
    )  # the nearest error is judged
    seen.clear()
    attacked(ddn, classifier, inputs, labels, steps=1)
    assert seen[2] == pytest.approx(optimum, rel=1e-3)


def test_log_odds_climb_in_the_direction_of_the_cross_entropy_and_do_not_vanish():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.tensor([0, 1, 2, 3, 0])
    directions = [
        nn.functional.normalize(torch.autograd.grad(loss(logits, labels).sum(), logits)[0])
        for loss in (log_odds(1), cross_entropy)
    ]
    torch.testing.assert_close(*directions)
    sure = torch.tensor([[500.0, 1.0, 0.0]]).requires_grad_()
    (gradient,) = torch.autograd.grad(log_odds(1)(sure, torch.tensor([0])).sum(), sure)
    assert gradient[0].tolist() == pytest.approx([-1, 0.731, 0.269], abs=1e-3)


def test_ddn_leaves_where_the_softmax_is_sure():
    linear, inputs, labels = problem(3)
    linear.network.last.weight.data *= 1000
    linear.network.last.bias.data *= 1000
    optimum = boundary_distance(linear, inputs, labels, "l2")
    result = attacked(ddn, linear, inputs, labels)
    assert result.success.all() and (result.distance[0] < 1.05 * optimum).all()


def test_fmn_first_goes_where_the_linearized_margin_vanishes():
    classifier, inputs, labels = problem(10, 8)
    weights = classifier.network.last.weight.detach()
    second = classifier(inputs).topk(2).indices[:, 1]
    logits = classifier(inputs).detach()
    gap = logits.gather(1, labels[:, None]) - logits.gather(1, second[:, None])
    for plugin, dual in ((fmn_l2, 2), (fmn_linf, 1)):
        seen = []
        hook = classifier.network.register_forward_pre_hook(lambda module, given, seen=seen: seen.append(given[0]))
        attacked(plugin, classifier, inputs, labels, steps=2, step_size=100.0)
        hook.remove()
        expected = gap[:, 0] / torch.linalg.vector_norm(weights[second] - weights[labels], dual, dim=1)
        torch.testing.assert_close(DISTANCES[plugin.NORM](seen[2], inputs).float(), expected, rtol=1e-4, atol=1e-6)
