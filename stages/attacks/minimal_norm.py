"""What minimal-norm attacks share: counted passes, and per sample the nearest adversarial point that was looked at.

Such an attack takes no epsilons. It is a function of a `Search`: wherever it looks, what errs and is nearer is kept.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from stages.attacks.distances import DISTANCES
from stages.attacks.losses import margin
from stages.attacks.result import AttackResult, check_inputs, judged
from stages.classifier import Classifier, evaluating

# Points in one pass through the network. With more, activations leave the processor's cache: of 512, each takes two to
# six times as long as of 64.
BATCH = 64
# Of the largest logit. A float network's logits differ by some 1e-6 of it with the batch that a point is in, and with
# whether a gradient is taken: an error by less might be none when it is judged.
ROUNDING = 1e-5

Distance = Callable[[Tensor, Tensor], Tensor]  # of points [M, ...] and their originals [M, ...]: how far they are, [M]


class Search:
    """One batch of samples that the classifier gets right, and what an attacker has found around them.

    inputs: float32 [N, ...], the originals. labels: int64 [N], their classes.
    norm: what distances are measured in, a name of `DISTANCES` or a function like them.
    confidence: by how much another logit has to exceed the label's for a point to count as adversarial.
    places: int64 [N], where the samples are in the batch, for draws that depend on nothing else: of random numbers
    `draw` for `rows_to_draw` samples, sample i takes `draw[places[i]]`.
    nearest: float32 [N, ...], the nearest adversarial points seen; the originals where none was.
    distance: float64 [N], how far they are; infinite where there is none.
    forwards, backwards: int64 [N], passes so far.

    Points are float32 [M, ...] in [0, 1], and `samples`, int64 [M], says which sample each belongs to; one sample may
    own many of them. Without `samples` there is one point for each sample.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        inputs: Tensor,
        labels: Tensor,
        norm: str | Distance,
        *,
        confidence: float = 0.0,
        places: Tensor | None = None,
    ) -> None:
        self.network, self.inputs, self.labels, self.norm = network, inputs, labels, norm
        self.measure: Distance = DISTANCES[norm] if isinstance(norm, str) else norm
        self.confidence = confidence
        self.places = torch.arange(len(labels), device=labels.device) if places is None else places
        self.nearest = inputs.clone()
        self.distance = torch.full(labels.shape, torch.inf, dtype=torch.float64, device=inputs.device)
        self.forwards = torch.zeros_like(labels)
        self.backwards = torch.zeros_like(labels)

    @property
    def found(self) -> Tensor:
        """Whether an adversarial point was seen, bool [N]."""
        return self.distance.isfinite()

    @property
    def rows_to_draw(self) -> int:
        """For how many samples random numbers have to be drawn, as far as the last place."""
        return int(self.places.max()) + 1

    def logits(self, points: Tensor, samples: Tensor | None = None) -> Tensor:
        """Logits [M, K] without a gradient."""
        samples = self._owners(samples)
        with torch.no_grad():
            logits = torch.cat([self.network(part) for part in points.split(BATCH)])
        self._keep(points, logits, samples)
        return logits

    def gradient(
        self, points: Tensor, loss: Callable[..., Tensor], samples: Tensor | None = None, *others: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits [M, K], and the gradient [M, ...] of each point's loss, one backward pass each.

        loss: of logits, labels and, for as many points, what else is given [M, ...]; it sees the points part by part.
        """
        logits, (gradient,) = self.gradients(points, lambda *given: loss(*given)[:, None], samples, *others)
        return logits, gradient

    def gradients(
        self, points: Tensor, losses: Callable[..., Tensor], samples: Tensor | None = None, *others: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits [M, K], and the gradients [M, ...] of each point's losses [M, L], one backward pass for each of L."""
        samples = self._owners(samples)
        logits, gradients = [], []
        rows = [points, self.labels[samples], *others]
        for part, *given in zip(*(row.split(BATCH) for row in rows), strict=True):
            leaf = part.detach().requires_grad_()
            with torch.enable_grad():
                seen = self.network(leaf)
                sums = losses(seen, *given).sum(0).unbind()
                last = len(sums) - 1
                gradients.append(
                    [torch.autograd.grad(one, leaf, retain_graph=row < last)[0] for row, one in enumerate(sums)]
                )
            logits.append(seen.detach())
        self.backwards += len(gradients[0]) * torch.bincount(samples, minlength=len(self.labels))
        self._keep(points, torch.cat(logits), samples)
        return torch.cat(logits), [torch.cat(parts) for parts in zip(*gradients, strict=True)]

    def wrong(self, logits: Tensor, samples: Tensor | None = None) -> Tensor:
        """Whether points with the logits [M, K] count as adversarial, bool [M]: by more than rounding can undo."""
        labels = self.labels[self._owners(samples)]
        least = (ROUNDING * logits.abs().amax(1)).clamp_min(self.confidence)
        return (logits.argmax(1) != labels) & (margin(logits, labels) >= least)

    def _owners(self, samples: Tensor | None) -> Tensor:
        return torch.arange(len(self.labels), device=self.labels.device) if samples is None else samples

    def _keep(self, points: Tensor, logits: Tensor, samples: Tensor) -> None:
        """Count one forward pass each, and keep what errs and is nearer than anything seen before."""
        self.forwards += torch.bincount(samples, minlength=len(self.labels))
        wrong = self.wrong(logits, samples)
        distance = self.measure(points, self.inputs[samples]).double().masked_fill(~wrong, torch.inf)
        nearer = (distance < self.distance[samples]).nonzero()[:, 0]
        nearer = nearer[distance[nearer].argsort(stable=True)]
        nearer = nearer[samples[nearer].argsort(stable=True)]
        owners = samples[nearer]
        first = torch.ones_like(owners, dtype=torch.bool)  # of each sample's nearer points, the nearest
        first[1:] = owners[1:] != owners[:-1]
        self.nearest[owners[first]] = points[nearer[first]]
        self.distance[owners[first]] = distance[nearer[first]]


def attack_nearest(
    find: Callable[[Search, torch.Generator], None],
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    norm: str,
    generator: torch.Generator,
    gradients: bool = True,
    nearest_in: Distance | None = None,
    confidence: float = 0.0,
) -> AttackResult:
    """Search around every sample that the classifier gets right, and keep the nearest input on which it errs.

    find: the attack; all that it looks at is a candidate. It draws from the generator that it is given.
    inputs: float32 [N, ...] in [0, 1]. labels: int64 [N]. norm: of `DISTANCES`, what the result's distance is.
    nearest_in: what the search calls near, where that is not the norm. confidence: as of `Search`.
    gradients: whether the attack looks at the gradient view, else at the classifier itself.
    One forward pass a sample says which are right; of the others the originals themselves are adversarial.
    Returns one row [1, N]. Where nothing was found, the input is the original and success is false.
    Raises ValueError if an input is outside [0, 1].
    """
    check_inputs(inputs)
    originals = inputs.detach()
    nearest = originals.clone()
    forwards = torch.ones_like(labels)
    backwards = torch.zeros_like(labels)
    with evaluating(classifier):
        with torch.no_grad():
            right = classifier(originals).argmax(1) == labels
        if right.any():
            seed = torch.randint(2**62, (2,), generator=generator).tolist()
            view, draws = (torch.Generator().manual_seed(number) for number in seed)
            network = classifier.gradient_view(view) if gradients else classifier
            search = Search(
                network,
                originals[right],
                labels[right],
                nearest_in or norm,
                confidence=confidence,
                places=right.nonzero()[:, 0],
            )
            find(search, draws)
            nearest[right] = search.nearest
            forwards[right] += search.forwards
            backwards[right] += search.backwards
    return judged(
        classifier, nearest[None], inputs, labels, norm=norm, queries=forwards[None], backwards=backwards[None]
    )
