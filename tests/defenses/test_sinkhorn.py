"""The Sinkhorn divergence against exact transport, an independent solver, and closed forms."""

from functools import partial

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from stages.defenses.sinkhorn_at import sinkhorn_divergence, transport_cost

DEFAULTS = {"entropic": 1.0, "iterations": 50, "tolerance": 0.1}
CONVERGED = {"iterations": 2000, "tolerance": 1e-12}


def clouds(count_x, count_y, dimensions=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(count, dimensions, generator=generator, dtype=torch.float64) for count in (count_x, count_y)]


def predictions(count, change, seed=0):
    """The probabilities of a batch of clean inputs and of perturbed ones, float32 [count,10] each."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(count, 10, generator=generator)
    return logits.softmax(1), (logits + change * torch.randn(count, 10, generator=generator)).softmax(1)


def by_scaling(x, y, entropic):
    """The entropic cost of the plan that Sinkhorn's original scaling of rows and columns arrives at."""
    costs = torch.cdist(x, y).square()
    kernel = torch.exp(-costs / entropic)
    rows, columns = torch.ones(len(x), dtype=x.dtype), torch.ones(len(y), dtype=x.dtype)
    for _ in range(5000):
        rows = 1 / len(x) / (kernel @ columns)
        columns = 1 / len(y) / (kernel.T @ rows)
    plan = rows[:, None] * kernel * columns
    return ((plan * costs).sum() + entropic * (plan * (plan * len(x) * len(y)).log()).sum()).item()


def test_with_little_entropy_the_cost_is_that_of_exact_transport():
    # The entropy of a plan over n points is at most log n, by which the entropic cost may exceed the exact one.
    x, y = clouds(7, 7)
    costs = torch.cdist(x, y).square()
    exact = costs[linear_sum_assignment(costs)].mean().item()
    for entropic in [0.05, 0.002]:
        excess = transport_cost(x, y, entropic=entropic, **CONVERGED).item() - exact
        assert 0 <= excess <= entropic * torch.tensor(7.0).log()


@pytest.mark.parametrize("entropic", [1.0, 0.1])
@pytest.mark.parametrize("counts", [(6, 6), (4, 9)])
def test_the_cost_is_that_of_the_plan_of_another_solver(counts, entropic):
    x, y = clouds(*counts)
    assert transport_cost(x, y, entropic=entropic, **CONVERGED).item() == pytest.approx(by_scaling(x, y, entropic))


def test_two_single_points_are_as_far_apart_as_their_squared_distance():
    x, y = clouds(1, 1)
    assert sinkhorn_divergence(x, y, **DEFAULTS).item() == pytest.approx((x - y).square().sum().item())


@pytest.mark.parametrize("entropic", [1.0, 0.05])
def test_a_cloud_that_is_moved_as_a_whole_is_as_far_as_it_was_moved(entropic):
    x, _ = clouds(8, 1)
    move = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    moved = (x + move).requires_grad_()
    divergence = sinkhorn_divergence(x, moved, entropic=entropic, **CONVERGED)
    assert divergence.item() == pytest.approx(move.square().sum().item())
    divergence.backward()
    assert torch.allclose(moved.grad, 2 * move.expand_as(x) / len(x))


def test_equal_clouds_are_not_apart():
    x, _ = predictions(32, 0.0)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    assert sinkhorn_divergence(x, x.clone(), **DEFAULTS).item() == 0
    assert sinkhorn_divergence(x, x[order], **DEFAULTS).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("change", [0.01, 0.3, 3.0])
def test_it_is_not_negative_and_near_its_limit_when_it_stops_early(change):
    for seed in range(10):
        x, y = predictions(128, change, seed)
        value = sinkhorn_divergence(x, y, **DEFAULTS).item()
        limit = sinkhorn_divergence(x.double(), y.double(), entropic=1.0, **CONVERGED).item()
        assert limit > 0
        assert value == pytest.approx(limit, rel=0.01, abs=1e-6)


@pytest.mark.parametrize("settings", [{"iterations": 1, "tolerance": 0.0}, {"iterations": 1000, "tolerance": 100.0}])
def test_it_stops_after_its_iterations_or_within_its_tolerance(settings):
    x, y = clouds(6, 6)
    stopped = transport_cost(x, y, entropic=0.02, **settings)
    once = transport_cost(x, y, entropic=0.02, iterations=1, tolerance=0.0)
    assert stopped == once
    assert once < transport_cost(x, y, entropic=0.02, **CONVERGED) - 1e-3  # the dual climbs


def test_its_gradient_is_that_of_finite_differences():
    x, y = (cloud.requires_grad_() for cloud in clouds(4, 5))
    assert torch.autograd.gradcheck(partial(sinkhorn_divergence, entropic=0.3, **CONVERGED), (x, y))
