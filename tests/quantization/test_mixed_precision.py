"""Sensitivities of layers, and the best widths within a budget."""

from itertools import product

import pytest
import torch

from stages.models.footprint import footprint
from stages.quantization.mixed_precision import Cost, best_widths, sensitivities
from tests.quantization.small_networks import SHAPE, make_case


def random_costs(layers, widths, seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(highest):
        return int(torch.randint(1, highest, (), generator=generator))

    return {f"layer{i}": {width: Cost(draw(40), draw(100) / 8) for width in widths} for i in range(layers)}


def total(costs, chosen):
    taken = [costs[name][width] for name, width in chosen.items()]
    return sum(cost.bytes for cost in taken), sum(cost.loss for cost in taken)


@pytest.mark.parametrize("seed", range(5))
def test_the_choice_is_the_best_of_all(seed):
    costs = random_costs(4, (8, 4, 2), seed)
    every = [total(costs, dict(zip(costs, widths, strict=True))) for widths in product((8, 4, 2), repeat=4)]
    for budget in range(min(taken for taken, _ in every), 170, 7):
        taken, loss = total(costs, best_widths(costs, budget))
        assert taken <= budget
        assert loss == min(loss for taken, loss in every if taken <= budget)


def test_greed_would_choose_worse():
    # By loss per byte saved, a goes first and leaves a byte too many; b alone is enough, and costs less than both.
    costs = {"a": {8: Cost(10, 0.0), 4: Cost(6, 1.0)}, "b": {8: Cost(10, 0.0), 4: Cost(5, 1.5)}}
    assert best_widths(costs, 15) == {"a": 8, "b": 4}


def test_what_is_fixed_counts_and_a_budget_that_is_too_small_is_refused():
    costs = {"a": {8: Cost(10, 0.0), 2: Cost(3, 1.0)}}
    assert best_widths(costs, 15, fixed=5) == {"a": 8}
    assert best_widths(costs, 14, fixed=5) == {"a": 2}
    with pytest.raises(ValueError, match="budget: 7: expected at least 8 bytes"):
        best_widths(costs, 7, fixed=5)


class Two(torch.nn.Module):
    """Logits (10 a + b) x."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = Times(a), Times(b)

    def forward(self, inputs):
        return 10 * self.a(inputs) + self.b(inputs)


class Times(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, inputs):
        return self.factor * inputs


def test_sensitivity_is_the_divergence_of_predictions_layer_by_layer():
    networks = {8: Two(1.0, 1.0), 4: Two(1.0, 1.1), 2: Two(1.1, 1.2)}
    batches = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).split([4, 2])
    found = sensitivities(networks, 8, ["a", "b"], batches)
    inputs = torch.cat(batches)

    def divergence(a, b):
        before, after = (11 * inputs).log_softmax(1), ((10 * a + b) * inputs).log_softmax(1)
        return (before.exp() * (before - after)).sum(1).mean().item()

    assert found["a"][8] == found["a"][4] == found["b"][8] == 0
    assert found["a"][2] == pytest.approx(divergence(1.1, 1.0), rel=1e-3)
    assert found["b"][4] == pytest.approx(divergence(1.0, 1.1), rel=1e-3)
    assert found["b"][2] == pytest.approx(divergence(1.0, 1.2), rel=1e-3)
    assert networks[8].a.factor == networks[8].b.factor == 1.0  # the reference is as it was


def test_a_network_is_made_within_its_budget():
    sizes = {}
    for budget in (4500, 2500):
        case = make_case("tiny_cnn", "mixed", budget=budget, activations=8, epochs=1, learning_rate=0.01)
        sizes[budget] = footprint(case.network, SHAPE, case.format).weight_bytes
        assert sizes[budget] <= budget
    assert case.format.layers["convolution3"] < 8  # 4,608 of its 6,000 weights
    assert case.frozen.convolution3.bits == case.format.layers["convolution3"]
    assert sizes[4500] > 3500  # what may be used is used
    with pytest.raises(ValueError, match="budget: 1500: expected at least"):
        make_case("tiny_cnn", "mixed", budget=1500)
