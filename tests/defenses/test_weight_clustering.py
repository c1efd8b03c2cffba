"""Weight clustering against its formula, and what its gradient does to weights."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from stages.defenses.weight_clustering import clustering, loss


def test_the_distance_is_that_of_each_sign_from_its_own_mean():
    weights = torch.tensor([[1.0, 3.0, -2.0], [-2.0, 2.0, -5.0]])
    assert clustering(weights).item() == pytest.approx((1 + 1) ** 0.5 + (1 + 1 + 4) ** 0.5)


@pytest.mark.parametrize("weights", [[1.0, 1.0, -2.0], [0.5], [-3.0, -3.0]])
def test_two_values_are_at_no_distance_and_have_a_gradient(weights):
    weights = torch.tensor(weights, requires_grad=True)
    found = clustering(weights)
    found.backward()
    assert found.item() < 1e-15
    assert weights.grad.tolist() == [0.0] * len(weights)


def test_the_loss_adds_it_for_every_layer():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3)).eval()
    inputs, labels = torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1])
    plain = cross_entropy(network(inputs), labels)
    added = loss(network, inputs, labels, generator=None, weight=0.5) - plain
    assert added.item() == pytest.approx(
        0.5 * (clustering(network[0].weight) + clustering(network[3].weight)).item(), rel=1e-5
    )


def test_its_gradient_draws_weights_to_two_values():
    weights = torch.randn(200, generator=torch.Generator().manual_seed(0)).requires_grad_()
    before = clustering(weights).item()
    for _ in range(100):
        (gradient,) = torch.autograd.grad(clustering(weights), weights)
        weights = (weights - 0.05 * gradient).detach().requires_grad_()
    assert clustering(weights).item() < 0.6 * before
