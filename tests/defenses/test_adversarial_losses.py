"""Losses on adversarial inputs: closed forms on linear networks, and what any of them must leave as it was."""

from copy import deepcopy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stages.defenses import distillation, ensemble_at, none, perturbation, pgd_at, sinkhorn_at, trades
from stages.models import tiny_cnn
from stages.models.layers import FloatLayers
from stages.quantization.brevitas_layers import BrevitasLayers
from stages.quantization.calibrate import calibrate
from stages.quantization.formats import Format
from tests.defenses.test_losses import linear

EPSILON = 0.05
MEAN, STD, SHAPE = (128 / 255,) * 3, 0.25, (3, 8, 8)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def problem():
    """A linear network of two classes, and inputs that stay inside the box when they are perturbed."""
    weight = torch.randn(2, 12, generator=seeded())
    inputs = 0.1 + 0.8 * torch.rand(6, 1, 3, 4, generator=seeded(1))
    return linear(weight), weight, inputs, torch.tensor([0, 1, 0, 1, 1, 0])


def worst_corner(weight, inputs, labels):
    """Where a linear network of two classes has its highest cross-entropy within epsilon."""
    return inputs + EPSILON * (weight[1 - labels] - weight[labels]).sign().view_as(inputs)


class Spy(nn.Module):
    """Keeps what a network was given, and in which mode."""

    def __init__(self, network):
        super().__init__()
        self.network, self.crafted, self.trained = network, [], []

    def forward(self, inputs):
        (self.trained if self.training else self.crafted).append(inputs.detach().clone())
        return self.network(inputs)


def small_network(layers=None):
    torch.manual_seed(0)
    layers = layers or FloatLayers(MEAN, STD)
    return tiny_cnn.network(layers, SHAPE, 10).to(memory_format=torch.channels_last).train()


def small_batch(count=6):
    inputs = torch.rand(count, *SHAPE, generator=seeded()).round(decimals=1)  # some at 0 and at 1
    return inputs.contiguous(memory_format=torch.channels_last), torch.arange(count)


def static_network():
    """A trained network as the stages hand it over: frozen, in evaluation mode."""
    return small_network().eval().requires_grad_(False)


def losses():
    """Each loss with short crafting; ensemble adversarial training both on itself and on its source."""
    itself = next(seed for seed in range(99) if int(torch.randint(2, (), generator=seeded(seed))) == 1)
    other = next(seed for seed in range(99) if int(torch.randint(2, (), generator=seeded(seed))) == 0)
    ensemble = partial(ensemble_at.loss, sources=[static_network()], steps=3, epsilon=EPSILON)
    short = {"steps": 3, "epsilon": EPSILON}
    return {
        "pgd_at": (partial(pgd_at.loss, **short), 0),
        "trades": (partial(trades.loss, **short), 0),
        "sinkhorn_at": (partial(sinkhorn_at.loss, **short), 0),
        "ensemble_at on itself": (ensemble, itself),
        "ensemble_at on its source": (ensemble, other),
        "distillation": (partial(distillation.loss, teacher=static_network()), 0),
    }


ALL = list(losses())
CRAFTING = [name for name in ALL if name != "distillation"]


@pytest.mark.parametrize("clean_share", [0.0, 0.5])
def test_pgd_training_takes_the_worst_corner_of_a_linear_network(problem, clean_share):
    # Ten steps of a quarter of epsilon cross the ball from any start.
    network, weight, inputs, labels = problem
    mixed = worst_corner(weight, inputs, labels)
    clean = int(clean_share * len(inputs))
    mixed[:clean] = inputs[:clean]
    value = pgd_at.loss(
        network,
        inputs,
        labels,
        generator=seeded(2),
        epsilon=EPSILON,
        step_size=0.25,
        clean_share=clean_share,
    )
    assert value.item() == pytest.approx(F.cross_entropy(network(mixed), labels).item(), rel=1e-5)


def test_pgd_training_on_clean_inputs_alone_is_no_defense(problem):
    network, _, inputs, labels = problem
    value = pgd_at.loss(network, inputs, labels, generator=seeded(), clean_share=1.0)
    assert torch.equal(value, none.loss(network, inputs, labels, generator=seeded()))


def test_pgd_starts_anywhere_in_the_ball_and_goes_as_far_as_its_steps(problem):
    network, weight, inputs, labels = problem
    moved = (
        perturbation.pgd(network, inputs, labels, generator=seeded(), epsilon=EPSILON, step_size=0.01, steps=10)
        - inputs
    )
    uphill = (weight[1 - labels] - weight[labels]).sign().view_as(inputs)
    start = torch.empty(inputs.shape).uniform_(-EPSILON, EPSILON, generator=seeded())
    assert start.min() < -0.9 * EPSILON and start.max() > 0.9 * EPSILON
    assert torch.allclose(moved, (start + 0.1 * EPSILON * uphill).clamp(-EPSILON, EPSILON), atol=1e-6)


def test_trades_takes_the_corner_where_the_prediction_differs_most(problem):
    # Over two classes the divergence of a linear network grows on either side of the clean input, so that the ascent
    # ends in one of two opposite corners.
    network, weight, inputs, labels = problem
    clean = network(inputs).log_softmax(1)
    corners = [worst_corner(weight, inputs, side.expand(6)) for side in torch.tensor([0, 1])]
    divergences = [
        F.kl_div(network(c).log_softmax(1), clean, log_target=True, reduction="none").sum(1) for c in corners
    ]
    for sample in range(len(labels)):
        one = slice(sample, sample + 1)
        value = trades.loss(network, inputs[one], labels[one], generator=seeded(3), epsilon=EPSILON, beta=2.0)
        penalty = (value - F.nll_loss(clean[one], labels[one])).item() / 2
        assert penalty in [pytest.approx(divergence[sample].item(), rel=1e-3) for divergence in divergences]


def test_trades_without_weight_is_no_defense(problem):
    network, _, inputs, labels = problem
    value = trades.loss(network, inputs, labels, generator=seeded(), beta=0.0)
    assert value.item() == pytest.approx(F.cross_entropy(network(inputs), labels).item(), rel=1e-6)


def test_sinkhorn_training_takes_the_worst_corner_and_adds_its_divergence(problem):
    network, weight, inputs, labels = problem
    worst = network(worst_corner(weight, inputs, labels))
    divergence = sinkhorn_at.sinkhorn_divergence(
        network(inputs).softmax(1), worst.softmax(1), entropic=1.0, iterations=50, tolerance=0.1
    )
    assert 1000 * divergence > 0.05  # so that it shows below
    for weight_of_divergence in [0.0, 1000.0]:
        value = sinkhorn_at.loss(
            network,
            inputs,
            labels,
            generator=seeded(),
            epsilon=EPSILON,
            step_size=0.25,
            weight=weight_of_divergence,
        )
        expected = F.cross_entropy(worst, labels) + weight_of_divergence * divergence
        assert value.item() == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize("include_itself", [True, False])
def test_ensemble_training_rotates_its_sources(problem, include_itself):
    network, weight, inputs, labels = problem
    weights = [torch.randn(2, 12, generator=seeded(5)), torch.randn(2, 12, generator=seeded(6)), weight]
    corners = [worst_corner(each, inputs, labels)[3:] for each in weights]
    sources = [linear(each) for each in weights[:2]]
    spy = Spy(network)
    generator = seeded()
    seen = []
    for _batch in range(60):
        ensemble_at.loss(
            spy,
            inputs,
            labels,
            generator=generator,
            sources=sources,
            include_itself=include_itself,
            epsilon=EPSILON,
            step_size=0.25,
        )
        given = spy.trained.pop()
        assert torch.equal(given[:3], inputs[:3])
        (source,) = [i for i, corner in enumerate(corners) if torch.allclose(given[3:], corner, atol=1e-6)]
        seen.append(source)
    counts = torch.bincount(torch.tensor(seen), minlength=3)
    expected = [20, 20, 20] if include_itself else [30, 30, 0]
    assert all(abs(count - wanted) <= (12 if wanted else 0) for count, wanted in zip(counts, expected, strict=True))


def test_ensemble_training_attacks_its_sources_by_fgsm_and_by_pgd(problem):
    # Steps of no length leave PGD at its random start, while FGSM always ends in a corner.
    network, weight, inputs, labels = problem
    spy = Spy(network)
    generator = seeded()
    by_fgsm = 0
    for _batch in range(60):
        ensemble_at.loss(
            spy,
            inputs,
            labels,
            generator=generator,
            sources=[linear(weight)],
            include_itself=False,
            epsilon=EPSILON,
            step_size=1e-9,
            clean_share=0.0,
        )
        by_fgsm += torch.allclose(spy.trained.pop(), worst_corner(weight, inputs, labels))
    assert 15 <= by_fgsm <= 45


def test_ensemble_training_without_other_networks_is_refused(problem):
    network, _, inputs, labels = problem
    with pytest.raises(ValueError, match=r"ensemble_at: models: \[\]: expected at least one"):
        ensemble_at.loss(network, inputs, labels, generator=seeded(), sources=[], models=[])


@pytest.mark.parametrize("name", CRAFTING)
def test_networks_see_points_of_the_ball_and_of_the_box_only(name):
    loss, seed = losses()[name]
    spy = Spy(small_network())
    inputs, labels = small_batch()
    loss(spy, inputs, labels, generator=seeded(seed))
    assert len(spy.trained) == 1
    clean_or_adversarial = inputs if len(spy.trained[0]) == len(inputs) else torch.cat([inputs, inputs])
    for original, points in [(clean_or_adversarial, spy.trained[0]), *((inputs[-len(p) :], p) for p in spy.crafted)]:
        assert (points - original).abs().max() <= EPSILON + 1e-6
        assert points.min() >= 0 and points.max() <= 1
        assert points.is_contiguous(memory_format=torch.channels_last)
    moved = (spy.trained[0] - clean_or_adversarial).abs().flatten(1).amax(1)
    assert (moved[len(moved) // 2 :] > 0.1 * EPSILON).all()


@pytest.mark.parametrize("name", ALL)
def test_crafting_leaves_the_network_as_one_training_pass_would(name):
    loss, seed = losses()[name]
    network = small_network()
    network.norm1.eval()  # a module may be in another mode than the rest
    next(network.parameters()).requires_grad_(False)
    expected, spy = deepcopy(network), Spy(network)
    spy.training = True
    inputs, labels = small_batch()
    value = loss(spy, inputs, labels, generator=seeded(seed))
    assert all(parameter.grad is None for parameter in network.parameters())
    expected(spy.trained[0])
    for name, tensor in expected.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name
    assert [m.training for m in network.modules()] == [m.training for m in expected.modules()]
    assert [p.requires_grad for p in network.parameters()] == [p.requires_grad for p in expected.parameters()]
    value.backward()
    assert all((p.grad is not None) == p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("name", ALL)
def test_only_the_given_generator_is_drawn_from(name):
    loss, seed = losses()[name]
    inputs, labels = small_batch()
    networks = [small_network(), small_network()]
    state = torch.get_rng_state()
    values = [loss(network, inputs, labels, generator=seeded(seed)).item() for network in networks]
    assert torch.equal(torch.get_rng_state(), state)
    assert values[0] == values[1]


@pytest.mark.parametrize("name", ["pgd_at", "trades", "sinkhorn_at"])
def test_another_draw_gives_another_loss(name):
    loss, _ = losses()[name]
    inputs, labels = small_batch()
    values = {loss(small_network(), inputs, labels, generator=seeded(seed)).item() for seed in range(3)}
    assert len(values) == 3


def test_draws_do_not_depend_on_the_memory_layout():
    inputs, _ = small_batch()
    draws = [
        perturbation.drawn(each, lambda empty: empty.normal_(generator=seeded()))
        for each in (inputs, inputs.contiguous())
    ]
    assert draws[0].stride() != draws[1].stride()
    assert torch.equal(*draws)


@pytest.mark.parametrize("name", ALL)
def test_a_quantized_network_trains_in_bfloat16(name):
    loss, seed = losses()[name]
    inputs, labels = small_batch()
    network = small_network(BrevitasLayers(MEAN, STD, Format(weight_bits=4, activation_bits=4)))
    calibrate(network, [inputs])
    network.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(network, inputs, labels, generator=seeded(seed))
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()
    weights = {name: p.grad for name, p in network.named_parameters() if p.dim() > 1}
    assert weights and all(grad is not None and grad.isfinite().all() and grad.any() for grad in weights.values())
