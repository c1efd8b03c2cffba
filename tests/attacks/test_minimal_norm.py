"""The search of minimal-norm attacks: what it keeps, what it counts, and what it leaves alone."""

import pytest
import torch
from torch import nn

from stages.attacks import minimal_norm
from stages.attacks.distances import DISTANCES
from stages.attacks.losses import cross_entropy, margin
from stages.attacks.minimal_norm import ROUNDING, Search, attack_nearest
from stages.classifier import Classifier
from tests.attacks.linear import centred_inputs, linear_classifier


class Threshold(nn.Module):
    """Class 1 where the values sum to more than 1."""

    def forward(self, inputs):
        return torch.stack([torch.ones(len(inputs)), inputs.flatten(1).sum(1)], 1)


def search_at(*origins: list[float], norm="l2", **settings) -> Search:
    return Search(Threshold(), torch.tensor(origins), torch.zeros(len(origins), dtype=torch.int64), norm, **settings)


def test_nothing_is_found_before_anything_errs():
    search = search_at([0.25, 0.25], [0.5, 0.0])
    search.logits(torch.tensor([[0.5, 0.25], [0.5, 0.5]]))  # the second is on the boundary, where class 0 is predicted
    assert not search.found.any() and search.distance.isinf().all()
    assert torch.equal(search.nearest, search.inputs)


def test_of_many_points_of_a_sample_the_nearest_error_is_kept():
    search = search_at([0.25, 0.25], [0.0, 0.0], [0.5, 0.25])
    samples = torch.tensor([2, 0, 0, 0, 2, 0])
    far, near, no_error, other_far = [1.0, 1.0], [0.75, 0.5], [0.5, 0.25], [0.25, 1.0]
    points = torch.tensor([[1.0, 0.25], far, near, no_error, [0.75, 0.5], other_far])
    search.logits(points, samples)
    assert search.found.tolist() == [True, False, True]
    assert search.nearest.tolist() == [near, [0.0, 0.0], [0.75, 0.5]]
    assert search.distance.tolist() == [0.3125**0.5, torch.inf, 0.125**0.5]


def test_nearer_errors_replace_what_was_kept_and_others_do_not():
    search = search_at([0.25, 0.25])
    for point, kept in [([1.0, 0.5], 1.0), ([1.0, 0.75], 1.0), ([0.875, 0.5], 0.875), ([0.5, 0.25], 0.875)]:
        search.gradient(torch.tensor([point]), margin)
        assert search.nearest.tolist() == [[kept, 0.5]]


def test_of_equally_near_points_the_first_is_kept():
    search = search_at([0.5, 0.5])
    search.logits(torch.tensor([[0.5, 0.75], [0.75, 0.5]]), torch.tensor([0, 0]))
    assert search.nearest.tolist() == [[0.5, 0.75]]


@pytest.mark.parametrize(("nearest", "norm"), list(enumerate(["l0", "l1", "l2", "linf"])))
def test_near_is_measured_in_the_norm(nearest, norm):
    search = search_at([0.25, 0.25, 0.25], norm=norm)
    changes = [[0.75, 0, 0], [0.5, 0.03125, 0], [0.3125, 0.3125, 0], [0.28125, 0.28125, 0.28125]]
    points = 0.25 + torch.tensor(changes)
    search.logits(points, torch.zeros(4, dtype=torch.int64))
    assert torch.equal(search.nearest[0], points[nearest])
    assert search.distance[0] == DISTANCES[norm](points, search.inputs)[nearest]


def test_an_error_that_rounding_can_undo_is_none():
    search = search_at([0.5, 0.25])
    search.logits(torch.tensor([[0.5, 0.5 + 0.5 * ROUNDING]]))
    assert not search.found.any()
    search.logits(torch.tensor([[0.5, 0.5 + 2 * ROUNDING]]))
    assert search.found.all()


def test_an_error_of_less_than_the_confidence_is_none():
    search = search_at([0.5, 0.25], confidence=0.25)
    search.logits(torch.tensor([[0.5, 0.625]]))
    assert not search.found.any()
    search.logits(torch.tensor([[0.5, 0.75]]))
    assert search.found.all()


def test_passes_are_counted_for_each_sample():
    search = search_at([0.0, 0.0], [0.0, 0.0], [0.0, 0.0])
    search.logits(torch.zeros(3, 2))
    search.logits(torch.zeros(3, 2), torch.tensor([2, 0, 2]))
    search.gradient(torch.zeros(2, 2), margin, torch.tensor([1, 1]))
    search.gradients(torch.zeros(1, 2), lambda logits, labels: logits, torch.tensor([0]))
    assert search.forwards.tolist() == [3, 3, 3]
    assert search.backwards.tolist() == [2, 2, 0]


@pytest.mark.parametrize("batch", [1, 3, 512])
def test_gradients_are_those_of_each_points_losses(batch, monkeypatch):
    monkeypatch.setattr(minimal_norm, "BATCH", batch)
    classifier, inputs = linear_classifier(4), centred_inputs(3)
    labels = classifier(inputs).argmax(1)
    search = Search(classifier, inputs, labels, "l2")
    samples = torch.tensor([2, 0, 0, 1, 2, 2, 1])
    points = centred_inputs(7, seed=2)
    logits, gradients = search.gradients(points, lambda logits, labels: logits[:, 1:], samples)
    expected = classifier.network.last.weight.detach()[1:].reshape(3, 1, 3, 4, 4)
    torch.testing.assert_close(torch.stack(gradients), expected.expand(-1, 7, -1, -1, -1))
    torch.testing.assert_close(logits, classifier(points).detach())
    _, gradient = search.gradient(points, cross_entropy, samples)
    leaf = points.clone().requires_grad_()
    cross_entropy(classifier(leaf), labels[samples]).sum().backward()
    torch.testing.assert_close(gradient, leaf.grad)
    assert not logits.requires_grad and not gradient.requires_grad
    assert not search.logits(points, samples).requires_grad


def test_the_search_is_for_the_samples_that_the_classifier_gets_right():
    classifier, inputs = linear_classifier(3), centred_inputs(6)
    labels = classifier(inputs).argmax(1)
    labels[[1, 4]] = (labels[[1, 4]] + 1) % 3
    seen = []

    def find(search, draws):
        seen.append(search)
        search.logits(1 - search.inputs)  # on the other side of the centre, where all logits are equal

    generator = torch.Generator().manual_seed(0)
    result = attack_nearest(find, classifier, inputs, labels, norm="linf", generator=generator)
    right = torch.tensor([0, 2, 3, 5])
    assert torch.equal(seen[0].inputs, inputs[right]) and torch.equal(seen[0].labels, labels[right])
    assert seen[0].places.tolist() == right.tolist()
    assert result.queries.tolist() == [[2, 1, 2, 2, 1, 2]] and not result.backwards.any()
    assert torch.equal(result.inputs[0, [1, 4]], inputs[[1, 4]]) and not result.distance[0, [1, 4]].any()
    assert torch.equal(result.inputs[0, right], 1 - inputs[right]) and result.success.all()
    torch.testing.assert_close(result.distance[0, right], (1 - 2 * inputs[right]).abs().flatten(1).amax(1))


def test_without_a_sample_that_is_right_nothing_is_searched():
    classifier, inputs = linear_classifier(3), centred_inputs(4)
    labels = (classifier(inputs).argmax(1) + 1) % 3

    def find(search, draws):
        raise AssertionError

    result = attack_nearest(find, classifier, inputs, labels, norm="l2", generator=torch.Generator())
    assert result.success.all() and torch.equal(result.inputs[0], inputs)


def test_what_is_not_found_is_the_original_and_no_success():
    classifier, inputs = linear_classifier(3), centred_inputs(4)
    labels = classifier(inputs).argmax(1)
    find = lambda search, draws: search.logits(search.inputs)  # noqa: E731
    result = attack_nearest(find, classifier, inputs, labels, norm="l2", generator=torch.Generator())
    assert not result.success.any() and not result.distance.any() and torch.equal(result.inputs[0], inputs)


@pytest.mark.parametrize("gradients", [True, False])
def test_attackers_look_at_the_gradient_view_or_else_at_the_classifier(gradients):
    class Viewed(Classifier):
        def gradient_view(self, generator=None, samples=1):
            return nn.Sequential(self.network)

    linear = linear_classifier(3)
    classifier, inputs = Viewed(linear.network, (3, 4, 4), 3), centred_inputs(4)
    seen = []
    attack_nearest(
        lambda search, draws: seen.append(search.network),
        classifier,
        inputs,
        linear(inputs).argmax(1),
        norm="l2",
        generator=torch.Generator(),
        gradients=gradients,
    )
    assert isinstance(seen[0], nn.Sequential) == gradients
