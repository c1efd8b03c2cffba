"""Jacobian regularization of each block of a network (Ayaz et al. 2023, arXiv 2304.12829).

Penalises how much a block's output moves with the block's input, for every block, so that a perturbation is not
amplified on its way. A block is what lies between two activations, or a residual or depthwise-separable block as a
whole: with its normalisation, activation and quantizers, since for a convolution alone this would be weight decay. Of
sound, the first block begins with the features. The norms are estimated by random projections (Hutchinson 1990, doi
10.1080/03610919008812866; of Jacobians, Hoffman, Roberts & Yaida 2019, arXiv 1908.02729).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.classifier import evaluating
from stages.defenses.layer_inputs import with_layer_inputs
from stages.knobs import Count, NonNegative

ACTIVATION = "activation"  # how activations are named in every model

Variances = dict[nn.BatchNorm2d, Tensor]


def loss(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    weight: NonNegative = 0.01,
    weights: dict[str, NonNegative] = {},  # noqa: B006 (never changed)
    logits_weight: NonNegative = 0.0,
    projections: Count = 1,
) -> Tensor:
    """Mean cross-entropy plus the penalties, inputs in [0,1].

    weight: of each block, whose penalty is `weight / 2` times the squared Frobenius norm of its Jacobian divided by the
    number of its outputs: the mean squared norm of an output's gradient, which does not grow with the block's size.
    weights: of blocks by name, that of the module that the block ends with, in the place of `weight`; 0 leaves it out.
    logits_weight: of the squared norm of the Jacobian of the logits with respect to the input, as in `jacobian`.
    projections: random directions that estimate each norm.
    Jacobians are those of the network in evaluation mode, as it is deployed: there, samples do not meet in batch norms.
    Yet running variances count as what they are made of, the variances of batches, which follow the weights: were they
    constants, a convolution before a batch norm would lower its penalty by shrinking, which changes nothing but how
    large a step is for it, until it loses all that it has learnt.
    Raises ValueError if `weights` names no block of the network.
    """
    logits, variances = _in_training(network, inputs)
    total = F.cross_entropy(logits, labels)
    logits, inputs, ends = _evaluated(network, inputs, variances)
    if unknown := sorted(set(weights) - set(ends)):
        raise ValueError(f"weights of block_jacobian name {unknown[0]!r}, expected blocks among: {', '.join(ends)}")
    before = inputs
    for name, after in ends.items():
        if of_block := weights.get(name, weight):
            total = total + of_block / 2 * mean_squared_gradient(after, before, generator, projections)
        before = after
    if logits_weight:
        of_logits = logits.shape[1] * mean_squared_gradient(logits, inputs, generator, projections)
        total = total + logits_weight / 2 * of_logits
    return total


def block_ends(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that blocks end with, by name, in the order in which the network names them.

    The activations of the network itself, and the modules in it that contain activations; a sequence of modules counts
    as if it stood in the network itself.
    """
    for name, module in network.named_children():
        if isinstance(module, nn.Sequential):
            yield from ((f"{name}.{inner}", end) for inner, end in block_ends(module))
        elif name.startswith(ACTIVATION) or any(inner.startswith(ACTIVATION) for inner, _ in module.named_children()):
            yield name, module


def mean_squared_gradient(outputs: Tensor, inputs: Tensor, generator: torch.Generator, projections: int) -> Tensor:
    """The estimated mean, over outputs [N, ...], of the squared norm of an output's gradient in inputs [N, ...].

    Each direction is one of random signs s: the mean of |s J|^2 over s is the squared Frobenius norm of J.
    """
    total = 0.0
    for _ in range(projections):
        signs = torch.randint(2, outputs.shape, generator=generator, dtype=torch.int8).to(outputs).mul_(2).sub_(1)
        (gradient,) = torch.autograd.grad(outputs, inputs, signs, create_graph=True)
        total = total + torch.linalg.vector_norm(gradient, dtype=torch.float32).square()
    return total / (projections * outputs.numel())


def _in_training(network: nn.Module, inputs: Tensor) -> tuple[Tensor, Variances]:
    """The logits, and the variances `[C]` over the batch of what each batch norm in training mode took."""
    variances: Variances = {}

    def remember(norm: nn.BatchNorm2d, arguments: tuple[Tensor], output: Tensor) -> None:
        if norm.training:
            variances[norm] = _variance(arguments[0])

    with _hooked(_batch_norms(network), remember):
        return network(inputs), variances


def _evaluated(network: nn.Module, inputs: Tensor, variances: Variances) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The logits in evaluation mode, what the first block took, and what each block's end put out on the way."""
    names = {end: name for name, end in block_ends(network)}
    outputs: dict[str, Tensor] = {}

    def remember(end: nn.Module, arguments: tuple, output: Tensor) -> None:
        outputs[names[end]] = output

    normalise = partial(_scaled_and_shifted, variances)
    with _hooked(names, remember), _hooked(_batch_norms(network), normalise), evaluating(network):
        return *with_layer_inputs(network, inputs), outputs


def _scaled_and_shifted(variances: Variances, norm: nn.BatchNorm2d, arguments: tuple[Tensor], output: Tensor) -> Tensor:
    """What batch norm gives in evaluation mode, of operations whose second derivative takes no time.

    PyTorch's formula for that of batch norm is one for training mode, too: it takes as long as all convolutions.
    """
    variance = norm.running_var + norm.eps
    if norm in variances:
        of_batch = variances[norm] + norm.eps
        variance = variance * (of_batch / of_batch.detach())
    factor = norm.weight / torch.sqrt(variance)
    shift = norm.bias - norm.running_mean * factor
    factor, shift = (values.to(arguments[0]).view(-1, 1, 1) for values in (factor, shift))
    return arguments[0] * factor + shift


def _variance(inputs: Tensor) -> Tensor:
    """Of each channel of inputs [N,C,H,W], a third as slow as `var`, whose digits nobody needs here."""
    inputs = inputs.movedim(1, -1).flatten(0, -2)
    mean, mean_square = (values.mean(0, dtype=torch.float32) for values in (inputs, inputs.square()))
    return (mean_square - mean.square()).clamp(min=0)


def _batch_norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


@contextmanager
def _hooked(modules: Iterable[nn.Module], hook: Callable) -> Iterator[None]:
    """While it lasts, `hook` is called after each of the modules."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
