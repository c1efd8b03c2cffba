"""Adversarial inputs to train on: sign-gradient ascent in the linf ball (Madry et al. 2018, arXiv 1706.06083).

The network is in evaluation mode with its parameters frozen while inputs are crafted. It is then the network that an
attacker will meet, a sample's perturbation depends on no other sample of its batch, and neither batch norms nor
quantizers collect statistics of half-crafted inputs. With batch norms in training mode networks become about as robust,
but less accurate (Pang et al. 2021, arXiv 2010.00467).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.classifier import evaluating


@contextmanager
def crafting(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients of parameters inside; outside, all is as it was."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    with evaluating(network):
        for parameter in trained:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)


def ascended(
    network: nn.Module,
    objective: Callable[[Tensor], Tensor],
    inputs: Tensor,
    start: Tensor,
    *,
    epsilon: float,
    step: float,
    steps: int,
) -> Tensor:
    """Points that raise an objective within epsilon of `inputs` and in [0,1], after `steps` sign-gradient steps.

    objective: from logits [N,K] (float32) to the number to raise, a sum over the batch.
    inputs, start: `[N,...]` in [0,1]; a start beyond the ball counts as its nearest point of the ball.
    step: the length of a step in each value, in input units.
    The result has the shape and memory layout of `inputs` and no gradient.
    """
    lowest, highest = (inputs - epsilon).clamp_min(0), (inputs + epsilon).clamp_max(1)
    points = start.detach().clamp(lowest, highest)
    with crafting(network):
        for _step in range(steps):
            points.requires_grad_()
            (gradient,) = torch.autograd.grad(objective(network(points).float()), points)
            points = (points.detach() + step * gradient.sign()).clamp(lowest, highest)
    return points


def drawn(inputs: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor:
    """What `draw` fills a tensor on the CPU with, moved to the device and memory layout of `inputs`."""
    # Into a plain tensor first: the same numbers whatever the layout is.
    return torch.empty_like(inputs).copy_(draw(torch.empty(inputs.shape)))


def fgsm(network: nn.Module, inputs: Tensor, labels: Tensor, *, epsilon: float) -> Tensor:
    """One step of length epsilon that raises the cross-entropy (Goodfellow et al. 2015, arXiv 1412.6572)."""
    raised = _cross_entropy(labels)
    return ascended(network, raised, inputs, inputs, epsilon=epsilon, step=epsilon, steps=1)


def pgd(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    epsilon: float,
    step_size: float,
    steps: int,
) -> Tensor:
    """Steps of `step_size * epsilon` that raise the cross-entropy, from a uniform point of the ball (Madry et al.)."""
    start = inputs + drawn(inputs, lambda empty: empty.uniform_(-epsilon, epsilon, generator=generator))
    raised = _cross_entropy(labels)
    return ascended(network, raised, inputs, start, epsilon=epsilon, step=step_size * epsilon, steps=steps)


def _cross_entropy(labels: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda logits: F.cross_entropy(logits, labels, reduction="sum")
