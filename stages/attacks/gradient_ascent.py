"""What gradient attacks with a budget share: points of the ball, counted passes, and the strongest of many runs.

Such an attack is a generator over an `Ascent`: each run climbs a loss inside the ball and yields where it arrived.
"""

from collections.abc import Callable, Iterator
from functools import partial, reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stages.attacks.balls import BALLS
from stages.attacks.batches import per_sample, where
from stages.attacks.draws import split
from stages.attacks.losses import Loss, cross_entropy
from stages.attacks.result import AttackResult, checked_epsilons, judged
from stages.classifier import Classifier, evaluating


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

    classifier: what has to err. view: what is differentiated, from inputs to logits.
    norm: of `BALLS`. inputs: float32 [N, ...], the originals. labels: int64 [N].
    epsilons: float64 [N], above 0, in input units.
    unit_draw: a draw from the unit ball, of the inputs' shape, another one each time.
    stop_when_broken: where a point is found on which the classifier errs, the sample takes part in no later pass. Its
    place in the batch stays, with a gradient of 0 and a loss of -infinity, so that an attack need not know.
    standing: bool [N], which samples take part. broken_at: float32 [N, ...], where the others broke.
    forwards, backwards: int64 [N], passes so far.
    """

    def __init__(
        self,
        classifier: nn.Module,
        view: nn.Module,
        norm: str,
        inputs: Tensor,
        labels: Tensor,
        epsilons: Tensor,
        unit_draw: Callable[[], Tensor],
        *,
        stop_when_broken: bool = False,
    ) -> None:
        self.classifier, self.view, self.inputs, self.labels = classifier, view, inputs, labels
        self.ball, self.unit_draw = BALLS[norm](inputs, epsilons), unit_draw
        self.project, self.steepest = self.ball.project, self.ball.steepest
        self.epsilons = per_sample(epsilons.float(), inputs)
        self.stop_when_broken = stop_when_broken
        self.standing = torch.ones_like(labels, dtype=torch.bool)
        self.broken_at = inputs.clone()
        self.forwards, self.backwards = torch.zeros_like(labels), torch.zeros_like(labels)

    def random_start(self) -> Tensor:
        """A draw from the ball, clipped to [0, 1]."""
        return self.project(self.inputs + self.epsilons * self.unit_draw())

    def steps(self, count: int) -> Iterator[int]:
        """0, 1, ... below `count`, as long as any sample stands."""
        for step in range(count):
            if not self._any_stands():
                return
            yield step

    def logits(self, points: Tensor, module: nn.Module | None = None) -> Tensor:
        """Logits [N, K] without a gradient, those of the view or of another module; 0 where a sample broke."""
        with torch.no_grad():
            return self._forward(points, module or self.view)

    def look(self, points: Tensor, loss: Loss, module: nn.Module | None = None) -> Found:
        """What is at the points, without a gradient, by the view or by another module."""
        if not self._any_stands():
            return self._nothing(points)
        logits = self.logits(points, module)
        return self._found(points, logits, loss(logits, self.labels))

    def climb(self, points: Tensor, loss: Loss) -> tuple[Found, Tensor]:
        """What is at the points, and the gradient [N, ...] of each sample's loss there."""
        if not self._any_stands():
            return self._nothing(points), torch.zeros_like(points)
        leaf = points.detach().requires_grad_()
        with torch.enable_grad():
            logits = self._forward(leaf, self.view)
            losses = loss(logits, self.labels)
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        self.backwards += self.standing
        return self._found(points, logits.detach(), losses.detach()), gradient

    def _any_stands(self) -> bool:
        return not self.stop_when_broken or bool(self.standing.any())

    def _forward(self, points: Tensor, module: nn.Module) -> Tensor:
        self.forwards += self.standing
        if not self.stop_when_broken or self.standing.all():
            return module(points)
        logits = module(points[self.standing])
        return logits.new_zeros(len(points), logits.shape[1]).index_put((self.standing,), logits)

    def _found(self, points: Tensor, logits: Tensor, loss: Tensor) -> Found:
        wrong = (logits.argmax(1) != self.labels) & self.standing
        found = Found(points, wrong, loss.masked_fill(~self.standing, -torch.inf))
        if self.stop_when_broken and wrong.any():
            self._leave(points, wrong)
        return found

    def _leave(self, points: Tensor, wrong: Tensor) -> None:
        """Those leave on which the classifier itself errs, by one query each: the view's draws may be others."""
        self.forwards += wrong
        broken = wrong.clone()
        with torch.no_grad():
            broken[wrong] = self.classifier(points[wrong]).argmax(1) != self.labels[wrong]
        self.broken_at = where(broken, points.detach(), self.broken_at)
        self.standing = self.standing & ~broken

    def _nothing(self, points: Tensor) -> Found:
        return Found(points, torch.zeros_like(self.standing), torch.full_like(self.epsilons.flatten(), -torch.inf))


def attack_each_epsilon(
    runs: Callable[[Ascent], Iterator[Tensor]],
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    norm: str = "linf",
    epsilons: Tensor,
    generator: torch.Generator,
    stop_when_broken: bool = False,
) -> AttackResult:
    """Attack at every epsilon, each sample with its full budget, and keep per sample the strongest of the runs.

    runs: yields where each run arrived, points [N, ...]. Of several, the classifier itself says which is the strongest,
    by its error and then its cross-entropy, at the price of one query a run.
    inputs: float32 [N, ...] in [0, 1]. labels: int64 [N]. norm: of `BALLS`. epsilons: [E] or [E, N] in input units, in
    the maximum norm at most 1; 0 leaves the inputs as they are.
    generator: seeds the random parts, for every epsilon alike: random starts are the same draws from the unit ball,
    scaled by epsilon. No epsilon depends on which others are asked for, and two differ by their sizes alone. A sample's
    starts depend on its place in the batch, not on the samples beside it.
    stop_when_broken: a sample is done at the first point on which the classifier errs, confirmed by one query.
    Raises ValueError if inputs are outside [0, 1], or if epsilons are outside the norm's range.
    """
    table = checked_epsilons(inputs, epsilons, norm)
    originals = inputs.detach()
    seed = split(generator).initial_seed()
    queries = torch.zeros(table.shape, dtype=torch.int64, device=inputs.device)
    backwards = torch.zeros_like(queries)
    adversarial = []
    with evaluating(classifier):
        for row, radii in enumerate(table):
            candidates, asked = originals.clone(), radii > 0
            if asked.any():
                draws = torch.Generator().manual_seed(seed)
                view = classifier.gradient_view(split(draws))
                ascent = Ascent(
                    classifier,
                    view,
                    norm,
                    originals[asked],
                    labels[asked],
                    radii[asked],
                    partial(_unit_draw, norm, originals, asked, draws),
                    stop_when_broken=stop_when_broken,
                )
                candidates[asked] = _strongest(runs, ascent)
                queries[row, asked], backwards[row, asked] = ascent.forwards, ascent.backwards
            adversarial.append(candidates)
    return judged(classifier, torch.stack(adversarial), inputs, labels, norm=norm, queries=queries, backwards=backwards)


def _unit_draw(norm: str, inputs: Tensor, asked: Tensor, generator: torch.Generator) -> Tensor:
    """A draw from the unit ball for the samples that are asked for, bool [N], in the inputs' memory layout.

    Drawn for the whole batch, so that a sample's part does not depend on which others are asked for.
    """
    return BALLS[norm].draw(inputs, split(generator))[asked]


def _strongest(runs: Callable[[Ascent], Iterator[Tensor]], ascent: Ascent) -> Tensor:
    """Per sample where it broke, if it left, else where its strongest run arrived."""
    arrived = []
    for points in runs(ascent):
        arrived.append(points)
        if not ascent.standing.any():
            return ascent.broken_at
    if len(arrived) > 1:
        arrived = [
            reduce(Found.or_stronger, (ascent.look(run, cross_entropy, ascent.classifier) for run in arrived)).points
        ]
    return where(ascent.standing, arrived[0], ascent.broken_at)
