"""Fast adversarial training: FGSM from a random start (Wong, Rice & Kolter 2020, arXiv 2001.03994).

The method can fail from one epoch to the next: the network learns to mask its gradient from the single step, and its
robustness against an iterated attack falls to nothing (catastrophic overfitting). `robustness` measures it by PGD;
the training loop stops when it collapses.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.knobs import Epsilon, Positive

EPSILON = 8 / 255
CHECK_STEPS = 5


def _perturbed(
    network: nn.Module, inputs: Tensor, labels: Tensor, delta: Tensor, epsilon: float, step: float
) -> Tensor:
    """One signed-gradient step of length `step` from `inputs + delta`, kept in the ball and in [0,1]; the new delta."""
    delta = delta.detach().requires_grad_()
    loss = F.cross_entropy(network(inputs + delta), labels)
    (gradient,) = torch.autograd.grad(loss, delta)
    moved = (delta.detach() + step * gradient.sign()).clamp(-epsilon, epsilon)
    return (inputs + moved).clamp(0, 1) - inputs


def _random_start(inputs: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
    noise = torch.empty(inputs.shape).uniform_(-epsilon, epsilon, generator=generator).to(inputs.device)
    return (inputs + noise).clamp(0, 1) - inputs


def loss(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    epsilon: Epsilon = EPSILON,
    step_size: Positive = 1.25,
) -> Tensor:
    """Mean cross-entropy on adversarial inputs; `step_size` is a multiple of epsilon (algorithm 3 of the paper)."""
    delta = _random_start(inputs, epsilon, generator)
    delta = _perturbed(network, inputs, labels, delta, epsilon, step_size * epsilon)
    return F.cross_entropy(network(inputs + delta), labels)


@torch.enable_grad()
def robustness(
    network: nn.Module, inputs: Tensor, labels: Tensor, *, generator: torch.Generator, epsilon: float = EPSILON, **_
) -> float:
    """Accuracy in [0,1] under PGD from a random start, with steps of epsilon / 2."""
    delta = _random_start(inputs, epsilon, generator)
    for _step in range(CHECK_STEPS):
        delta = _perturbed(network, inputs, labels, delta, epsilon, epsilon / 2)
    with torch.no_grad():
        return (network(inputs + delta).argmax(1) == labels).float().mean().item()
