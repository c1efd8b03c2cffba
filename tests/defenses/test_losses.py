"""Defense losses where their value is known in closed form: linear networks."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stages.defenses import fast_at, jacobian, none


def linear(weight):
    network = nn.Sequential(nn.Flatten(), nn.Linear(weight.shape[1], weight.shape[0], bias=False))
    network[1].weight.data = weight.clone()
    return network


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 12, generator=generator)
    inputs = 0.5 + 0.1 * torch.randn(6, 1, 3, 4, generator=generator)
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    return linear(weight), weight, inputs, labels


def test_no_defense_is_cross_entropy(problem):
    network, _, inputs, labels = problem
    expected = F.cross_entropy(network(inputs), labels)
    assert torch.equal(none.loss(network, inputs, labels, generator=torch.Generator()), expected)


def test_fast_adversarial_training_takes_the_worst_corner_of_a_linear_network(problem):
    # With a step of twice epsilon, whatever the start, the perturbation ends in the corner that the gradient's sign
    # names.
    network, weight, inputs, labels = problem
    epsilon = 0.05
    direction = (weight[1 - labels] - weight[labels]).sign().view_as(inputs)
    worst = F.cross_entropy(network(inputs + epsilon * direction), labels)
    generator = torch.Generator().manual_seed(1)
    loss = fast_at.loss(network, inputs, labels, generator=generator, epsilon=epsilon, step_size=2.0)
    assert loss.item() == pytest.approx(worst.item(), rel=1e-5)


def test_adversarial_inputs_stay_in_the_ball_and_in_the_box():
    seen = []

    class Recorder(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, inputs):
            seen.append(inputs.detach())
            return self.network(inputs)

    inputs = torch.rand(8, 1, 3, 4).round(decimals=1)
    network = Recorder(linear(torch.randn(3, 12)))
    labels = torch.randint(3, (8,))
    fast_at.loss(network, inputs, labels, generator=torch.Generator().manual_seed(0), epsilon=0.1)
    assert len(seen) == 2  # at the random start, and at the end of the step
    for perturbed in seen:
        assert 0 < (perturbed - inputs).abs().max() <= 0.1 + 1e-6
        assert perturbed.min() >= 0 and perturbed.max() <= 1


def test_robustness_of_a_linear_network_is_its_share_of_margins_beyond_epsilon(problem):
    network, weight, inputs, labels = problem
    logits = network(inputs).detach()
    margins = (logits.gather(1, labels[:, None]) - logits.gather(1, 1 - labels[:, None]))[:, 0]
    norms = (weight[1] - weight[0]).abs().sum()
    for epsilon in [0.01, 0.05, 0.2]:
        expected = (margins > epsilon * norms).float().mean().item()
        measured = fast_at.robustness(
            network, inputs, labels, generator=torch.Generator().manual_seed(0), epsilon=epsilon
        )
        assert measured == pytest.approx(expected)


def test_the_jacobian_penalty_estimates_the_squared_frobenius_norm(problem):
    network, weight, inputs, labels = problem
    plain = none.loss(network, inputs, labels, generator=torch.Generator()).item()
    estimates = []
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        value = jacobian.loss(network, inputs, labels, generator=generator, weight=2.0).item()
        estimates.append(value - plain)
    # The Jacobian of a linear network is its weight; the mean of the estimates over directions is its squared norm.
    assert sum(estimates) / len(estimates) == pytest.approx(weight.square().sum().item(), rel=0.1)


def test_the_jacobian_penalty_can_be_trained_on(problem):
    network, _, inputs, labels = problem
    loss = jacobian.loss(network, inputs, labels, generator=torch.Generator().manual_seed(0), weight=100.0)
    loss.backward()
    norm = network[1].weight.square().sum()
    with torch.no_grad():
        network[1].weight -= 1e-4 * network[1].weight.grad
    assert network[1].weight.square().sum() < norm
