"""How near PGD and Auto-PGD come to the highest loss in the ball, where that is known, and what they are made of."""

from functools import partial
from itertools import pairwise, product

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from stages.attacks import apgd, apgd_targeted, fgsm, pgd
from stages.attacks.gradient_ascent import Ascent, Found
from stages.attacks.losses import cross_entropy as raised
from stages.attacks.losses import difference_of_logits_ratio, margin
from stages.classifier import Classifier
from tests.attacks.linear import linear_classifier

STRONG = {
    "pgd": partial(pgd.attack, steps=40, step_size=0.1, restarts=20),
    "pgd on the margin": partial(pgd.attack, steps=40, step_size=0.1, restarts=20, loss="margin"),
    "apgd": partial(apgd.attack, steps=40, restarts=20),
    "apgd on dlr": partial(apgd.attack, steps=40, restarts=20, loss="dlr"),
    "apgd targeted": partial(apgd_targeted.attack, steps=40, restarts=5),
}
EPSILON = 0.1
strong_attacks = pytest.mark.parametrize("name", STRONG)
every_class_count = pytest.mark.parametrize("num_classes", [2, 3, 10])


def attacked(attack, classifier, inputs, labels, epsilon, seed=0):
    """The attack's inputs [N, ...] and success [N] at one epsilon."""
    epsilons, generator = torch.tensor([epsilon], dtype=torch.float64), torch.Generator().manual_seed(seed)
    result = attack(classifier, inputs, labels, epsilons=epsilons, generator=generator)
    return result.inputs[0], result.success[0]


def losses(classifier, inputs, labels):
    with torch.no_grad():
        return cross_entropy(classifier(inputs).double(), labels, reduction="none")


def two_layer_classifier(num_classes, seed=0):
    """A network of two inputs with a hidden layer, whose loss has several maxima in a ball."""
    generator = torch.Generator().manual_seed(seed)
    first, last = nn.Linear(2, 16), nn.Linear(16, num_classes)
    first.weight.data = torch.randn(16, 2, generator=generator) * 4
    first.bias.data = -(first.weight.data * torch.rand(16, 2, generator=generator)).sum(1)  # kinks inside the box
    last.weight.data = torch.randn(num_classes, 16, generator=generator)
    last.bias.data = torch.zeros(num_classes)
    return Classifier(nn.Sequential(first, nn.ReLU(), last), (2,), num_classes)


def grid_in_the_ball(inputs, epsilon, points=101):
    """All points [points**2, N, 2] of a grid over each sample's ball and box, edges included."""
    steps = torch.linspace(0, 1, points)
    lowest, highest = (inputs - epsilon).clamp(min=0), (inputs + epsilon).clamp(max=1)
    return lowest + (highest - lowest) * torch.cartesian_prod(steps, steps)[:, None]


def assert_nearly_best(name, classifier, inputs, labels, losses_of_all, errors_of_all):
    """That the attack does as well as the best of all points, whose losses [P, N] and errors [P, N] are given.

    20 starts may all miss a maximum that few points lead to. Of more than 2 classes, the highest cross-entropy may be
    at a point where the label still wins, while another class wins at a point of less; margins do not miss that.
    """
    found, success = attacked(STRONG[name], classifier, inputs, labels, EPSILON)
    breakable = errors_of_all.any(0)
    assert 0.2 < breakable.float().mean() < 0.9
    if classifier.num_classes == 2 or name in ("pgd on the margin", "apgd on dlr", "apgd targeted"):
        assert not (breakable & ~success).any()
    if name in ("pgd", "apgd"):
        nearly_best = losses_of_all.amax(0) <= 1.01 * losses(classifier, found, labels)
        assert nearly_best.float().mean() > 0.95


@strong_attacks
@every_class_count
@pytest.mark.parametrize("input_shape", [(8,), (2, 2, 2)])
def test_the_best_corner_of_the_ball_is_found_on_a_linear_classifier(name, num_classes, input_shape):
    """The loss is convex there, so that its maximum over the ball in the box is at one of the 256 corners."""
    classifier = linear_classifier(num_classes, input_shape)
    inputs = torch.rand(32, *input_shape, generator=torch.Generator().manual_seed(2))  # the box clips many
    labels = classifier(inputs).argmax(1)
    sides = torch.tensor(list(product([-1, 1], repeat=8))).reshape(256, 1, *input_shape)
    corners = (inputs + EPSILON * sides).clamp(0, 1)
    losses_of_all = torch.stack([losses(classifier, corner, labels) for corner in corners])
    errors = torch.stack([classifier(corner).argmax(1) != labels for corner in corners])
    assert_nearly_best(name, classifier, inputs, labels, losses_of_all, errors)


@strong_attacks
@every_class_count
def test_brute_force_finds_nothing_better_on_a_two_layer_network(name, num_classes):
    classifier = two_layer_classifier(num_classes)
    inputs = torch.rand(64, 2, generator=torch.Generator().manual_seed(3))
    labels = classifier(inputs).argmax(1)
    logits = classifier(grid_in_the_ball(inputs, EPSILON).reshape(-1, 2)).detach().reshape(-1, 64, num_classes)
    losses_of_all = torch.stack([cross_entropy(row.double(), labels, reduction="none") for row in logits])
    assert_nearly_best(name, classifier, inputs, labels, losses_of_all, logits.argmax(2) != labels)


def test_fgsm_is_the_formula():
    classifier = linear_classifier(3)
    inputs = torch.rand(16, 3, 4, 4, generator=torch.Generator().manual_seed(4))
    labels = torch.arange(16) % 3
    weights, error = classifier.network.last.weight.detach(), classifier(inputs).detach().softmax(1)
    error[torch.arange(16), labels] -= 1
    expected = (inputs + 0.25 * (error @ weights).sign().reshape(inputs.shape)).clamp(0, 1)
    found, _ = attacked(fgsm.attack, classifier, inputs, labels, 0.25)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "attack",
    [
        partial(pgd.attack, steps=5),
        partial(apgd.attack, steps=5),
        partial(apgd_targeted.attack, steps=5, targets=1),
    ],
    ids=["pgd", "apgd", "apgd targeted"],
)
def test_restarts_are_never_worse_and_sometimes_better(attack):
    classifier = two_layer_classifier(4)
    inputs = torch.rand(200, 2, generator=torch.Generator().manual_seed(5))
    labels = classifier(inputs).argmax(1)
    outcomes = [attacked(partial(attack, restarts=count), classifier, inputs, labels, 0.1) for count in (1, 2, 5)]
    for (fewer, broken_by_fewer), (more, broken) in pairwise(outcomes):
        assert not (broken_by_fewer & ~broken).any()
        equal = broken == broken_by_fewer
        assert (losses(classifier, more, labels) >= losses(classifier, fewer, labels))[equal].all()
        assert (losses(classifier, more, labels) > 1.01 * losses(classifier, fewer, labels)).any()
    assert outcomes[-1][1].sum() > outcomes[0][1].sum()


def test_an_error_is_stronger_than_a_higher_loss():
    points = torch.arange(4.0)[:, None]
    old = Found(points, torch.tensor([False, True, False, True]), torch.tensor([2.0, 1.0, 1.0, 2.0]))
    new = Found(points + 10, torch.tensor([True, False, False, True]), torch.tensor([1.0, 2.0, 2.0, 1.0]))
    strongest = old.or_stronger(new)
    assert strongest.points[:, 0].tolist() == [10, 1, 12, 3]
    assert strongest.wrong.tolist() == [True, True, False, True]
    assert strongest.loss.tolist() == [1, 1, 2, 2]


def test_the_margin_and_the_ratios_of_logits():
    logits = torch.tensor([[5.0, 1.0, 4.0, 3.0, 0.0]]).expand(3, -1)
    labels = torch.tensor([0, 2, 4])
    assert margin(logits, labels).tolist() == [-1, 1, 5]
    assert difference_of_logits_ratio(logits, labels).tolist() == [-1 / 2, 1 / 2, 5 / 2]
    toward = apgd_targeted.targeted_loss(torch.tensor([1, 3, 0]))
    torch.testing.assert_close(toward(logits, labels), torch.tensor([-4.0, -1.0, 5.0]) / 3)  # 5 - (3 + 1) / 2
    torch.testing.assert_close(toward(7 * logits, labels), toward(logits, labels))
    assert difference_of_logits_ratio(logits[:, :2], labels[:1].expand(3)).tolist() == [-4, -4, -4]
    margins = apgd_targeted.targeted_loss(torch.tensor([1, 0, 1]))(logits[:, :3], torch.tensor([0, 2, 2]))
    assert margins.tolist() == [-4, 1, -3]


def test_tied_logits_give_finite_losses_and_gradients():
    logits = torch.ones(2, 5, requires_grad=True)
    labels = torch.tensor([0, 3])
    for loss in (difference_of_logits_ratio, apgd_targeted.targeted_loss(torch.tensor([1, 1]))):
        values = loss(logits, labels)
        (gradient,) = torch.autograd.grad(values.sum(), logits)
        assert (values == 0).all() and gradient.isfinite().all() and gradient.any(1).all()


def test_targets_are_the_likeliest_classes_but_the_label():
    logits = torch.tensor([[5.0, 1.0, 4.0, 3.0], [5.0, 1.0, 4.0, 3.0], [2.0, 2.0, 2.0, 2.0]])
    ranked = apgd_targeted.likeliest_wrong_classes(logits, torch.tensor([0, 3, 1]))
    assert ranked.tolist() == [[2, 3, 1], [0, 2, 1], [0, 2, 3]]


def test_step_sizes_are_checked_at_the_steps_of_the_paper():
    assert apgd.checkpoints(100) == [0, 22, 41, 57, 70, 80, 87, 93, 99]
    assert apgd.checkpoints(10) == [0, 3, 5, 6, 7, 8, 9, 10, 10]


class Peak(nn.Module):
    """Two classes, of which the second's logit falls with the distance from a point: the loss has one smooth peak."""

    def forward(self, inputs):
        score = -((inputs - 0.47) ** 2).sum(1)
        return torch.stack([torch.zeros_like(score), score], 1)


def test_the_step_size_shrinks_until_the_peak_is_reached():
    classifier, labels = Classifier(Peak(), (3,), 2), torch.zeros(16, dtype=torch.int64)
    inputs = torch.full((16, 3), 0.5)
    found, _ = attacked(partial(apgd.attack, steps=100), classifier, inputs, labels, 0.3)
    assert (found - 0.47).abs().max() < 0.01  # 0.3 / 2**8 is what eight halvings leave of the first step of 0.6
    constant_steps, _ = attacked(partial(pgd.attack, steps=100), classifier, inputs, labels, 0.3)
    assert (constant_steps - 0.47).abs().max() > 0.02


def algorithm_1(classifier, start, original, label, steps, rho):
    """Algorithm 1 of the paper, line by line, for one sample: x_max. It looks at conditions once x(k) is known."""

    def project(point):
        return point.clamp((original - EPSILON).clamp(min=0), (original + EPSILON).clamp(max=1))

    def f(point):
        return cross_entropy(classifier(point[None]), label[None]).item()

    def step(point):
        leaf = point.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(classifier(leaf[None]), label[None]), leaf)
        return project(point + eta * gradient.sign())

    eta, alpha = 2 * EPSILON, 0.75
    w = apgd.checkpoints(steps)
    x = [start, None]
    x[1] = step(start)
    x_max = max(x, key=f)
    etas, maxima, rises = {0: eta}, {0: f(start)}, [f(x[1]) > f(x[0])]
    for k in range(1, steps):
        if k in w:
            etas[k], maxima[k], before = eta, f(x_max), w[w.index(k) - 1]
            condition_1 = sum(rises[before:k]) < rho * (k - before)
            condition_2 = etas[before] == eta and maxima[before] == maxima[k]
            if condition_1 or condition_2:
                eta, x[k] = eta / 2, x_max
        z = step(x[k])
        x.append(project(x[k] + alpha * (z - x[k]) + (1 - alpha) * (x[k] - x[k - 1])))
        rises.append(f(x[k + 1]) > f(x[k]))
        x_max = max(x_max, x[k + 1], key=f)
    return x_max


class Waves(nn.Module):
    """Two classes, of which the second's logit has many maxima in the ball: each choice on the way shows at the end."""

    def __init__(self):
        super().__init__()
        self.directions = 25 * torch.randn(4, 4, generator=torch.Generator().manual_seed(7))

    def forward(self, inputs):
        score = (inputs @ self.directions).sin().sum(1)
        return torch.stack([torch.zeros_like(score), score], 1)


@pytest.mark.parametrize("rho", [0.0, 0.75, 1.0])
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_apgd_is_algorithm_1(steps, rho):
    classifier, count = Classifier(Waves(), (4,), 2), 32
    generator = torch.Generator().manual_seed(6)
    inputs, units = torch.rand(count, 4, generator=generator), torch.rand(count, 4, generator=generator) * 2 - 1
    labels = classifier(inputs).argmax(1)
    epsilons = torch.full((count,), EPSILON, dtype=torch.float64)
    ascent = Ascent(classifier, classifier, "linf", inputs, labels, epsilons, lambda: units)
    starts = ascent.random_start()
    found = apgd.auto_pgd(ascent, raised, steps, rho)
    expected = torch.stack(
        [
            algorithm_1(classifier, start, original, label, steps, rho)
            for start, original, label in zip(starts, inputs, labels, strict=True)
        ]
    )
    # A rounding may turn a sign where the gradient is near zero.
    assert ((found - expected).abs().amax(1) < 1e-5).float().mean() > 0.9


def test_pgd_keeps_the_best_point_of_a_path_that_overshoots():
    """A narrow ridge of errors: steps of a quarter of the ball jump over it and back."""

    class Ridge(nn.Module):
        def forward(self, inputs):
            height = 1 - 40 * (inputs.flatten(1)[:, 0] - 0.63).abs()  # positive within .025 of .63
            return torch.stack([torch.zeros_like(height), height], 1)

    inputs, labels = torch.linspace(0.45, 0.55, 64)[:, None], torch.zeros(64, dtype=torch.int64)
    classifier = Classifier(Ridge(), (1,), 2)
    epsilons = torch.tensor([0.2], dtype=torch.float64)
    best, last = (
        pgd.attack(
            classifier, inputs, labels, epsilons=epsilons, generator=torch.Generator().manual_seed(0), keep_best=keep
        ).success[0]
        for keep in (True, False)
    )
    assert (best | ~last).all()
    assert best.all()
    assert last.float().mean() < 0.8


class Saturated(nn.Module):
    """Three classes of a linear network, whose first logit is so far above the others that float32 holds no error."""

    def __init__(self):
        super().__init__()
        self.slopes = torch.randn(3, 12, generator=torch.Generator().manual_seed(8))
        self.slopes[0] = 0

    def forward(self, inputs):
        heights = (inputs - 0.5) @ self.slopes.T
        return 1000 * heights + torch.tensor([1000.0, 0, 0])


def test_scaled_logits_restore_a_gradient_that_vanished():
    classifier, inputs = Classifier(Saturated(), (12,), 3), torch.full((16, 12), 0.5)
    inputs += 0.02 * torch.rand(16, 12, generator=torch.Generator().manual_seed(9))
    labels = torch.zeros(16, dtype=torch.int64)
    plain, scaled = (
        attacked(partial(pgd.attack, random_start=False, scale_logits=scale), classifier, inputs, labels, 0.4)
        for scale in (False, True)
    )
    assert torch.equal(plain[0], inputs) and not plain[1].any()
    assert scaled[1].all()


def test_at_the_temperature_the_second_class_has_its_share():
    logits = torch.tensor([[0.0, 100.0, 30.0], [0.0, 5.0, -1e4], [0.1, 0.0, 0.2], [1.0, 1.0, 1.0]])
    seen = []
    pgd.at_temperature(lambda scaled, labels: seen.append(scaled) or scaled.sum(1), logits)(logits, torch.zeros(4))
    shares = seen[0].topk(2).values.softmax(1)[:, 1]
    torch.testing.assert_close(shares[:3], torch.full((3,), 0.01), rtol=1e-4, atol=0)
    torch.testing.assert_close(seen[0][:3] / seen[0][:3].amax(1, True), logits[:3] / logits[:3].amax(1, True))
    assert seen[0][3].isfinite().all()
