"""Square Attack: its search on linear classifiers, where the best corner of the ball is known, and on trained ones."""

from itertools import pairwise, product

import pandas as pd
import pytest
import torch
import torchattacks
from torch import nn

from stages.attacks import pgd, square
from stages.classifier import Classifier
from stages.metrics.cells import Cell
from stages.metrics.flags import flags
from stages.metrics.worst_case import worst_case
from stages.models import tiny_cnn
from stages.models.layers import FloatLayers
from tests.attacks.linear import LinearNetwork, centred_inputs, linear_classifier
from tests.quantization.small_networks import MEAN, STD, fit, images, in_layers


def attacked(classifier, inputs, labels, epsilon, seed=0, **knobs):
    """Adversarial inputs [N, C, H, W] at one epsilon, and the result that holds them."""
    epsilons = torch.tensor([epsilon], dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    result = square.attack(classifier, inputs, labels, epsilons=epsilons, generator=generator, **knobs)
    return result.inputs[0], result


def seen_by(classifier):
    """A list that collects the inputs of every forward pass."""
    seen = []
    classifier.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].clone()))
    return seen


def first_two_queries(classifier, inputs, **knobs):
    """What is asked first, and after one square of the first size; the budget is too large for a smaller one."""
    seen = seen_by(classifier)
    attacked(classifier, inputs, torch.zeros(len(inputs), dtype=torch.int64), 0.25, queries=1001, **knobs)
    return seen[:2]


def margins(classifier, inputs, labels):
    logits = classifier(inputs).detach()
    others = logits.clone().scatter_(1, labels[:, None], -torch.inf)
    return logits.gather(1, labels[:, None]).squeeze(1) - others.amax(1)


def exact_problem(count=8, input_shape=(3, 4, 4)):
    """Integer weights and inputs in 64ths: float32 sums are exact, so that logits do not depend on the batch."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(-9, 10, (3, torch.Size(input_shape).numel()), generator=generator).float()
    classifier = Classifier(LinearNetwork(weights, torch.zeros(3)), input_shape, 3)
    inputs = torch.randint(16, 49, (count, *input_shape), generator=generator) / 64
    return classifier, inputs, classifier(inputs).argmax(1)


@pytest.mark.parametrize("input_shape", [(3, 4, 4), (1, 6, 6), (1, 5, 8)])
@pytest.mark.parametrize("clipped", [False, True])
def test_a_linear_margin_falls_nearly_as_far_as_it_can(input_shape, clipped):
    classifier = linear_classifier(2, input_shape)
    inputs = torch.rand(20, *input_shape) if clipped else centred_inputs(20, input_shape)
    labels = classifier(inputs).argmax(1)
    weights = classifier.network.last.weight.detach()
    slopes = (weights[labels] - weights[1 - labels]).reshape(inputs.shape)
    best_corner = (inputs - 0.3 * slopes.sign()).clamp(0, 1)
    before = margins(classifier, inputs, labels)
    possible = before - margins(classifier, best_corner, labels)
    adversarial, _ = attacked(classifier, inputs, labels, 0.3)
    reached = before - margins(classifier, adversarial, labels)
    assert (reached <= possible + 1e-4).all()
    assert (reached >= 0.9 * possible).all()


def test_every_value_is_at_an_end_of_its_range():
    classifier = linear_classifier(3)
    inputs = torch.cat([torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4), torch.rand(18, 3, 4, 4)])
    adversarial, _ = attacked(classifier, inputs, classifier(inputs).argmax(1), 0.3, queries=50)
    low, high = (inputs - 0.3).clamp(0, 1), (inputs + 0.3).clamp(0, 1)
    assert torch.minimum((adversarial - low).abs(), (adversarial - high).abs()).max() < 1e-6
    assert ((adversarial - low).abs() > 0.1).any() and ((adversarial - high).abs() > 0.1).any()


def test_the_best_that_was_seen_is_returned_after_the_full_budget():
    classifier, inputs, labels = exact_problem()
    seen = seen_by(classifier)
    adversarial, result = attacked(classifier, inputs, labels, 0.25, queries=60)
    *searched, judged = seen
    assert len(searched) == 60 and (result.queries == 60).all() and (result.backwards == 0).all()
    found = torch.stack([margins(classifier, candidates, labels) for candidates in searched])
    assert torch.equal(margins(classifier, adversarial, labels), found.amin(0))
    assert torch.equal(judged, adversarial)
    # Margins fall on after the first success.
    first = (found < 0).float().argmax(0)
    assert (found[first, range(len(inputs))] > found.amin(0)).any() and (found.amin(0) < 0).any()


def test_more_queries_on_the_same_seed_find_lower_margins():
    classifier = linear_classifier(10, (3, 8, 8))
    inputs = centred_inputs(30, (3, 8, 8))
    labels = classifier(inputs).argmax(1)
    found = [
        margins(classifier, attacked(classifier, inputs, labels, 0.05, queries=queries)[0], labels)
        for queries in (1, 10, 100, 1000)
    ]
    assert all((more <= fewer).float().mean() > 0.95 for fewer, more in pairwise(found))
    assert all(more.mean() < fewer.mean() for fewer, more in pairwise(found))


def test_the_search_starts_from_vertical_stripes():
    classifier = linear_classifier(2, (3, 6, 5))
    inputs = torch.full((40, 3, 6, 5), 0.5)
    labels = torch.zeros(40, dtype=torch.int64)
    stripes = attacked(classifier, inputs, labels, 0.25, queries=1)[0] - inputs
    assert torch.equal(stripes, stripes[:, :, :1].expand_as(stripes))
    assert set(stripes.flatten().tolist()) == {-0.25, 0.25}
    assert 0.4 < (stripes[..., 1:] != stripes[..., :-1]).float().mean() < 0.6
    assert (stripes > 0).float().mean(0).sub(0.5).abs().max() < 0.3  # of 40 fair draws, in every place


def test_a_query_recolours_one_square_anywhere_and_always_changes_something():
    classifier = linear_classifier(2, (1, 4, 4))
    inputs = torch.full((300, 1, 4, 4), 0.5)
    start, candidate = (asked[:, 0] for asked in first_two_queries(classifier, inputs, initial_fraction=0.25))
    changed = start != candidate
    assert changed.flatten(1).any(1).all()
    assert changed.any(0).all()
    explained = torch.zeros(300, dtype=torch.bool)
    for top, left in product(range(3), range(3)):
        window = torch.zeros(4, 4, dtype=torch.bool)
        window[top : top + 2, left : left + 2] = True
        colours = candidate[:, window]
        explained |= ~(changed & ~window).flatten(1).any(1) & (colours == colours[:, :1]).all(1)
    assert explained.all()


def test_channels_of_a_square_have_their_own_colours():
    classifier = linear_classifier(2, (3, 4, 4))
    inputs = torch.full((100, 3, 4, 4), 0.5)
    _, candidate = first_two_queries(classifier, inputs, initial_fraction=1.0)
    colours = candidate.flatten(2)
    assert (colours == colours[..., :1]).all()  # the square covers the image
    assert len({tuple(sample.tolist()) for sample in colours[..., 0]}) == 8


def test_sides_shrink_on_the_papers_schedule_rescaled_to_the_budget():
    sides = square.side_lengths((28, 28), 10_000, 0.05)
    assert len(sides) == 9_999
    # sqrt(0.05 * 784 / 2^k) = 6.26, 4.43, 3.13, 2.21, 1.57, 1.11, and below 1
    steps = [(10, 6), (40, 4), (150, 3), (800, 2), (1000, 2), (7999, 1)]
    assert sides == [side for count, side in steps for _ in range(count)]
    assert square.side_lengths((28, 28), 1000, 0.05) == sides[9::10]
    assert square.side_lengths((28, 28), 1, 0.05) == []
    assert set(square.side_lengths((28, 28), 50, 0.0)) == {1}
    assert square.side_lengths((4, 9), 1001, 1.0)[0] == 4  # no higher than the image


def test_a_sample_does_not_depend_on_those_beside_it():
    classifier, inputs, labels = exact_problem()
    together, _ = attacked(classifier, inputs, labels, 0.25, queries=40)
    for count in (1, 3):
        alone, _ = attacked(classifier, inputs[:count], labels[:count], 0.25, queries=40)
        assert torch.equal(alone, together[:count])
    exchanged = inputs.flip(0)
    exchanged[2] = inputs[2]
    targets = classifier(exchanged).argmax(1)
    assert torch.equal(attacked(classifier, exchanged, targets, 0.25, queries=40)[0][2], together[2])


def test_an_epsilon_does_not_depend_on_the_others_and_zeros_ask_nothing():
    classifier, inputs, labels = exact_problem()
    table = torch.tensor([0.25, 0.0, 0.125, 0.25, 0.0, 0.25, 0.125, 0.25], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    result = square.attack(classifier, inputs, labels, epsilons=table[None], generator=generator, queries=40)
    for epsilon in (0.125, 0.25):
        alone, _ = attacked(classifier, inputs, labels, epsilon, queries=40)
        assert torch.equal(alone[table == epsilon], result.inputs[0, table == epsilon])
    assert torch.equal(result.inputs[0, table == 0], inputs[table == 0])
    assert result.queries[0].tolist() == [40 * (epsilon > 0) for epsilon in table]


def test_nothing_but_logits_is_asked_for():
    class Closed(Classifier):
        def forward(self, inputs):
            assert not torch.is_grad_enabled() and not self.training
            assert inputs.is_contiguous(memory_format=torch.channels_last)
            return super().forward(inputs)

        def gradient_view(self, generator=None, samples=1):
            raise AssertionError("a black-box attacker has no gradients")

    open_to_all = linear_classifier(3)
    closed = Closed(open_to_all.network, (3, 4, 4), 3).train()
    inputs = centred_inputs(5).contiguous(memory_format=torch.channels_last)
    labels = open_to_all(inputs).argmax(1)
    assert attacked(closed, inputs, labels, 0.3, queries=50)[1].success.any()
    assert closed.training


@pytest.mark.parametrize("shape", [(48,), (12, 4), (3, 2, 2, 4)])
def test_other_inputs_than_images_are_refused_by_their_shape(shape):
    inputs = centred_inputs(5, shape)
    with pytest.raises(ValueError, match=rf"^inputs: shape \[5, .*{shape[-1]}\]: expected images \[N, C, H, W\]$"):
        attacked(linear_classifier(3, shape), inputs, torch.zeros(5, dtype=torch.int64), 0.1)


@pytest.fixture(scope="module")
def trained():
    """A small trained classifier, and images of which it classifies most correctly."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = in_layers(tiny_cnn, FloatLayers(MEAN, STD))
        fit(network, epochs=3, learning_rate=0.05)
    torch.set_num_threads(threads)
    return Classifier(network.requires_grad_(False), (1, 28, 28), 10), *images("test", 200)


class Masked(nn.Module):
    """A network whose gradients vanish: by rounded inputs, or by logits as of a softmax at temperature 1e-3."""

    def __init__(self, network, by):
        super().__init__()
        self.network, self.by = network, by

    def forward(self, inputs):
        if self.by == "rounding":
            return self.network((inputs * 255).round() / 255)
        return self.network(inputs) / 1e-3


EPSILON = 8 / 255
CELL = Cell("data", "net", "fp32", "none", 0, "white_box", "", "pgd", "linf", "digital", EPSILON, 0)


def flags_of(classifier, inputs, labels):
    """The flags of PGD's row where Square, of 300 queries, attacks the same network at the same epsilon."""
    generator = torch.Generator().manual_seed(0)
    epsilons = torch.tensor([EPSILON, 1.0], dtype=torch.float64)
    by_gradient, at_1 = pgd.attack(classifier, inputs, labels, epsilons=epsilons, generator=generator).success
    by_queries = attacked(classifier, inputs, labels, EPSILON, queries=300)[1].success[0]
    found = {
        CELL.clean: classifier(inputs).argmax(1) != labels,
        CELL: by_gradient,
        CELL._replace(epsilon=1.0): at_1,
        CELL._replace(threat="black_box", attack="square"): by_queries,
    }
    costs = dict.fromkeys(("l0", "l1", "l2", "linf", "forwards", "backwards", "gradient_norm"), 1.0) | {
        "eot_samples": 1,
        "stochastic": False,
        "withstood": float("nan"),
    }
    outcomes = {cell: pd.DataFrame({"correct": (~wrong).numpy()} | costs) for cell, wrong in found.items()}
    flagged = flags(outcomes | worst_case(outcomes), {})
    assert flagged.get(CELL, set()) == flagged.get(CELL.worst_case, set())
    return flagged.get(CELL, set())


@pytest.mark.parametrize("by", ["rounding", "temperature"])
def test_masked_gradients_are_flagged_by_queries(trained, by):
    classifier, inputs, labels = trained
    masked = Classifier(Masked(classifier.network, by), (1, 28, 28), 10)
    assert "black_box_beats_white_box" in flags_of(masked, inputs, labels)


def test_sound_gradients_are_not(trained):
    assert flags_of(*trained) == set()


def test_no_weaker_than_torchattacks_at_the_same_budget(trained):
    classifier, inputs, labels = trained
    budget = {"queries": 200, "initial_fraction": 0.3}
    ours, theirs = [], []
    for seed in range(3):
        _, result = attacked(classifier, inputs, labels, 4 / 255, seed, **budget)
        ours.append(1 - result.success.float().mean())
        peer = torchattacks.Square(Marked(classifier), eps=4 / 255, n_queries=200, p_init=0.3, seed=seed)
        with torch.random.fork_rng():
            adversarial = peer(inputs.contiguous(), labels)
        theirs.append((classifier(adversarial).argmax(1) == labels).float().mean())
    assert 0.1 < sum(theirs) / 3 < 0.9  # neither out of reach nor all broken
    assert sum(ours) / 3 <= sum(theirs) / 3 + 0.01


class Marked(nn.Module):
    """A module with a parameter, from which torchattacks takes the device."""

    def __init__(self, network):
        super().__init__()
        self.network, self.device_marker = network, nn.Parameter(torch.empty(0))

    def forward(self, inputs):
        return self.network(inputs)
