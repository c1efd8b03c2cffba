"""Planted adversarial examples: what is adversarial, what is not, and that the classifier comes back as it was."""

import pytest
import torch
from torch import nn

from stages.attacks.attacked import Attacked
from stages.attacks.distances import DISTANCES
from stages.attacks.planted import last_layer, plant, points_at, two_classes
from stages.classifier import Classifier
from tests.attacks.linear import linear_classifier

EPSILONS = {"linf": 8 / 255, "l2": 0.5, "l1": 4.0, "l0": 10}


class TwoLayers(nn.Module):
    def __init__(self, input_shape, num_classes=10):
        super().__init__()
        self.flatten = nn.Flatten()
        self.hidden = nn.Linear(torch.Size(input_shape).numel(), 40)
        self.last = nn.Linear(40, num_classes)

    def features(self, inputs):
        return self.hidden(self.flatten(inputs)).relu()

    def forward(self, inputs):
        return self.last(self.features(inputs))


def two_layers(input_shape=(3, 8, 8), num_classes=10) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = TwoLayers(input_shape, num_classes).requires_grad_(False)
    return Classifier(network, input_shape, num_classes)


def digital_inputs(count, input_shape=(3, 8, 8)):
    return torch.randint(256, (count, *input_shape), generator=torch.Generator().manual_seed(1)) / 255


def generator():
    return torch.Generator().manual_seed(2)


def planted_in(classifier, original, norm="linf", digital=True, margin=3.0):
    setting = {"norm": norm, "epsilon": EPSILONS[norm], "digital": digital}
    return plant(classifier, original, **setting, margin=margin, generator=generator())


@pytest.mark.parametrize("digital", [True, False])
@pytest.mark.parametrize("norm", EPSILONS)
def test_the_planted_point_is_adversarial_and_others_are_not(norm, digital):
    classifier = Attacked(two_layers(), digital=digital, eot_samples=1)
    layer = last_layer(classifier, digital_inputs(5)).layer
    for original in digital_inputs(5):
        readout = planted_in(classifier, original, norm, digital)
        radii = EPSILONS[norm] * torch.rand(500, generator=generator())
        others = points_at(original, radii, norm=norm, digital=digital, generator=generator())
        with two_classes(classifier, layer, readout):
            logits = classifier(torch.stack([original, readout.point, *others]))
        assert logits.shape == (502, 2)
        gaps = logits[:, 1] - logits[:, 0]
        assert gaps[0].item() == pytest.approx(-3, rel=1e-3)
        # The threshold is a tenth of the way short of it, which the original is even further from.
        assert 0.01 < gaps[1] < 1
        assert (gaps[2:] > 0).float().mean() < 0.01
        distance = DISTANCES[norm](readout.point[None], original[None]).item()
        assert 0.5 * EPSILONS[norm] < distance <= EPSILONS[norm] + 1e-6
        if digital:
            assert torch.equal((readout.point * 255).round() / 255, readout.point)


@pytest.mark.parametrize(
    ("shape", "digital"),
    [((50,), False), ((20, 10), False), ((3, 8, 8), False), ((3, 8, 8), True)],  # images alone are on the grid
)
@pytest.mark.parametrize("norm", EPSILONS)
def test_random_points_are_in_the_box_and_at_their_distances(norm, digital, shape):
    (original,) = digital_inputs(1, shape)
    radii = EPSILONS[norm] * torch.tensor([0.0, 0.5, 1.0]).repeat_interleave(20)
    points = points_at(original, radii, norm=norm, digital=digital, generator=generator())
    assert points.dtype == torch.float32 and points.shape == (60, *shape)
    assert points.min() >= 0 and points.max() <= 1
    distance = DISTANCES[norm](points, original.expand(60, *shape)).double()
    # Rounding to the grid moves each value by half a level, and l2 points of the smaller radius outward.
    slack = 0.5 / 255 if digital and norm == "linf" else 0.05 if digital else 1e-6
    assert (distance <= radii + slack).all()
    assert (distance[:20] == 0).all() and (distance[20:] > 0.4 * radii[20:]).all()
    if digital:
        assert torch.equal((points * 255).round() / 255, points)
    if norm == "l0":
        assert distance.tolist() == radii.tolist()
    elif not digital and norm != "l2":
        assert distance[40:].max() == pytest.approx(EPSILONS[norm], rel=1e-5)


def test_few_values_change_in_l1():
    (original,) = digital_inputs(1)
    points = points_at(original, torch.full((20,), 4.0), norm="l1", digital=True, generator=generator())
    changed = DISTANCES["l0"](points, original.expand(20, 3, 8, 8))
    assert (changed >= 4).all() and (changed <= 9).all()


def test_the_classifier_comes_back_as_it_was():
    classifier = Attacked(two_layers(), digital=True, eot_samples=1).train()
    inputs, state = digital_inputs(4), torch.random.get_rng_state()
    before = classifier(inputs)
    last = last_layer(classifier, inputs)
    readout = planted_in(classifier, inputs[0])
    with pytest.raises(KeyError), two_classes(classifier, last.layer, readout):
        assert classifier.num_classes == 2
        raise KeyError
    assert classifier.num_classes == 10 and classifier.training
    assert torch.equal(classifier(inputs), before)
    assert not any(module._forward_hooks for module in classifier.modules())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_same_generator_plants_the_same_point():
    classifier = two_layers()
    one, two = (planted_in(classifier, digital_inputs(1)[0]) for _ in range(2))
    assert all(torch.equal(first, second) for first, second in zip(one, two, strict=True))


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_the_last_layer_and_its_margin(num_classes):
    classifier, inputs = two_layers(num_classes=num_classes), digital_inputs(5)
    last = last_layer(classifier, inputs)
    assert last.layer is classifier.network.last
    highest = classifier(inputs).topk(2).values
    assert last.margin == pytest.approx((highest[:, 0] - highest[:, 1]).median().item())


class Coarse(nn.Linear):
    """Logits that are multiples of a step."""

    def forward(self, inputs):
        return (super().forward(inputs) / self.step).round() * self.step


@pytest.mark.parametrize(("step", "margin"), [(0.5, 0.5), (100.0, 1.0)])
def test_logits_that_tie_leave_the_readout_a_gradient(step, margin):
    """More than half of the samples tie at the first step, all of them at the second."""
    classifier, inputs = two_layers(), digital_inputs(21)
    coarse = Coarse(40, 10)
    coarse.load_state_dict(classifier.network.last.state_dict())
    coarse.step, classifier.network.last = step, coarse.requires_grad_(False)
    highest = classifier(inputs).topk(2).values
    assert (highest[:, 0] - highest[:, 1]).median() == 0
    last = last_layer(classifier, inputs)
    assert last.margin == pytest.approx(margin)
    readout = planted_in(classifier, inputs[0], margin=last.margin)
    leaf = inputs[:1].clone().requires_grad_()
    with two_classes(classifier, last.layer, readout):
        logits = classifier(leaf)
        assert classifier(readout.point[None]).argmax(1) == 1
    assert logits.diff().item() == pytest.approx(-margin, rel=1e-3)
    assert torch.autograd.grad(logits.diff().sum(), leaf)[0].abs().max() > 0


def test_a_layer_behind_the_logits_is_not_the_last_layer():
    classifier = two_layers()
    classifier.network = nn.Sequential(classifier.network, nn.Softmax(1))
    assert last_layer(classifier, digital_inputs(5)).layer is classifier.network[0].last


def test_without_a_last_layer_the_fault_is_named():
    classifier = two_layers()
    classifier.num_classes = 7
    with pytest.raises(ValueError, match="no layer with weights gives 7 logits"):
        last_layer(classifier, digital_inputs(5))


def test_the_gradient_view_has_the_readout_too():
    classifier = Attacked(two_layers(), digital=True, eot_samples=1)
    (original,) = digital_inputs(1)
    readout = planted_in(classifier, original)
    leaf = original[None].clone().requires_grad_()
    with two_classes(classifier, classifier.network.last, readout):
        logits = classifier.gradient_view()(leaf)
        (gradient,) = torch.autograd.grad(logits[:, 1].sum(), leaf)
    active = (classifier.network.hidden(original.reshape(1, -1)) > 0).float()
    expected = (active * readout.direction / 2) @ classifier.network.hidden.weight
    torch.testing.assert_close(gradient.reshape(1, -1), expected, rtol=1e-3, atol=1e-4)


class Constant(TwoLayers):
    def features(self, inputs):
        return torch.ones(len(inputs), 40)


def test_nothing_is_planted_where_features_do_not_change():
    classifier = Classifier(Constant((3, 8, 8)).requires_grad_(False), (3, 8, 8), 10)
    assert planted_in(classifier, digital_inputs(1)[0]) is None


class Random(Classifier):
    """Noise of a given size on every input."""

    stochastic = True

    def __init__(self, size):
        super().__init__(two_layers().network, (3, 8, 8), 10)
        self.size, self.generator = size, torch.Generator().manual_seed(0)

    def noisy(self, inputs):
        return inputs + self.size * torch.randn(inputs.shape, generator=self.generator)

    def forward(self, inputs):
        return self.network(self.noisy(inputs))

    def features(self, inputs):
        return self.network.features(self.noisy(inputs))


def test_in_a_random_classifier_the_planted_point_is_adversarial_in_nearly_every_draw():
    classifier = Random(0.01)
    readout = planted_in(classifier, digital_inputs(1)[0])
    with two_classes(classifier, classifier.network.last, readout):
        wrong = classifier(readout.point.expand(200, 3, 8, 8)).argmax(1)
        right = classifier(digital_inputs(1).expand(200, 3, 8, 8)).argmax(1)
    assert wrong.float().mean() > 0.9 and right.sum() == 0
    assert planted_in(Random(0.3), digital_inputs(1)[0]) is None


def test_in_a_linear_classifier_the_best_point_is_a_corner_and_further_than_the_planted_one():
    """The features are the inputs, so that an attack has room to find more than was planted."""
    classifier = linear_classifier(10, (3, 8, 8))
    (original,) = digital_inputs(1).mul(0.5).add(0.25).mul(255).round().div(255)
    readout = planted_in(classifier, original)
    best = original + EPSILONS["linf"] * readout.direction.sign().reshape(original.shape)
    gaps = readout.logits(torch.stack([readout.point, best]).flatten(1)).diff(dim=1)[:, 0]
    assert 0 < gaps[0] < gaps[1]


def test_few_points_of_the_surface_are_adversarial_by_chance():
    """The readout is tested on points that it was not made from."""
    classifier = two_layers()
    for original in digital_inputs(5):
        readout = planted_in(classifier, original)
        surface = torch.full((2000,), EPSILONS["linf"])
        points = points_at(original, surface, norm="linf", digital=True, generator=torch.Generator().manual_seed(3))
        assert readout.logits(classifier.features(points)).argmax(1).float().mean() < 0.01
