"""What minimal-norm attacks share: counted passes, and per sample the nearest adversarial point that was looked at.

Such an attack takes no epsilons. It is a function of a `Search`: wherever it looks, what errs and is nearer is kept.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from stages.attacks.distances import DISTANCES
from stages.attacks.gradient_ascent import Loss
from stages.attacks.result import AttackResult, check_inputs, judged
from stages.classifier import Classifier, evaluating

BATCH = 512  # points in one pass through the network


class Search:
    """One batch of samples that the classifier gets right, and what an attacker has found around them.

    inputs: float32 [N, ...], the originals. labels: int64 [N], their classes. norm: what distances are measured in.
    nearest: float32 [N, ...], the nearest adversarial points seen; the originals where none was.
    distance: float64 [N], how far they are; infinite where there is none.
    forwards, backwards: int64 [N], passes so far.

    Points are float32 [M, ...] in [0, 1], and `samples`, int64 [M], says which sample each belongs to; one sample may
    own many of them. Without `samples` there is one point for each sample.
    """

    def __init__(self, network: torch.nn.Module, inputs: Tensor, labels: Tensor, norm: str) -> None:
        self.network, self.inputs, self.labels, self.norm = network, inputs, labels, norm
        self.nearest = inputs.clone()
        self.distance = torch.full(labels.shape, torch.inf, dtype=torch.float64, device=inputs.device)
        self.forwards = torch.zeros_like(labels)
        self.backwards = torch.zeros_like(labels)

    @property
    def found(self) -> Tensor:
        """Whether an adversarial point was seen, bool [N]."""
        return self.distance.isfinite()

    def logits(self, points: Tensor, samples: Tensor | None = None) -> Tensor:
        """Logits [M, K] without a gradient."""
        samples = self._owners(samples)
        with torch.no_grad():
            logits = torch.cat([self.network(part) for part in points.split(BATCH)])
        self._keep(points, logits, samples)
        return logits

    def gradient(self, points: Tensor, loss: Loss, samples: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits [M, K], and the gradient [M, ...] of each point's loss, one backward pass each."""
        samples = self._owners(samples)
        logits, gradients = [], []
        for part, labels in zip(points.split(BATCH), self.labels[samples].split(BATCH), strict=True):
            leaf = part.detach().requires_grad_()
            with torch.enable_grad():
                seen = self.network(leaf)
                gradients.append(torch.autograd.grad(loss(seen, labels).sum(), leaf)[0])
            logits.append(seen.detach())
        self.backwards += torch.bincount(samples, minlength=len(self.labels))
        self._keep(points, torch.cat(logits), samples)
        return torch.cat(logits), torch.cat(gradients)

    def _owners(self, samples: Tensor | None) -> Tensor:
        return torch.arange(len(self.labels), device=self.labels.device) if samples is None else samples

    def _keep(self, points: Tensor, logits: Tensor, samples: Tensor) -> None:
        """Count one forward pass each, and keep what errs and is nearer than anything seen before."""
        self.forwards += torch.bincount(samples, minlength=len(self.labels))
        distance = DISTANCES[self.norm](points, self.inputs[samples]).double()
        distance = distance.masked_fill(logits.argmax(1) == self.labels[samples], torch.inf)
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
) -> AttackResult:
    """Search around every sample that the classifier gets right, and keep the nearest input on which it errs.

    find: the attack; all that it looks at is a candidate. It draws from the generator that it is given.
    inputs: float32 [N, ...] in [0, 1]. labels: int64 [N]. norm: of `DISTANCES`.
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
            search = Search(network, originals[right], labels[right], norm)
            find(search, draws)
            nearest[right] = search.nearest
            forwards[right] += search.forwards
            backwards[right] += search.backwards
    return judged(
        classifier, nearest[None], inputs, labels, norm=norm, queries=forwards[None], backwards=backwards[None]
    )
