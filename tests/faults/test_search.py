"""Progressive bit search and the attacks that are made of it."""

from copy import deepcopy
from itertools import islice

import pytest
import torch
from torch.nn.functional import cross_entropy

from stages.faults import bit_flip_attack, search, targeted_bit_flip
from stages.faults.memory import Memory
from stages.faults.replay import Replay
from stages.faults.search import LARGEST_LOSS, Objective, _gradients, losses, predictions, progressive_search
from tests.faults.networks import CLASSES, floating, frozen, images, same, state


def drawing():
    return torch.Generator().manual_seed(0)


def first(steps, count):
    return list(islice(steps, count))


@pytest.mark.parametrize(("bits", "seed"), [(8, 2), (4, 2), (1, 1)])
def test_the_search_finds_the_best_single_flip_that_exhaustive_search_finds(bits, seed):
    objective, memory, inputs, found = exhaustive(bits, seed)
    (step,) = first(progressive_search(memory, inputs, objective, drawing(), each=10), 1)
    assert step.loss == max(found)
    assert step.flips == [found.index(max(found))]


@pytest.mark.parametrize(("bits", "seed"), [(4, 0), (2, 0)])
def test_where_gradients_mislead_it_finds_one_of_the_best(bits, seed):
    objective, memory, inputs, found = exhaustive(bits, seed)
    (step,) = first(progressive_search(memory, inputs, objective, drawing(), each=10), 1)
    assert step.loss == found[step.flips[0]]
    assert step.loss in sorted(found)[-5:]


def exhaustive(bits, seed):
    """A small network's loss after each single flip of its weights."""
    network = frozen(bits, seed)
    inputs, labels = images(network, 24)
    memory, objective, replay = Memory(network, "weights"), Objective.mean(labels), Replay(network, inputs)
    found = []
    for address in range(memory.size):
        stored, _ = memory.located(address)
        memory.flip([address])
        found.append(objective(replay.changed([stored.layer])).item())
        memory.flip([address])
    return objective, memory, inputs, found


@pytest.mark.parametrize("bits", [8, 4])
def test_the_first_candidates_give_the_flips_of_the_full_search(bits):
    network = frozen(bits)
    inputs, labels = images(network)
    before, flips = state(network), []
    for tries in (0, 3):
        memory = Memory(network, "weights")
        steps = progressive_search(memory, inputs, Objective.mean(labels), drawing(), tries=tries)
        flips.append([step.flips for step in first(steps, 6)])
        memory.restore()
        assert same(state(network), before)
    assert flips[0] == flips[1]


def test_a_search_leaves_the_flips_that_it_names_and_its_loss_is_that_of_the_network():
    network = frozen(8)
    inputs, labels = images(network)
    before = state(network)
    steps = first(bit_flip_attack.attack(network, inputs, labels, flips=[], generator=drawing(), batch_size=20), 3)
    with torch.no_grad():
        logits = network(inputs[:20])
    assert torch.equal(steps[-1].logits.view(torch.int32), logits.view(torch.int32))
    assert steps[-1].loss == pytest.approx(losses(logits, labels[:20]).mean().item())
    assert [step.loss for step in steps] == sorted(step.loss for step in steps)
    memory = Memory(network)
    memory.flip(address for step in steps for address in step.flips)
    assert same(state(network), before)


@pytest.mark.parametrize("network", [frozen(8), floating()])
def test_one_flip_of_a_float_word_is_enough(network):
    inputs, labels = images(network)
    before = state(network)
    (step,) = first(bit_flip_attack.attack(network, inputs, labels, flips=[], generator=drawing(), region="floats"), 1)
    stored, bit = (memory := Memory(network, "floats")).located(step.flips[0])
    assert stored.is_float and bit.bit in range(23, 32)
    most_common = labels.bincount().max().item() / len(labels)
    assert (predictions(step.logits) == labels).float().mean() <= 1 - most_common + 0.1
    memory.flip(step.flips)
    assert same(state(network), before)


def test_logits_that_are_no_numbers_are_wrong_and_cost_the_most_and_infinite_ones_cost_what_they_predict():
    nan, inf = float("nan"), float("inf")
    rows = [[nan, 1.0], [2.0, 1.0], [1e38, -1e38], [inf, 0.0], [inf, 3e38], [1.0, -inf], [-inf, 1.0], [1e37, 2e37]]
    logits, labels = torch.tensor(rows), torch.tensor([1, 0, 1, 0, 1, 0, 0, 0])
    assert predictions(logits).tolist() == [-1, 0, 0, 0, 0, 0, 1, 1]
    right = cross_entropy(logits[1:2], labels[1:2]).item()
    most = LARGEST_LOSS
    assert losses(logits, labels).tolist() == pytest.approx([most, right, most, 0, most, 0, most, most])


def test_a_network_of_nans_ends_the_search():
    network = frozen(8)
    inputs, labels = images(network)
    network.classifier.bias.fill_(float("nan"))
    assert list(progressive_search(Memory(network), inputs, Objective.mean(labels), drawing())) == []


@pytest.mark.parametrize("value", [float("inf"), 3e38, float("nan")])
@pytest.mark.parametrize("where", ["convolution.weight_scale", "norm.running_var", "inner.bias"])
def test_a_search_goes_on_from_words_that_flips_have_made_infinite_or_no_numbers(where, value):
    network = frozen(1, seed=4, activation_bits=1)
    inputs, labels = images(network)
    network.state_dict()[where][0] = value
    with torch.no_grad():
        found = predictions(network(inputs))
    memory = Memory(network, "weights")
    steps = first(progressive_search(memory, inputs, Objective.mean(labels), drawing(), each=4), 5)
    if (found == labels).any():
        assert len(steps) == 5 and steps[-1].loss > steps[0].loss
    else:
        assert steps == []


def test_samples_that_are_surely_right_have_a_slope_and_those_that_cost_the_most_have_none():
    objective = Objective.mean(torch.tensor([0, 0, 0]))
    logits = torch.tensor([[500.0, 0.0], [-500.0, 0.0], [1.0, 0.0]], requires_grad=True)
    (slope,) = torch.autograd.grad(objective.slope(logits), logits)
    assert slope[0, 0] < 0 < slope[0, 1] and slope[1].tolist() == [0, 0]
    (plain,) = torch.autograd.grad(objective(logits), logits)
    assert slope[2].tolist() == pytest.approx(plain[2].tolist()) and plain[0].tolist() == [0, 0]


def test_where_no_gradient_helps_bits_are_tried_at_random(monkeypatch):
    network = frozen(8)
    inputs, labels = images(network)
    memory = Memory(network, "weights")
    monkeypatch.setattr(search, "_gradients", lambda *_: [torch.zeros(len(stored.values)) for stored in memory.tensors])
    steps = first(progressive_search(memory, inputs, Objective.mean(labels), drawing()), 3)
    assert len(steps) == 3 and all(len(step.flips) == 1 for step in steps)
    assert [step.loss for step in steps] == sorted(step.loss for step in steps)


def test_of_exponents_that_promise_as_much_the_best_of_each_tensor_is_tried(monkeypatch):
    network = floating()
    inputs, labels = images(network)
    tried = []
    monkeypatch.setattr(
        search, "_tried", lambda memory, replay, candidate, objective: tried.append(candidate.layer) or 1
    )
    attack = bit_flip_attack.attack(network, inputs, labels, flips=[], generator=drawing(), region="weights")
    first(attack, 1)
    # One that raises a value and one that lowers one.
    assert sorted(tried) == sorted(2 * ["classifier", "convolution", "inner", "shortcut"])


@pytest.mark.parametrize("bits", [8, 1])
def test_bits_that_checksums_watch_can_be_spared(bits):
    network = frozen(bits)
    inputs, labels = images(network)
    attack = bit_flip_attack.attack(
        network, inputs, labels, flips=[], generator=drawing(), region="inner_weights", spare=2
    )
    steps = first(attack, 10)
    memory = Memory(network, "inner_weights")
    assert {memory.located(address)[1].bit for step in steps for address in step.flips} <= set(range(bits - 2))
    assert bool(steps) == (bits > 2)


@pytest.mark.parametrize("mode", ["all_to_one", "one_to_one", "one_to_one_stealthy"])
def test_targeted_flips_send_the_images_that_are_meant_to_the_target(mode):
    network = frozen(8, seed=1)
    inputs, labels = images(network, 200)
    counts = labels.bincount(minlength=CLASSES)
    source, target = (int(place) for place in counts.argsort(descending=True)[[0, 1]])
    goal = (target, None if mode == "all_to_one" else source)
    attack = targeted_bit_flip.attack(
        network, inputs, labels, flips=[], generator=drawing(), goal=goal, mode=mode, region="weights", batch_size=10
    )
    steps = first(attack, 40)
    with torch.no_grad():
        found = predictions(network(inputs))
    aimed = labels == source if mode != "all_to_one" else labels != target
    assert (found[aimed] == target).float().mean() > 0.9
    assert len(steps[-1].logits) == (20 if mode == "one_to_one_stealthy" else 10)
    if mode == "one_to_one_stealthy":
        assert (found[~aimed] == labels[~aimed]).float().mean() > 0.3


def test_a_stealthy_search_has_as_many_images_of_other_classes_as_of_the_source():
    network = frozen(8, seed=1)
    inputs, labels = images(network, 200)
    source, target = labels.bincount(minlength=CLASSES).argsort(descending=True)[:2].tolist()
    kept = torch.cat([(labels == source).nonzero().flatten()[:3], (labels != source).nonzero().flatten()])
    knobs = {"goal": (target, source), "mode": "one_to_one_stealthy", "region": "weights"}
    steps = targeted_bit_flip.attack(network, inputs[kept], labels[kept], flips=[], generator=drawing(), **knobs)
    assert len(next(steps).logits) == 6


def test_targets_and_sources_are_drawn_and_differ():
    generator = torch.Generator().manual_seed(0)
    goals = [targeted_bit_flip.classes(CLASSES, generator, mode="one_to_one") for _ in range(40)]
    assert all(target != source for target, source in goals)
    assert {target for target, _ in goals} == set(range(CLASSES))
    assert targeted_bit_flip.classes(CLASSES, generator)[1] is None


def test_gradients_are_those_of_small_changes():
    network = floating()
    inputs, labels = images(network)
    memory, objective = Memory(network), Objective.mean(labels)
    found = _gradients(memory, inputs, objective, network(inputs))
    precise = deepcopy(network).double()
    for stored, gradient in zip(memory.tensors, found, strict=True):
        values = precise.state_dict()[stored.name].view(-1)
        before, ends = values[0].item(), []
        for step in (1e-6, -1e-6):
            values[0] = before + step
            with torch.no_grad():
                ends.append(objective(precise(inputs.double())).item())
        values[0] = before
        assert gradient[0].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-3, abs=1e-5), stored.name
