"""PGD in the Euclidean norm, and the balls that gradient attacks climb in."""

from functools import partial

import pytest
import torch
from torch import nn

from stages.attacks import pgd_l2
from stages.attacks.balls import BALLS, L2Ball, LinfBall
from stages.attacks.distances import l2
from stages.classifier import Classifier
from tests.attacks.linear import boundary_distance, centred_inputs, linear_classifier
from tests.quantization.small_networks import images, quantized_case

SHAPES = [(12,), (4, 12), (3, 4, 4)]
ATTACKS = {
    "pgd_l2": pgd_l2.attack,
    "without random start": partial(pgd_l2.attack, random_start=False),
    "on dlr, last of two": partial(pgd_l2.attack, loss="dlr", restarts=2, keep_best=False),
    "stopped": partial(pgd_l2.attack, loss="margin", restarts=2, stop_when_broken=True),
}
EPSILONS = torch.tensor([0, 0.05, 0.3, 1, 7], dtype=torch.float64)  # 7 is more than the diagonal of 48 values
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())


def attacked(attack, classifier, inputs, labels, epsilons=EPSILONS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return attack(classifier, inputs, labels, epsilons=epsilons, generator=generator)


def problem(num_classes=3, count=40, input_shape=(3, 4, 4)):
    classifier = linear_classifier(num_classes, input_shape)
    inputs = centred_inputs(count, input_shape)
    return classifier, inputs, classifier(inputs).argmax(1)


@every_attack
@pytest.mark.parametrize("input_shape", SHAPES)
def test_two_classes_fall_exactly_where_epsilon_reaches_the_boundary(attack, input_shape):
    classifier, inputs, labels = problem(2, 64, input_shape)
    distances = boundary_distance(classifier, inputs, labels, "l2")
    epsilons = distances.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
    result = attacked(partial(attack, steps=30), classifier, inputs, labels, epsilons)
    for epsilon, success in zip(epsilons, result.success, strict=True):
        # Steps of a quarter of the ball do not end exactly at its edge: within 1 % of the best loss is asked for.
        assert not success[distances > 1.0001 * epsilon].any()
        assert success[distances < 0.99 * epsilon].all()
        assert 0 < success.sum() < len(success)


@every_attack
@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_nothing_falls_before_the_boundary_and_most_falls_beyond(attack, num_classes):
    classifier, inputs, labels = problem(num_classes, 64)
    distances = boundary_distance(classifier, inputs, labels, "l2")
    before, beyond = attacked(
        attack, classifier, inputs, labels, torch.stack([0.99 * distances, 2 * distances])
    ).success
    assert not before.any()
    assert beyond.float().mean() > 0.9


@pytest.mark.parametrize("num_classes", [2, 10])
def test_as_good_as_a_dense_look_at_the_whole_disc(num_classes):
    """Two inputs and a hidden layer, whose losses are known at 20,000 points of each disc."""
    generator = torch.Generator().manual_seed(0)
    first, last = nn.Linear(2, 16), nn.Linear(16, num_classes)
    first.weight.data = 4 * torch.randn(16, 2, generator=generator)
    first.bias.data = -(first.weight.data * torch.rand(16, 2, generator=generator)).sum(1)
    last.weight.data, last.bias.data = torch.randn(num_classes, 16, generator=generator), torch.zeros(num_classes)
    classifier = Classifier(nn.Sequential(first, nn.ReLU(), last), (2,), num_classes)
    inputs = torch.rand(64, 2, generator=generator)
    labels = classifier(inputs).argmax(1)
    radius, angle = torch.rand(20_000, 1, 2, generator=generator).unbind(2)
    disc = (
        0.15 * radius.sqrt()[..., None] * torch.stack([(2 * torch.pi * angle).cos(), (2 * torch.pi * angle).sin()], 2)
    )
    with torch.no_grad():
        logits = classifier((inputs + disc).clamp(0, 1).reshape(-1, 2)).reshape(20_000, 64, num_classes)
    breakable = (logits.argmax(2) != labels).float().mean(0) > 0.001
    assert 0.2 < breakable.float().mean() < 0.9
    strong = partial(pgd_l2.attack, steps=40, step_size=0.1, restarts=10, loss="margin")
    success = attacked(strong, classifier, inputs, labels, torch.tensor([0.15])).success[0]
    assert success[breakable].all()


@every_attack
def test_results_are_in_the_ball_and_in_the_box(attack):
    classifier = linear_classifier(3)
    inputs = torch.cat([torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4), torch.rand(30, 3, 4, 4)])
    result = attacked(attack, classifier, inputs, classifier(inputs).argmax(1))
    sizes = torch.stack([l2(row, inputs) for row in result.inputs])
    assert (sizes <= EPSILONS[:, None]).all()
    assert (sizes[1:4].amax(1) > 0.8 * EPSILONS[1:4]).all()
    assert (result.inputs.min(), result.inputs.max()) == (0, 1)
    assert torch.equal(result.distance, sizes.float())
    assert result.success[-1].all()


@every_attack
def test_the_samples_behind_change_nothing_but_roundings(attack):
    classifier, inputs, labels = problem(3, 9)
    whole = attacked(attack, classifier, inputs, labels)
    for count in (1, 3, 8):
        part = attacked(attack, classifier, inputs[:count], labels[:count])
        torch.testing.assert_close(part.inputs, whole.inputs[:, :count], rtol=0, atol=1e-5)
        assert torch.equal(part.success, whole.success[:, :count]), count


@every_attack
def test_the_seed_decides_every_byte_and_no_global_state_is_touched(attack):
    classifier, inputs, labels = problem()
    state = torch.get_rng_state()
    first = attacked(attack, classifier.train(), inputs, labels)
    assert torch.equal(torch.get_rng_state(), state)
    assert classifier.training
    second = attacked(attack, classifier, inputs, labels, EPSILONS[2:3])
    assert torch.equal(first.inputs[2], second.inputs[0])
    assert torch.equal(first.queries[2], second.queries[0])
    assert not first.inputs.requires_grad and not first.queries[0].any() and not first.backwards[0].any()


def test_passes_are_counted():
    result = attacked(pgd_l2.attack, *problem(3, 7), torch.tensor([0.05, 3.0]))
    assert (result.queries == 11).all() and (result.backwards == 10).all()


@pytest.mark.parametrize("epsilon", [-0.5, float("nan")])
def test_epsilons_below_0_are_refused(epsilon):
    with pytest.raises(ValueError, match=r"^epsilons: .*: expected finite values of at least 0$"):
        attacked(pgd_l2.attack, *problem(), torch.tensor([epsilon]))


@pytest.mark.parametrize("scheme", ["w4a4", "w1a1"])
def test_a_quantized_network_is_attacked(scheme):
    inputs, labels = images("test", 40)
    classifier = Classifier(quantized_case("tiny_cnn", scheme).frozen, inputs.shape[1:], 10)
    standing = classifier(inputs).argmax(1) == labels
    result = attacked(pgd_l2.attack, classifier, inputs, labels, torch.tensor([0.0, 2.0]))
    assert result.inputs.isfinite().all()
    assert torch.equal(result.success[0], ~standing)
    assert result.success[1].float().mean() > 0.9 and standing.sum() >= 10


@pytest.mark.parametrize(("name", "shape"), [(name, shape) for name in BALLS for shape in [(2,), (3, 4, 4)]])
def test_draws_fill_the_unit_ball(name, shape):
    inputs = torch.zeros(4000, *shape)
    draws = BALLS[name].draw(inputs, torch.Generator().manual_seed(0)).double().flatten(1)
    sizes = torch.linalg.vector_norm(draws, {"l2": 2, "linf": torch.inf}[name], dim=1)
    # A ball of radius r has r^d of the unit ball's volume; in the Euclidean norm, the length itself is uniform.
    shares = sizes if name == "l2" else sizes ** draws.shape[1]
    quantiles = shares.quantile(torch.tensor([0, 0.25, 0.5, 0.75, 1], dtype=torch.float64))
    assert (quantiles - torch.tensor([0, 0.25, 0.5, 0.75, 1])).abs().max() < 0.03
    assert draws.mean(0).abs().max() < 0.05
    fewer = BALLS[name].draw(inputs[:7], torch.Generator().manual_seed(0)).double().flatten(1)
    assert torch.equal(fewer, draws[:7])


def test_the_steepest_step_has_length_1_however_small_the_gradient():
    gradient = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    scales = torch.tensor([1, 1e-20, 1e-30, 1e20, 0])
    scaled = gradient * scales[:, None, None]
    euclidean = L2Ball.steepest(scaled)
    lengths = torch.linalg.vector_norm(euclidean.flatten(1), dim=1)
    torch.testing.assert_close(lengths, torch.tensor([1.0, 1, 1, 1, 0]))
    directions = gradient / torch.linalg.vector_norm(gradient.flatten(1), dim=1)[:, None, None]
    torch.testing.assert_close(euclidean[:4], directions[:4])
    assert torch.equal(LinfBall.steepest(scaled)[:4], gradient.sign()[:4])
    assert not LinfBall.steepest(scaled)[4].any()
