"""FAB-T: its projection onto hyperplanes in the box, and how near it comes to known boundaries."""

import pytest
import torch
from torch import nn

from stages.attacks import fab_targeted
from stages.classifier import Classifier
from tests.attacks.linear import boundary_distance, centred_inputs, linear_classifier
from tests.quantization.small_networks import images, quantized_case


def attacked(classifier, inputs, labels, seed=0, **knobs):
    return fab_targeted.attack(classifier, inputs, labels, generator=torch.Generator().manual_seed(seed), **knobs)


@pytest.mark.parametrize("input_shape", [(48,), (4, 12), (3, 4, 4)])
@pytest.mark.parametrize("num_classes", [2, 3, 10])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_distances_are_those_to_the_boundary_of_a_linear_classifier(input_shape, num_classes, count):
    classifier, inputs = linear_classifier(num_classes, input_shape), centred_inputs(count, input_shape)
    labels = classifier(inputs).argmax(1)
    result = attacked(classifier, inputs, labels, steps=10)
    expected = boundary_distance(classifier, inputs, labels)
    assert result.inputs.shape == (1, count, *input_shape)
    assert result.success.all()
    assert (result.distance[0] >= (1 - 1e-4) * expected).all()
    assert (result.distance[0] <= 1.02 * expected).all()


def test_a_step_onto_a_hyperplane_is_the_shortest_in_the_box():
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(300, 6, generator=generator)
    points[:50] = points[:50].round()  # values at the ends of their range
    gradient = torch.randn(300, 6, generator=generator) * (torch.rand(300, 6, generator=generator) > 0.3)
    gap = 1.5 * torch.randn(300, generator=generator)
    gradient[0], gap[1] = 0, 0
    step = fab_targeted.step_onto_hyperplane(points, gap, gradient)
    lengths = torch.linspace(0, 1, 10_001)[:, None, None]
    side = -(gradient * gap.sign()[:, None]).sign()
    left = gap.abs() + (((points + lengths * side).clamp(0, 1) - points) * gradient).sum(2) * gap.sign()
    reachable = left.amin(0) <= 0
    assert 100 < reachable.sum() < 290
    shortest = (left > 0).sum(0) / 10_000
    assert (step.abs().amax(1) - shortest)[reachable].abs().max() < 2e-4
    assert (gap + (step * gradient).sum(1))[reachable].abs().max() < 1e-5
    corner = (points + side).clamp(0, 1) - points
    torch.testing.assert_close(step[~reachable], corner[~reachable])
    assert not step[0].any() and not step[1].any()
    assert ((points + step) >= -1e-6).all() and ((points + step) <= 1 + 1e-6).all()


@pytest.mark.parametrize("num_classes", [2, 4])
def test_on_a_two_layer_network_a_grid_finds_nothing_much_nearer(num_classes):
    generator = torch.Generator().manual_seed(0)
    first, last = nn.Linear(2, 16), nn.Linear(16, num_classes)
    first.weight.data = 4 * torch.randn(16, 2, generator=generator)
    first.bias.data = -(first.weight.data * torch.rand(16, 2, generator=generator)).sum(1)
    last.weight.data, last.bias.data = torch.randn(num_classes, 16, generator=generator), torch.zeros(num_classes)
    classifier = Classifier(nn.Sequential(first, nn.ReLU(), last), (2,), num_classes)
    inputs = torch.rand(64, 2, generator=generator)
    labels = classifier(inputs).argmax(1)
    axis = torch.linspace(0, 1, 401)
    grid = torch.cartesian_prod(axis, axis)
    classes = classifier(grid).argmax(1)
    distances = (grid[:, None] - inputs).abs().amax(2).masked_fill(classes[:, None] == labels, torch.inf).amin(0)
    result = attacked(classifier, inputs, labels, steps=50)
    found = result.distance[0].masked_fill(~result.success[0], torch.inf)
    # The walk is local: another piece of the boundary may be nearer than the one that it reached.
    assert (found <= 1.1 * distances + 0.003).float().mean() > 0.85
    assert found.median() <= 1.05 * distances.median()
    assert (found >= distances - 0.003).all()


def test_mistakes_are_left_alone_and_passes_are_counted():
    classifier, inputs = linear_classifier(4), centred_inputs(8)
    labels = classifier(inputs).argmax(1)
    labels[:3] = (labels[:3] + 1) % 4
    passes = {"forward": 0}
    classifier.network.last.register_forward_hook(
        lambda module, given, logits: passes.update(forward=passes["forward"] + len(logits))
    )
    result = attacked(classifier, inputs, labels, steps=5, targets=2)
    assert torch.equal(result.inputs[0, :3], inputs[:3]) and result.success.all()
    assert result.queries[0].tolist() == [1] * 3 + [1 + 1 + 2 * 2 * 5 + 4] * 5
    assert result.backwards[0].tolist() == [0] * 3 + [2 * 5] * 5
    assert passes["forward"] == result.queries.sum() + len(inputs)  # judging is not counted


def test_nothing_is_random_and_nothing_is_touched():
    classifier, inputs = linear_classifier(3), torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    labels, state = classifier(inputs).argmax(1), torch.get_rng_state()
    first = attacked(classifier.train(), inputs, labels, seed=0, steps=5)
    assert torch.equal(first.inputs, attacked(classifier, inputs, labels, seed=1, steps=5).inputs)
    assert classifier.training and torch.equal(torch.get_rng_state(), state)
    assert first.inputs.min() >= 0 and first.inputs.max() <= 1 and not first.inputs.requires_grad


def test_a_constant_classifier_is_not_broken():
    class Constant(nn.Module):
        def forward(self, inputs):
            return 0 * inputs.flatten(1)[:, :3] + torch.tensor([1.0, 0, 0.5])

    inputs = torch.rand(4, 5, generator=torch.Generator().manual_seed(3))
    result = attacked(Classifier(Constant(), (5,), 3), inputs, torch.zeros(4, dtype=torch.int64), steps=5)
    assert not result.success.any()
    assert torch.equal(result.inputs[0], inputs)


@pytest.mark.parametrize("scheme", ["w4a4", "w1a1"])
def test_a_quantized_network_is_attacked(scheme):
    inputs, labels = images("test", 30)
    classifier = Classifier(quantized_case("tiny_cnn", scheme).frozen, inputs.shape[1:], 10)
    result = attacked(classifier, inputs, labels, steps=10, targets=3)
    assert result.inputs.isfinite().all()
    standing = classifier(inputs).argmax(1) == labels
    assert result.success[0, standing].float().mean() > 0.8
    assert result.distance[0, standing].median() < 0.1
