"""Jacobian regularization of blocks, against exact Jacobians of small networks."""

import pytest
import torch
import torch.nn.functional as F

from stages.defenses import block_jacobian
from stages.models import coffee_cnn, mobilenetv1_025, resnet8, tiny_cnn
from stages.models.layers import FloatLayers
from stages.quantization.brevitas_layers import BrevitasLayers
from stages.quantization.formats import Format
from tests.quantization.small_networks import MEAN, STD

SHAPE = (1, 8, 8)


@pytest.fixture
def problem():
    """A network in evaluation mode, where samples do not meet in batch norms, with statistics that are not trivial."""
    torch.manual_seed(0)
    network = resnet8.network(FloatLayers(MEAN, STD), SHAPE, 3)
    network.train()(torch.rand(50, *SHAPE))
    return network.eval(), torch.rand(2, *SHAPE), torch.tensor([0, 2])


def stages_of(network):
    """The blocks as functions, in their order."""
    first = [network.input, network.convolution, network.norm, network.activation]
    return {
        "activation": lambda inputs: torch.nn.Sequential(*first)(inputs),
        "block1": network.block1,
        "block2": network.block2,
        "block3": network.block3,
    }


def mean_row_norm(function, inputs):
    """The mean squared norm of an output's gradient, from the exact Jacobian of each sample."""
    rows = []
    for sample in inputs:
        matrix = torch.autograd.functional.jacobian(function, sample[None]).flatten(4).flatten(0, 3)
        rows.append(matrix.square().sum(1).mean())
    return torch.stack(rows).mean().item()


def penalty(network, inputs, labels, draws=100, seed=0, **knobs):
    """The mean of the estimates over directions, without the cross-entropy."""
    generator = torch.Generator().manual_seed(seed)
    plain = F.cross_entropy(network(inputs), labels).item()
    losses = [
        block_jacobian.loss(network, inputs, labels, generator=generator, **knobs).item() - plain for _ in range(draws)
    ]
    return sum(losses) / draws


def test_each_block_is_penalised_by_its_own_jacobian(problem):
    network, inputs, labels = problem
    hidden, expected = inputs, {}
    for name, function in stages_of(network).items():
        expected[name] = mean_row_norm(function, hidden)
        hidden = function(hidden).detach()
        alone = penalty(network, inputs, labels, weight=0.0, weights={name: 2.0})
        assert alone == pytest.approx(expected[name], rel=0.15)
    together = penalty(network, inputs, labels, weight=2.0)
    assert together == pytest.approx(sum(expected.values()), rel=0.1)
    without = penalty(network, inputs, labels, weight=2.0, weights={"block3": 0.0})
    assert without == pytest.approx(sum(expected.values()) - expected["block3"], rel=0.1)


def test_of_the_logits_it_is_the_squared_frobenius_norm(problem):
    network, inputs, labels = problem
    expected = 3 * mean_row_norm(network, inputs)
    assert penalty(network, inputs, labels, weight=0.0, logits_weight=2.0) == pytest.approx(expected, rel=0.15)


def test_more_projections_estimate_better(problem):
    network, inputs, labels = problem
    one, many = (
        torch.tensor([penalty(network, inputs, labels, draws=1, seed=seed, projections=count) for seed in range(12)])
        for count in (1, 8)
    )
    assert many.std() < 0.7 * one.std()


def test_jacobians_are_those_of_the_network_in_evaluation_mode_and_training_goes_on(problem):
    network, inputs, labels = problem
    in_evaluation = penalty(network, inputs, labels, draws=1)
    network.train()
    batch_norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    counts = [int(norm.num_batches_tracked) for norm in batch_norms]
    generator = torch.Generator().manual_seed(0)
    running = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    loss = block_jacobian.loss(network, inputs, labels, generator=generator).item()
    assert network.training and [int(norm.num_batches_tracked) for norm in batch_norms] == [n + 1 for n in counts]
    assert not any(norm._forward_hooks for norm in batch_norms)
    network.load_state_dict(running)
    plain = F.cross_entropy(network(inputs), labels).item()
    # The statistics have moved by one batch, as they have in any training step.
    assert loss - plain == pytest.approx(in_evaluation, rel=0.5) and loss > plain


def test_convolutions_before_batch_norms_gain_nothing_by_shrinking(problem):
    """As the weights of one grow, its batch's variance does: to the network, nothing has changed."""
    network, inputs, labels = problem
    network.train()
    loss = block_jacobian.loss(network, inputs, labels, generator=torch.Generator().manual_seed(0), weight=1.0)
    loss.backward()
    for convolution in (network.convolution, network.block2.convolution1):
        weight, gradient = convolution.weight.flatten(), convolution.weight.grad.flatten()
        assert abs(weight @ gradient) < 0.01 * weight.norm() * gradient.norm()


def test_it_can_be_trained_on(problem):
    network, inputs, labels = problem
    before = penalty(network, inputs, labels, weight=2.0)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        optimizer.zero_grad()
        block_jacobian.loss(network, inputs, labels, generator=generator, weight=1.0).backward()
        optimizer.step()
    assert penalty(network, inputs, labels, weight=2.0) < before


@pytest.mark.parametrize(
    ("model", "shape", "names"),
    [
        (resnet8, (3, 32, 32), ["activation", "block1", "block2", "block3"]),
        (tiny_cnn, (1, 28, 28), ["activation1", "activation2", "activation3"]),
        (mobilenetv1_025, (3, 32, 32), ["activation", *(f"blocks.{index}" for index in range(13))]),
        (coffee_cnn, (3, 140, 140), [f"activation{index}" for index in range(1, 7)]),
    ],
)
@pytest.mark.parametrize("bits", [None, 4, 1])
def test_blocks_are_the_same_in_every_number_format(model, shape, names, bits):
    mean = (0.5,) * shape[0]
    layers = FloatLayers(mean, STD) if bits is None else BrevitasLayers(mean, STD, Format(bits, bits))
    assert [name for name, _ in block_jacobian.block_ends(model.network(layers, shape, 3))] == names


@pytest.mark.parametrize("bits", [4, 1])
def test_quantized_networks_are_trained_with_it(bits):
    torch.manual_seed(0)
    network = tiny_cnn.network(BrevitasLayers(MEAN, STD, Format(bits, bits)), (1, 28, 28), 3)
    inputs, labels = torch.rand(4, 1, 28, 28), torch.tensor([0, 1, 2, 0])
    generator = torch.Generator().manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        value = block_jacobian.loss(network, inputs, labels, generator=generator)
        plain = F.cross_entropy(network(inputs), labels)
    assert value.item() > plain.item()
    value.backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters() if parameter.grad is not None)


def test_a_block_that_the_network_lacks_is_named(problem):
    network, inputs, labels = problem
    with pytest.raises(ValueError, match="'block4', expected blocks among: activation, block1, block2, block3"):
        block_jacobian.loss(network, inputs, labels, generator=torch.Generator(), weights={"block4": 1.0})
