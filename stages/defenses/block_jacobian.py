"""Jacobian regularization of each block of a network (Ayaz et al. 2023, arXiv 2304.12829).

Penalises how much a block's output moves with the block's input, for every block, so that a perturbation is not
amplified on its way. A block is what lies between two activations, or a residual or depthwise-separable block as a
whole: with its normalisation, activation and quantizers, since for a convolution alone this would be weight decay. Of
sound, the first block begins with the features. The norms are estimated by random projections (Hutchinson 1990, doi
10.1080/03610919008812866; of Jacobians, Hoffman, Roberts & Yaida 2019, arXiv 1908.02729).
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.classifier import evaluating
from stages.defenses.layer_inputs import with_layer_inputs
from stages.knobs import Count, NonNegative

ACTIVATION = "activation"  # how activations are named in every model


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
    Raises ValueError if `weights` names no block of the network.
    """
    total = F.cross_entropy(network(inputs), labels)
    logits, inputs, ends = _evaluated(network, inputs)
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
        total = total + gradient.float().square().sum()
    return total / (projections * outputs.numel())


def _evaluated(network: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The logits in evaluation mode, what the first block took, and what each block's end put out on the way."""
    outputs: dict[str, Tensor] = {}

    def remember(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple, output: Tensor) -> None:
            outputs[name] = output

        return hook

    handles = [end.register_forward_hook(remember(name)) for name, end in block_ends(network)]
    norms = (module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    handles += [norm.register_forward_hook(_scaled_and_shifted) for norm in norms]
    try:
        with evaluating(network):
            return *with_layer_inputs(network, inputs), outputs
    finally:
        for handle in handles:
            handle.remove()


def _scaled_and_shifted(norm: nn.BatchNorm2d, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    """What batch norm gives in evaluation mode, of operations whose second derivative takes no time.

    PyTorch's formula for that of batch norm is one for training mode, too: it takes as long as all convolutions.
    """
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * factor
    factor, shift = (values.to(inputs[0]).view(-1, 1, 1) for values in (factor, shift))
    return inputs[0] * factor + shift
