"""What every attack returns, and how it is judged."""

from dataclasses import dataclass

import torch
from torch import Tensor

from stages.attacks.distances import linf
from stages.classifier import Classifier, evaluating


@dataclass(frozen=True)
class AttackResult:
    """Adversarial inputs of N samples at E epsilons, detached.

    inputs: float32 [E, N, ...] in [0, 1].
    distance: float32 [E, N], L-infinity norm of the perturbation, in input units.
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
    classifier: Classifier, adversarial: Tensor, inputs: Tensor, labels: Tensor, *, queries: Tensor, backwards: Tensor
) -> AttackResult:
    """The result of `adversarial` [E, N, ...], judged on the classifier itself and not on its gradient view."""
    with evaluating(classifier), torch.no_grad():
        success = torch.stack([classifier(candidates).argmax(1) != labels for candidates in adversarial])
    distance = torch.stack([linf(candidates, inputs) for candidates in adversarial]).float()
    return AttackResult(adversarial, distance, queries, backwards, success)


def checked_epsilons(inputs: Tensor, epsilons: Tensor) -> Tensor:
    """`epsilons` ([E] or [E, N]) as float64 [E, N] on the device of `inputs` [N, ...].

    Raises ValueError if an input is outside [0, 1] or not a number, if an epsilon is, or if their shapes do not fit.
    """
    for name, values in (("inputs", inputs), ("epsilons", epsilons)):
        outside = values[~((values >= 0) & (values <= 1))]
        if len(outside):
            raise ValueError(f"{name}: {outside[0].item()}: expected values in [0, 1]")
    table = epsilons.to(inputs.device, torch.float64)
    table = table[:, None].expand(-1, len(inputs)) if table.ndim == 1 else table
    if table.ndim != 2 or table.shape[1] != len(inputs):
        raise ValueError(f"epsilons: shape {list(epsilons.shape)}: expected [E] or [E, {len(inputs)}]")
    return table
