"""AutoAttack: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks", ICML 2020, https://arxiv.org/abs/2003.01690 (section 5), the standard version in the maximum norm."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from stages.attacks import apgd, apgd_targeted, fab_targeted, square
from stages.attacks.distances import project_linf
from stages.attacks.gradient_ascent import Found
from stages.attacks.losses import cross_entropy
from stages.attacks.result import AttackResult, checked_epsilons, judged
from stages.attacks.square import check_images
from stages.classifier import Classifier, evaluating
from stages.knobs import Count

NORM = "linf"
THREAT = "white_box"
ITERATIVE = True
BUDGET = ("steps", "queries")  # what twice the effort doubles

SQUARE_FRACTION = 0.8  # of the pixels, that the first squares of Square Attack cover in AutoAttack


def attack(
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    epsilons: Tensor,
    generator: torch.Generator,
    steps: Count = 100,
    targets: Count = 9,
    queries: Count = 5000,
    stop_when_broken: bool = False,
) -> AttackResult:
    """Auto-PGD on the cross-entropy, targeted Auto-PGD, FAB-T and Square Attack, each on what still stands.

    A sample keeps the adversarial input of the first member that broke it, so that these are of unlike strength and the
    set is not meant to be replayed. One that nothing breaks keeps the input of the highest cross-entropy in its ball.
    inputs: float32 [N, C, H, W] in [0, 1]. labels: int64 [N]. epsilons: [E] or [E, N] in [0, 1], in input units.
    steps: of a run of the first three members. targets: the classes that the second and the third go for.
    queries: of Square Attack. With fewer than 4 classes, targeted Auto-PGD raises the logit margin and not the ratio.
    stop_when_broken: samples also leave inside a member, at the first point that errs (FAB-T goes its whole way).
    Passes a sample: one forward to see whether the classifier is right, else the original itself is adversarial; those
    of the members up to the one that breaks it; and after each of these one forward to see whether it did.
    Raises ValueError if inputs are no images, or if inputs or epsilons are outside [0, 1].
    """
    table = checked_epsilons(inputs, epsilons, NORM)
    check_images(inputs)
    budget = {"stop_when_broken": stop_when_broken}
    members = [
        partial(apgd.attack, steps=steps, **budget),
        partial(apgd_targeted.attack, steps=steps, targets=targets, **budget),
        partial(_nearest, steps=steps, targets=targets),
        partial(square.attack, queries=queries, initial_fraction=SQUARE_FRACTION, **budget),
    ]
    seeds = torch.randint(2**62, (len(members),), generator=generator).tolist()
    with evaluating(classifier):
        rows = [_in_turn(members, seeds, classifier, inputs.detach(), labels, radii) for radii in table]
    adversarial, queries_asked, backwards = (torch.stack(column) for column in zip(*rows, strict=True))
    return judged(classifier, adversarial, inputs, labels, norm=NORM, queries=queries_asked, backwards=backwards)


class _Row(NamedTuple):
    """Of one epsilon, inputs [N, C, H, W] and passes so far, int64 [N]."""

    inputs: Tensor
    queries: Tensor
    backwards: Tensor


def _in_turn(
    members: list[Callable[..., AttackResult]],
    seeds: list[int],
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    radii: Tensor,
) -> _Row:
    """The members in turn, each with its draws, on the samples of epsilons `radii` [N] above 0 that still stand.

    An epsilon of 0 keeps a sample out and its place in the batch, so that no other sample's draws change.
    """

    def look(points: Tensor) -> Found:
        with torch.no_grad():
            logits = classifier(points)
        return Found(points, logits.argmax(1) != labels, cross_entropy(logits, labels))

    strongest, queries, backwards = look(inputs), (radii > 0).long(), torch.zeros_like(labels)
    for member, seed in zip(members, seeds, strict=True):
        standing = (radii > 0) & ~strongest.wrong
        if not standing.any():
            break
        result = member(
            classifier,
            inputs,
            labels,
            epsilons=(radii * standing)[None],
            generator=torch.Generator().manual_seed(seed),
        )
        # The nearest adversarial input that FAB-T finds may lie outside the ball.
        found = look(project_linf(result.inputs[0], inputs, radii))
        strongest = strongest.replaced(standing, strongest.or_stronger(found))
        queries, backwards = queries + result.queries[0] + standing, backwards + result.backwards[0]
    return _Row(strongest.points, queries, backwards)


def _nearest(
    classifier: Classifier, inputs: Tensor, labels: Tensor, *, epsilons: Tensor, generator: torch.Generator, **knobs
) -> AttackResult:
    """FAB-T on the samples of epsilons [1, N] above 0, as if it took epsilons."""
    asked = epsilons[0] > 0
    found = fab_targeted.attack(classifier, inputs[asked], labels[asked], generator=generator, **knobs)
    adversarial, queries, backwards = inputs.clone(), torch.zeros_like(labels), torch.zeros_like(labels)
    adversarial[asked], queries[asked], backwards[asked] = found.inputs[0], found.queries[0], found.backwards[0]
    return judged(
        classifier,
        adversarial[None],
        inputs,
        labels,
        norm=NORM,
        queries=queries[None],
        backwards=backwards[None],
    )
