"""What attacks share that weigh misclassification against distance: Carlini and Wagner, "Towards evaluating the
robustness of neural networks", IEEE S&P 2017, https://arxiv.org/abs/1608.04644 (sections V and VI).

They minimise distance + constant * f, where f is 0 where the classifier errs and else how far it is from erring.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from stages.attacks.batches import per_sample
from stages.attacks.losses import Loss, margin
from stages.attacks.minimal_norm import Search

GROWTH = 10  # of a constant that is too small
PROGRESS = 0.9999  # of the loss of the last check: what is above has stalled (the authors' abort_early)
CHECKS = 10  # of progress in one descent,
CHECK_STEPS = 10  # and how many steps lie between two of them at least
SHRINK = 0.9  # of the tanh: at 1, inputs of exactly 0 or 1 could not move, and near 1 only in hundreds of steps


def shortfall(confidence: float) -> Loss:
    """f6 of the paper, [N]: by how much the margin over the label falls short of `confidence`, 0 where it does not."""
    return lambda logits, labels: (confidence - margin(logits, labels)).clamp_min(0)


def bisect_constants(search: Search, descend: Callable[[Tensor], Tensor], *, initial: float, search_steps: int) -> None:
    """Descend with a constant of its own for each sample, float32 [N], `search_steps` times (section VI.A).

    descend: minimises with these constants and says where it met an adversarial point, bool [N]. Where it did, the
    constant moves halfway to the largest one that failed (at first 0), and elsewhere halfway to the smallest one that
    did not, or becomes `GROWTH` times as large as long as there is none.
    """
    constants = torch.full(search.labels.shape, initial, device=search.inputs.device)
    lower, upper = torch.zeros_like(constants), torch.full_like(constants, torch.inf)
    for _ in range(search_steps):
        met = descend(constants)
        upper = torch.where(met, constants, upper)
        lower = torch.where(met, lower, constants)
        constants = torch.where(upper.isfinite(), (lower + upper) / 2, GROWTH * constants)


def check_interval(steps: int) -> int:
    """After how many steps each a descent asks which samples still make progress."""
    return max(math.ceil(steps / CHECKS), CHECK_STEPS)


def to_tanh(inputs: Tensor) -> Tensor:
    """The variable w [N, ...] whose input (tanh(w) / SHRINK + 1) / 2 this is (section V.B, "change of variables").

    With the shrink, w is finite on all of [0, 1] and all inputs are represented as they are. In float64, where the
    place of a value in the batch does not change a float32 result (vectorised functions round the last few otherwise).
    """
    return torch.atanh((2 * inputs.double() - 1) * SHRINK).float()


def from_tanh(variables: Tensor) -> tuple[Tensor, Tensor]:
    """The inputs [N, ...] in [0, 1] of variables w, and their derivatives by w, above 0 also at 0 and 1."""
    tanh = variables.double().tanh()
    return ((tanh / SHRINK + 1) / 2).clamp(0, 1).float(), ((1 - tanh.square()) / (2 * SHRINK)).float()


class Adam:
    """Adam (Kingma and Ba, 2015, arXiv:1412.6980) on variables [N, ...] of `from_tanh`, where samples may leave.

    variables: float32 [N, ...], kept where they represent [0, 1].
    """

    BETAS = 0.9, 0.999
    TINY = 1e-8
    LIMIT = math.atanh(SHRINK)

    def __init__(self, variables: Tensor) -> None:
        self.variables = variables
        self.mean, self.square = torch.zeros_like(variables), torch.zeros_like(variables)
        self.steps = torch.zeros(len(variables), device=variables.device)

    def step(self, gradient: Tensor, learning_rate: float | Tensor) -> None:
        """One step down the gradient [N, ...]; learning_rate: one for all, or [N, 1, ...]."""
        self.steps = self.steps + 1
        first, second = self.BETAS
        self.mean = first * self.mean + (1 - first) * gradient
        self.square = second * self.square + (1 - second) * gradient.square()
        mean, square = (
            moment / per_sample(1 - beta**self.steps, moment)
            for moment, beta in ((self.mean, first), (self.square, second))
        )
        change = learning_rate * mean / (square.sqrt() + self.TINY)
        self.variables = (self.variables - change).clamp(-self.LIMIT, self.LIMIT)

    def restart(self, samples: Tensor) -> None:
        """Forget the steps of the samples, bool [N]; their variables stay."""
        self.steps = self.steps.masked_fill(samples, 0)
        left = per_sample(samples, self.mean)
        self.mean, self.square = self.mean.masked_fill(left, 0), self.square.masked_fill(left, 0)

    def keep(self, samples: Tensor) -> None:
        """Go on with the samples, bool [N], alone."""
        self.variables, self.mean, self.square, self.steps = (
            tensor[samples] for tensor in (self.variables, self.mean, self.square, self.steps)
        )
