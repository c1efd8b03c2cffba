"""What every attack returns, and how it is judged."""

from dataclasses import dataclass

import torch
from torch import Tensor

from stages.attacks.distances import DISTANCES
from stages.classifier import Classifier, evaluating


@dataclass(frozen=True)
class AttackResult:
    """Adversarial inputs of N samples at E epsilons, detached; of a minimal-norm attack, which has none, E is 1.

    inputs: float32 [E, N, ...] in [0, 1]; the original where a minimal-norm attack found nothing.
    distance: float32 [E, N], size of the perturbation in the attack's norm, in input units (L0: changed values).
    queries: int64 [E, N], forward passes that the attacker asked for; judging is not counted.
    backwards: int64 [E, N], backward passes that the attacker asked for.
    success: bool [E, N], whether the classifier errs on the adversarial input, as it does on a clean mistake.
    """

    inputs: Tensor
    distance: Tensor
    queries: Tensor
    backwards: Tensor
    success: Tensor


def judged(
    classifier: Classifier,
    adversarial: Tensor,
    inputs: Tensor,
    labels: Tensor,
    *,
    norm: str,
    queries: Tensor,
    backwards: Tensor,
) -> AttackResult:
    """The result of `adversarial` [E, N, ...], judged on the classifier itself and not on its gradient view."""
    with evaluating(classifier), torch.no_grad():
        success = torch.stack([classifier(candidates).argmax(1) != labels for candidates in adversarial])
    distance = torch.stack([DISTANCES[norm](candidates, inputs) for candidates in adversarial]).float()
    return AttackResult(adversarial, distance, queries, backwards, success)


def check_inputs(inputs: Tensor) -> None:
    """Raises ValueError if an input is outside [0, 1] or not a number."""
    _check_range("inputs", inputs, 1)


def checked_epsilons(inputs: Tensor, epsilons: Tensor, norm: str) -> Tensor:
    """`epsilons` ([E] or [E, N]) as float64 [E, N] on the device of `inputs` [N, ...].

    Raises ValueError if an input is outside [0, 1] or not a number, if an epsilon is (in other norms than linf: if it
    is below 0 or not finite), or if their shapes do not fit.
    """
    check_inputs(inputs)
    _check_range("epsilons", epsilons, 1 if norm == "linf" else torch.finfo(torch.float64).max)
    table = epsilons.to(inputs.device, torch.float64)
    table = table[:, None].expand(-1, len(inputs)) if table.ndim == 1 else table
    if table.ndim != 2 or table.shape[1] != len(inputs):
        raise ValueError(f"epsilons: shape {list(epsilons.shape)}: expected [E] or [E, {len(inputs)}]")
    return table


def _check_range(name: str, values: Tensor, highest: float) -> None:
    outside = values[~((values >= 0) & (values <= highest))]
    if len(outside):
        expected = "values in [0, 1]" if highest == 1 else "finite values of at least 0"
        raise ValueError(f"{name}: {outside[0].item()}: expected {expected}")
