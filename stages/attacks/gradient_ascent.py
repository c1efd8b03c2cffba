"""What gradient attacks in the maximum norm share: points of the ball, counted passes, and the strongest of many runs.

Such an attack is a generator over an `Ascent`: each run climbs a loss inside the ball and yields where it arrived.
"""

from collections.abc import Callable, Iterator
from functools import partial, reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.attacks.distances import project_linf
from stages.attacks.result import AttackResult, checked_epsilons, judged
from stages.classifier import Classifier, evaluating

Loss = Callable[[Tensor, Tensor], Tensor]  # of logits [N, K] and labels [N]: what to raise, one value a sample [N]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Each sample's cross-entropy [N], in nats."""
    return functional.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """How far the highest other logit is above the label's, [N]: positive where the classifier errs."""
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.amax(1) - logits.gather(1, labels[:, None])[:, 0]


def where(samples: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """`one` [N, ...] for the samples, bool [N], and `other` [N, ...] for the rest."""
    return torch.where(samples.reshape(-1, *[1] * (one.ndim - 1)), one, other)


class Found(NamedTuple):
    """Points and what the classifier makes of them."""

    points: Tensor  # float32 [N, ...]
    wrong: Tensor  # bool [N], whether the predicted class is not the label
    loss: Tensor  # float32 [N]

    def replaced(self, samples: Tensor, rival: "Found") -> "Found":
        """The rival for the samples, bool [N], and this for the rest."""
        return Found(*(where(samples, new, old) for new, old in zip(rival, self, strict=True)))

    def or_stronger(self, rival: "Found") -> "Found":
        """Per sample the stronger of the two: an error beats none, and then the higher loss does."""
        return self.replaced(
            (rival.wrong & ~self.wrong) | ((rival.wrong == self.wrong) & (rival.loss > self.loss)), rival
        )


class Ascent:
    """One batch, each sample with its epsilon: the points that an attacker may try, and what is found there.

    view: what is differentiated, from inputs to logits.
    inputs: float32 [N, ...], the originals. labels: int64 [N]. epsilons: float64 [N], above 0, in input units.
    unit_draw: a uniform draw of the inputs' shape from [-1, 1], another one each time.
    forwards, backwards: passes so far, of every sample alike.
    """

    def __init__(
        self, view: nn.Module, inputs: Tensor, labels: Tensor, epsilons: Tensor, unit_draw: Callable[[], Tensor]
    ) -> None:
        self.view, self.inputs, self.labels, self.unit_draw = view, inputs, labels, unit_draw
        self.epsilons = epsilons.float().reshape(-1, *[1] * (inputs.ndim - 1))
        # Ball and [0, 1] together are a box. Its corners are found in float64 once; then a clamp in float32 is exact.
        self.lowest = project_linf(torch.zeros_like(inputs), inputs, epsilons)
        self.highest = project_linf(torch.ones_like(inputs), inputs, epsilons)
        self.forwards = self.backwards = 0

    def project(self, points: Tensor) -> Tensor:
        """The nearest points in the ball and in [0, 1]."""
        return points.clamp(self.lowest, self.highest)

    def random_start(self) -> Tensor:
        """A uniform draw from the ball, clipped to [0, 1]."""
        return self.project(self.inputs + self.epsilons * self.unit_draw())

    def logits(self, points: Tensor, module: nn.Module | None = None) -> Tensor:
        """Logits [N, K] without a gradient, those of the view or of another module."""
        self.forwards += 1
        with torch.no_grad():
            return (module or self.view)(points)

    def look(self, points: Tensor, loss: Loss, module: nn.Module | None = None) -> Found:
        """What is at the points, without a gradient, by the view or by another module."""
        logits = self.logits(points, module)
        return Found(points, logits.argmax(1) != self.labels, loss(logits, self.labels))

    def climb(self, points: Tensor, loss: Loss) -> tuple[Found, Tensor]:
        """What is at the points, and the gradient [N, ...] of each sample's loss there."""
        self.forwards += 1
        self.backwards += 1
        leaf = points.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.view(leaf)
            losses = loss(logits, self.labels)
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        return Found(points, logits.detach().argmax(1) != self.labels, losses.detach()), gradient


def attack_each_epsilon(
    runs: Callable[[Ascent], Iterator[Tensor]],
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    epsilons: Tensor,
    generator: torch.Generator,
) -> AttackResult:
    """Attack at every epsilon, each sample with its full budget, and keep per sample the strongest of the runs.

    runs: yields where each run arrived, points [N, ...]. Of several, the classifier itself says which is the strongest,
    by its error and then its cross-entropy, at the price of one query a run.
    inputs: float32 [N, ...] in [0, 1]. labels: int64 [N]. epsilons: [E] or [E, N] in [0, 1], in input units; 0 leaves
    the inputs as they are.
    generator: seeds the random parts, for every epsilon alike: random starts are the same draws from the unit ball,
    scaled by epsilon. No epsilon depends on which others are asked for, and two differ by their sizes alone. A sample's
    starts depend on its place in the batch, not on the samples beside it.
    Raises ValueError if inputs or epsilons are outside [0, 1].
    """
    table = checked_epsilons(inputs, epsilons, "linf")
    originals = inputs.detach()
    seed = _split(generator).initial_seed()
    queries = torch.zeros(table.shape, dtype=torch.int64, device=inputs.device)
    backwards = torch.zeros_like(queries)
    adversarial = []
    with evaluating(classifier):
        for row, radii in enumerate(table):
            candidates, asked = originals.clone(), radii > 0
            if asked.any():
                draws = torch.Generator().manual_seed(seed)
                view = classifier.gradient_view(_split(draws))
                unit_draw = partial(_unit_draw, originals, asked, draws)
                ascent = Ascent(view, originals[asked], labels[asked], radii[asked], unit_draw)
                candidates[asked] = _strongest(list(runs(ascent)), ascent, classifier)
                queries[row, asked], backwards[row, asked] = ascent.forwards, ascent.backwards
            adversarial.append(candidates)
    return judged(
        classifier, torch.stack(adversarial), inputs, labels, norm="linf", queries=queries, backwards=backwards
    )


def _unit_draw(inputs: Tensor, asked: Tensor, generator: torch.Generator) -> Tensor:
    """A uniform draw from [-1, 1] for the samples that are asked for, bool [N], in the inputs' memory layout.

    Drawn for the whole batch, so that a sample's part does not depend on which others are asked for.
    """
    draw = torch.empty_like(inputs).copy_(torch.rand(inputs.shape, generator=_split(generator)))
    return draw[asked] * 2 - 1


def _split(generator: torch.Generator) -> torch.Generator:
    """A generator of its own, so that however much is drawn from it changes no draw after it."""
    return torch.Generator().manual_seed(torch.randint(2**62, (), generator=generator).item())


def _strongest(points: list[Tensor], ascent: Ascent, classifier: Classifier) -> Tensor:
    if len(points) == 1:
        return points[0]
    return reduce(Found.or_stronger, (ascent.look(run, cross_entropy, classifier) for run in points)).points
