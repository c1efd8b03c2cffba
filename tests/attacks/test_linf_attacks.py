"""What every L-infinity attack promises, on linear classifiers whose adversarial inputs are known in closed form."""

import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from stages.attacks import apgd, apgd_targeted, auto_attack, fgsm, noise, pgd, square
from stages.classifier import Classifier
from tests.attacks.linear import boundary_distance, centred_inputs, linear_classifier

ATTACKS = {
    "fgsm": fgsm.attack,
    "noise": noise.attack,
    "pgd": pgd.attack,
    "pgd without random start": partial(pgd.attack, random_start=False),
    "pgd with restarts": partial(pgd.attack, restarts=3),
    "pgd on dlr with scaled logits": partial(pgd.attack, loss="dlr", scale_logits=True),
    "pgd on the margin, stopped": partial(pgd.attack, loss="margin", restarts=2, stop_when_broken=True),
    "apgd": partial(apgd.attack, steps=10),
    "apgd on dlr": partial(apgd.attack, steps=10, restarts=2, loss="dlr"),
    "apgd targeted": partial(apgd_targeted.attack, steps=10, targets=2),
    "apgd targeted, stopped": partial(apgd_targeted.attack, steps=10, stop_when_broken=True),
    "square": partial(square.attack, queries=20),
    "auto_attack": partial(auto_attack.attack, steps=5, targets=1, queries=5),
}
EPSILONS = torch.tensor([0, 2 / 255, 0.02, 0.1, 0.3, 1], dtype=torch.float64)

every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
every_gradient_attack = pytest.mark.parametrize(
    "attack",
    [
        pytest.param(attack, id=name)
        for name, attack in ATTACKS.items()
        if name not in ("noise", "square") and "auto_attack" not in name
    ],
)


def attacked(attack, classifier, inputs, labels, epsilons=EPSILONS, seed=0):
    return attack(classifier, inputs, labels, epsilons=epsilons, generator=torch.Generator().manual_seed(seed))


def problem(num_classes=3, count=40, input_shape=(3, 4, 4)):
    classifier = linear_classifier(num_classes, input_shape)
    inputs = centred_inputs(count, input_shape)
    return classifier, inputs, classifier(inputs).argmax(1)


def assert_same(result, other):
    for name in ("inputs", "distance", "queries", "backwards", "success"):
        assert torch.equal(getattr(result, name), getattr(other, name)), name


@every_gradient_attack
@pytest.mark.parametrize("input_shape", [(3, 4, 4), (48,), (1, 6, 8)])
def test_two_classes_fall_exactly_where_epsilon_reaches_the_boundary(attack, input_shape):
    classifier, inputs, labels = problem(2, 64, input_shape)
    distances = boundary_distance(classifier, inputs, labels)
    epsilons = distances.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
    assert epsilons.max() < 0.4
    result = attacked(attack, classifier, inputs, labels, epsilons)
    for epsilon, success in zip(epsilons, result.success, strict=True):
        decided = (distances / epsilon - 1).abs() > 1e-4  # a float32 logit cannot tell closer calls
        assert torch.equal(success[decided], (distances < epsilon)[decided])
        assert 0 < success.sum() < len(success)


def test_a_step_is_along_the_sign_of_the_weights_difference():
    classifier, inputs, labels = problem(2, 8)
    weights = classifier.network.last.weight.detach()
    direction = (weights[1 - labels] - weights[labels]).sign().reshape(inputs.shape)
    result = attacked(fgsm.attack, classifier, inputs, labels, torch.tensor([0.25]))
    torch.testing.assert_close(result.inputs[0], inputs + 0.25 * direction)


@every_gradient_attack
@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_nothing_falls_before_the_boundary_and_most_falls_beyond(attack, num_classes):
    classifier, inputs, labels = problem(num_classes, 64)
    distances = boundary_distance(classifier, inputs, labels)
    table = torch.stack([0.99 * distances, 2 * distances])
    before, beyond = attacked(attack, classifier, inputs, labels, table).success
    assert not before.any()
    assert beyond.float().mean() > 0.9


@pytest.mark.parametrize("attack", [pgd.attack, apgd.attack, apgd_targeted.attack])
@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_a_linear_classifier_collapses_at_epsilon_1(attack, num_classes):
    classifier, inputs, labels = problem(num_classes)
    assert attacked(attack, classifier, inputs, labels, torch.tensor([1.0])).success.all()


def test_noise_is_weaker_than_an_attacker():
    classifier, inputs, labels = problem(2, 64)
    epsilon = boundary_distance(classifier, inputs, labels).max()[None] * 1.01
    assert attacked(fgsm.attack, classifier, inputs, labels, epsilon).success.all()
    assert attacked(noise.attack, classifier, inputs, labels, epsilon).success.float().mean() < 0.5


def test_noise_is_uniform_in_the_ball_and_scales_with_epsilon():
    classifier, inputs, labels = problem(2, 1000)
    small, large = attacked(noise.attack, classifier, inputs, labels, torch.tensor([0.1, 0.4])).inputs - inputs
    torch.testing.assert_close(4 * small, large, rtol=0, atol=1e-6)
    quantiles = (large / 0.4).double().flatten().quantile(torch.tensor([0, 0.25, 0.5, 0.75, 1], dtype=torch.float64))
    assert (quantiles - torch.tensor([-1, -0.5, 0, 0.5, 1])).abs().max() < 0.02


@every_attack
def test_results_are_in_the_ball_and_in_the_box(attack):
    classifier = linear_classifier(3)
    inputs = torch.cat([torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4), torch.rand(48, 3, 4, 4)])
    labels = classifier(inputs).argmax(1)
    result = attacked(attack, classifier, inputs, labels)
    perturbations = (result.inputs.double() - inputs.double()).abs().flatten(2).amax(2)
    assert (perturbations <= EPSILONS[:, None]).all()
    assert (perturbations[1:] > 0.5 * EPSILONS[1:, None]).all()
    assert (result.inputs.min(), result.inputs.max()) == (0, 1)
    assert torch.equal(result.distance, perturbations.float())


@every_attack
def test_shapes_and_types(attack):
    classifier, inputs, labels = problem(3, 5)
    result = attacked(attack, classifier, inputs, labels)
    assert (result.inputs.shape, result.inputs.dtype) == ((6, 5, 3, 4, 4), torch.float32)
    assert (result.distance.shape, result.distance.dtype) == ((6, 5), torch.float32)
    assert (result.queries.shape, result.queries.dtype) == ((6, 5), torch.int64)
    assert (result.backwards.shape, result.backwards.dtype) == ((6, 5), torch.int64)
    assert (result.success.shape, result.success.dtype) == ((6, 5), torch.bool)
    assert not result.inputs.requires_grad and result.inputs.grad_fn is None


@every_attack
def test_epsilon_0_is_the_clean_input(attack):
    classifier, inputs, labels = problem(3)
    labels[:7] = (labels[:7] + 1) % 3
    result = attacked(attack, classifier, inputs, labels, torch.tensor([0.0]))
    assert torch.equal(result.inputs[0], inputs)
    assert torch.equal(result.success[0], torch.arange(40) < 7)
    assert not result.distance.any() and not result.queries.any() and not result.backwards.any()


@every_attack
def test_success_is_the_classifiers_own_error(attack):
    classifier, inputs, labels = problem(3)
    result = attacked(attack, classifier, inputs, labels)
    expected = torch.stack([classifier(candidates).argmax(1) != labels for candidates in result.inputs])
    assert torch.equal(result.success, expected)
    assert 0 < expected.sum() < expected.numel()


@pytest.mark.parametrize("attack", [pgd.attack, partial(pgd.attack, restarts=2), apgd.attack])
def test_success_is_judged_on_the_classifier_and_not_on_its_gradient_view(attack):
    class Misleading(Classifier):
        def gradient_view(self, generator=None, samples=1):
            return Negated(self.network)

    class Negated(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, inputs):
            return -self.network(inputs)

    honest, inputs, labels = problem(2)
    classifier = Misleading(honest.network, honest.input_shape, 2)
    result = attacked(attack, classifier, inputs, labels, torch.tensor([0.3]))
    assert not result.success.any()
    assert (classifier.gradient_view()(result.inputs[0]).argmax(1) != labels).all()


@every_attack
def test_no_epsilon_depends_on_the_others(attack):
    classifier, inputs, labels = problem()
    together = attacked(attack, classifier, inputs, labels)
    for row, epsilon in enumerate(EPSILONS):
        alone = attacked(attack, classifier, inputs, labels, epsilon[None])
        assert torch.equal(alone.inputs[0], together.inputs[row])
    backwards = attacked(attack, classifier, inputs, labels, EPSILONS.flip(0))
    assert torch.equal(backwards.inputs.flip(0), together.inputs)


@every_attack
def test_epsilons_for_all_samples_and_epsilons_per_sample_agree(attack):
    classifier, inputs, labels = problem()
    one_each = EPSILONS[:, None].expand(-1, len(inputs))
    assert_same(attacked(attack, classifier, inputs, labels), attacked(attack, classifier, inputs, labels, one_each))


@every_attack
def test_each_sample_has_its_own_epsilon(attack):
    classifier, inputs, labels = problem(3, 6)
    own = torch.tensor([[0, 0.1, 0.3, 0.1, 0.05, 0.3]], dtype=torch.float64)
    result = attacked(attack, classifier, inputs, labels, own)
    assert (result.distance <= own.float()).all() and (result.distance >= 0.5 * own).all()
    for row, epsilon in enumerate([0, 0.1, 0.3, 0.1, 0.05, 0.3]):
        alone = attacked(attack, classifier, inputs, labels, torch.tensor([epsilon], dtype=torch.float64))
        torch.testing.assert_close(result.inputs[0, row], alone.inputs[0, row], rtol=0, atol=1e-6)


class OneByOne(nn.Module):
    """Computes each sample by itself, so that the rest of the batch changes not even a rounding."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, inputs):
        return torch.cat([self.network(sample) for sample in inputs.split(1)])


@every_attack
def test_the_samples_behind_change_nothing(attack):
    linear, inputs, labels = problem(3, 9)
    classifier = Classifier(OneByOne(linear.network), linear.input_shape, 3)
    whole = attacked(attack, classifier, inputs, labels)
    for count in (1, 3, 8):
        part = attacked(attack, classifier, inputs[:count], labels[:count])
        for name in ("inputs", "distance", "queries", "backwards", "success"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[:, :count]), (count, name)


@every_attack
def test_other_samples_in_the_batch_change_nothing(attack):
    linear, inputs, labels = problem(3, 8)
    classifier = Classifier(OneByOne(linear.network), linear.input_shape, 3)
    other_inputs, other_labels = inputs.flip(0).clone(), (labels.flip(0) + 1) % 3
    other_inputs[4], other_labels[4] = inputs[4], labels[4]
    expected = attacked(attack, classifier, inputs, labels)
    assert torch.equal(attacked(attack, classifier, other_inputs, other_labels).inputs[:, 4], expected.inputs[:, 4])


@pytest.mark.parametrize("attack", [fgsm.attack, partial(pgd.attack, random_start=False)])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_batch_size_does_not_matter_without_random_starts(attack, batch_size):
    classifier, inputs, labels = problem(3, 8)
    whole = attacked(attack, classifier, inputs, labels)
    parts = [
        attacked(attack, classifier, *part)
        for part in zip(inputs.split(batch_size), labels.split(batch_size), strict=True)
    ]
    torch.testing.assert_close(torch.cat([part.inputs for part in parts], 1), whole.inputs, rtol=0, atol=1e-6)
    assert torch.equal(torch.cat([part.success for part in parts], 1), whole.success)


@every_attack
def test_the_seed_decides_every_byte(attack):
    classifier, inputs, labels = problem()
    torch.manual_seed(1)
    first = attacked(attack, classifier, inputs, labels, seed=3)
    torch.manual_seed(2)
    assert_same(first, attacked(attack, classifier, inputs, labels, seed=3))


# Ten steps end in the same corner on a linear classifier, wherever they start.
@pytest.mark.parametrize("attack", [partial(pgd.attack, steps=1), noise.attack])
def test_another_seed_gives_other_inputs(attack):
    classifier, inputs, labels = problem()
    first, second = (attacked(attack, classifier, inputs, labels, torch.tensor([0.1]), seed=seed) for seed in (3, 4))
    assert not torch.equal(first.inputs, second.inputs)


@every_attack
def test_global_random_states_stay(attack):
    classifier, inputs, labels = problem()
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    attacked(attack, classifier, inputs, labels)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


@every_attack
def test_the_classifier_comes_back_as_it_was(attack):
    classifier, inputs, labels = problem()
    classifier.network.dropout = nn.Dropout()
    classifier.network.train()
    classifier.network.last.eval()
    classifier.network.last.bias.requires_grad_(False)
    classifier.network.last.weight.grad = torch.ones_like(classifier.network.last.weight)
    modes = [module.training for module in classifier.modules()]
    state = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    given = inputs.clone(), labels.clone()
    attacked(attack, classifier, inputs, labels)
    assert [module.training for module in classifier.modules()] == modes
    assert {name: tensor.tolist() for name, tensor in classifier.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in state.items()
    }
    assert classifier.network.last.weight.requires_grad and not classifier.network.last.bias.requires_grad
    assert (classifier.network.last.weight.grad == 1).all() and classifier.network.last.bias.grad is None
    assert torch.equal(inputs, given[0]) and torch.equal(labels, given[1]) and not inputs.requires_grad


@every_attack
def test_the_classifier_is_attacked_in_evaluation_mode(attack):
    classifier, inputs, labels = problem()
    classifier.network = nn.Sequential(nn.Dropout(0.9), classifier.network)
    with_dropout = attacked(attack, classifier.train(), inputs, labels)
    assert_same(with_dropout, attacked(attack, linear_classifier(3), inputs, labels))


@every_attack
@pytest.mark.parametrize("value", [-0.25, 1.5, float("nan")])
def test_inputs_outside_the_box_are_refused(attack, value):
    classifier, inputs, labels = problem()
    inputs[3, 1, 2, 0] = value
    with pytest.raises(ValueError, match=rf"^inputs: {value}: expected values in \[0, 1\]$"):
        attacked(attack, classifier, inputs, labels)


@every_attack
@pytest.mark.parametrize("epsilon", [-0.1, 8.0, float("nan")])
def test_epsilons_outside_the_unit_interval_are_refused(attack, epsilon):
    with pytest.raises(ValueError, match=rf"^epsilons: {epsilon}: expected values in \[0, 1\]$"):
        attacked(attack, *problem(), torch.tensor([epsilon], dtype=torch.float64))


@every_attack
@pytest.mark.parametrize("shape", [(), (2, 39), (2, 1, 40)])
def test_epsilons_of_another_shape_are_refused(attack, shape):
    with pytest.raises(ValueError, match=r"^epsilons: shape .*: expected \[E\] or \[E, 40\]$"):
        attacked(attack, *problem(), torch.zeros(shape))


@pytest.mark.parametrize(
    ("attack", "forwards", "backwards"),
    [
        (noise.attack, 0, 0),
        (fgsm.attack, 1, 1),
        (pgd.attack, 10 + 1, 10),  # and a look at the last point
        (partial(pgd.attack, steps=3, keep_best=False), 3, 3),
        (partial(pgd.attack, steps=3, restarts=4), 4 * (3 + 1) + 4, 4 * 3),  # and a query to choose among them
        (partial(apgd.attack, steps=7), 7 + 1, 7),
        (partial(apgd.attack, steps=7, restarts=2), 2 * (7 + 1) + 2, 2 * 7),
        (partial(apgd_targeted.attack, steps=7, targets=1), 1 + 7 + 1, 7),
        (partial(apgd_targeted.attack, steps=7, restarts=2), 1 + 4 * (7 + 1) + 4, 4 * 7),  # of 3 classes 2 are targets
    ],
)
def test_every_sample_gets_the_full_budget(attack, forwards, backwards):
    classifier, inputs, labels = problem(3, 7)
    labels[:3] = (labels[:3] + 1) % 3  # already misclassified
    counted = {"forward": 0, "backward": 0}

    def count(module, inputs, logits):
        counted["forward"] += len(logits)
        if logits.requires_grad:
            counted["graph"] = counted.get("graph", 0) + len(logits)
            logits.register_hook(lambda gradient: counted.update(backward=counted["backward"] + len(gradient)))

    classifier.requires_grad_(False).network.last.register_forward_hook(count)
    result = attacked(attack, classifier, inputs, labels, torch.tensor([0.05, 0.5]))
    assert (result.queries == forwards).all()
    assert (result.backwards == backwards).all()
    judging = 2 * 7
    assert counted["forward"] == 2 * 7 * forwards + judging
    assert counted["backward"] == counted.get("graph", 0) == 2 * 7 * backwards  # no graph that nobody follows


@every_attack
def test_attacks_run_where_gradients_are_off(attack):
    classifier, inputs, labels = problem(2)
    expected = attacked(attack, classifier, inputs, labels)
    with torch.no_grad():
        assert_same(attacked(attack, classifier, inputs, labels), expected)


@every_attack
def test_the_memory_layout_of_the_inputs_is_kept(attack):
    classifier, inputs, labels = problem(3, 6)
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    layouts = []
    classifier.network.register_forward_hook(
        lambda module, given, logits: layouts.append(given[0].is_contiguous(memory_format=torch.channels_last))
    )
    result = attacked(attack, classifier, inputs, labels)
    assert all(layouts) and layouts
    assert all(row.is_contiguous(memory_format=torch.channels_last) for row in result.inputs)


def test_a_network_without_parameters_is_attacked():
    class Frozen(nn.Module):
        def __init__(self, weights, biases):
            super().__init__()
            self.register_buffer("weights", weights)
            self.register_buffer("biases", biases)

        def forward(self, inputs):
            return inputs.flatten(1) @ self.weights.T + self.biases

    classifier, inputs, labels = problem()
    last = classifier.network.last
    frozen = Classifier(Frozen(last.weight.detach(), last.bias.detach()), (3, 4, 4), 3)
    assert attacked(pgd.attack, frozen, inputs, labels, torch.tensor([1.0])).success.all()


def test_more_and_smaller_steps_beat_one_where_the_loss_bends():
    class Bent(nn.Module):
        """Class 1 wins where both values are near 0.6; the gradient of the first is 0 until the second has moved."""

        def forward(self, inputs):
            first, second = inputs.unbind(1)
            score = second + 4 * first * torch.relu(second - 0.5)
            return torch.stack([torch.full_like(score, 0.8), score], 1)

    classifier = Classifier(Bent(), (2,), 2)
    inputs, labels = torch.full((4, 2), 0.4), torch.zeros(4, dtype=torch.int64)
    epsilons = torch.tensor([0.2])
    assert not attacked(fgsm.attack, classifier, inputs, labels, epsilons).success.any()
    without_start = partial(pgd.attack, random_start=False)
    assert attacked(without_start, classifier, inputs, labels, epsilons).success.all()
