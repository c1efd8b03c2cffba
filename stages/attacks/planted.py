"""Classifiers with an adversarial example planted in the ball, which an attack that can be relied on has to find.

The binarization test of Zimmermann, Brendel, Tramer and Carlini, "Increasing confidence in adversarial robustness
evaluations", NeurIPS 2022, https://arxiv.org/abs/2206.13991: for one sample, the attacked classifier gets a last layer
with two classes, which tells one point on the ball's surface from all others in the ball. All else that may hinder an
attacker stays: filters, chance, rounding, what happens to the logits, and the gradient view.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stages.attacks.batches import per_sample
from stages.attacks.distances import project_l2, project_linf, unit
from stages.attacks.grid import TOLERANCE, to_digital
from stages.classifier import Classifier, evaluating
from stages.datasets.levels import levels_of
from stages.quantization.frozen_layers import Codes

OTHERS = 256  # random points of the ball that are not adversarial, the original and many of the surface among them
CANDIDATES = 8  # points of the surface of which one is planted
DRAWS = 16  # of a random classifier: the planted point is adversarial in all of them
RIDGE = 0.1  # in units of the features' mean variance: what hardly ever changes must not decide alone
CLEARANCE = 1.25  # how far out the planted point is at least, in units of the outermost of the others
CLOSENESS = 0.9  # where the threshold lies on the way from there to the planted point
TINY = 1e-12  # the variance of features that never change


class LastLayer(NamedTuple):
    """What turns features into logits, and the gap between the two highest logits that it typically gives.

    The median of those above 0, since quantized logits tie, and a readout with a gap of 0 would be flat everywhere; 1
    where all tie.
    """

    layer: nn.Module
    margin: float


class Readout(NamedTuple):
    """A last layer for one sample: of its two classes, 1 is adversarial.

    centre, direction: float32 [D]. threshold: how far features have to be from the centre along the direction.
    point: float32 [...], the planted one.
    """

    centre: Tensor
    direction: Tensor
    threshold: Tensor
    point: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """[N, 2] of features [N, D]."""
        beyond = ((features - self.centre) @ self.direction - self.threshold) / 2
        return torch.stack([-beyond, beyond], 1)


def last_layer(classifier: Classifier, inputs: Tensor) -> LastLayer:
    """The last layer with weights that gives the logits of all classes, found by a look at inputs [N, ...].

    Raises ValueError if there is none.
    """
    seen: list[LastLayer] = []

    def remember(layer: nn.Module, arguments: tuple, output: object) -> None:
        # Passes of a random classifier may be rows of one batch.
        passes = isinstance(output, Tensor) and output.ndim == 2 and len(output) % len(inputs) == 0
        if passes and output.shape[1] == classifier.num_classes:
            highest = output.topk(2).values
            gaps = highest[:, 0] - highest[:, 1]
            apart = gaps[gaps > 0]
            seen.append(LastLayer(layer, apart.median().item() if len(apart) else 1.0))

    handles = [module.register_forward_hook(remember) for module in classifier.modules() if _has_weights(module)]
    try:
        with evaluating(classifier), torch.no_grad():
            classifier(inputs)
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise ValueError(f"classifier: no layer with weights gives {classifier.num_classes} logits, expected one")
    return seen[-1]


@contextmanager
def two_classes(classifier: Classifier, layer: nn.Module, readout: Readout) -> Iterator[None]:
    """Inside, a readout stands in the place of the classifier's last layer."""

    def replace(layer: nn.Module, arguments: tuple, logits: Tensor) -> Tensor:
        return readout.logits(_flat(arguments[0]))

    num_classes, classifier.num_classes = classifier.num_classes, 2
    handle = layer.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
        classifier.num_classes = num_classes


def plant(
    classifier: Classifier,
    original: Tensor,
    *,
    norm: str,
    epsilon: float,
    digital: bool,
    margin: float,
    generator: torch.Generator,
) -> Readout | None:
    """The readout by which one point at distance epsilon is adversarial, and other points of the ball are not.

    It is Fisher's discriminant between random points, half of them on the surface, and that one on the surface which
    stands out the most. In as many dimensions as a last hidden layer has, nearly every point does in some direction.
    The paper takes all others from further inside; a filter that lets through only the largest changes would then make
    every point of the surface adversarial.
    original: float32 [...] in [0, 1], on the grid where digital. epsilon: above 0, in input units.
    margin: the gap between the original's two logits, above 0. As that of the classifier itself, it leaves the attacker
    with losses that are as steep, or as flat.
    None where no candidate stood out.
    """

    def features(points: Tensor) -> Tensor:
        """[M, D] in float64: inside a small ball features differ by little."""
        with evaluating(classifier), torch.no_grad():
            return _flat(classifier.features(points)).double()

    def random_points(radii: Tensor) -> Tensor:
        return points_at(original, radii, norm=norm, digital=digital, generator=generator)

    radii = epsilon * (2 * torch.rand(OTHERS, generator=generator)).clamp(max=1)
    radii[0] = 0  # the original
    others = features(random_points(radii))
    centre = others.mean(0)
    others = others - centre
    spread = others.T @ others / len(others)
    spread.diagonal().add_(RIDGE * spread.diagonal().mean() + TINY)
    candidates = random_points(torch.full((CANDIDATES,), epsilon))
    repeats = DRAWS if classifier.stochastic else 1
    draws = features(candidates.repeat_interleave(repeats, 0)).unflatten(0, (CANDIDATES, repeats)) - centre
    directions = torch.linalg.solve(spread, draws.mean(1).T)  # [D, CANDIDATES]
    outermost = (others @ directions).amax(0)
    planted = torch.einsum("crd,dc->cr", draws, directions).amin(1)
    chosen = (planted / (outermost + TINY)).argmax()
    if planted[chosen] <= CLEARANCE * outermost[chosen]:
        return None
    direction, threshold = directions[:, chosen], torch.lerp(outermost[chosen], planted[chosen], CLOSENESS)
    steepness = margin / (threshold - others[0] @ direction)
    parts = (part.float() for part in (centre, steepness * direction, steepness * threshold))
    return Readout(*parts, candidates[chosen])


def points_at(original: Tensor, radii: Tensor, *, norm: str, digital: bool, generator: torch.Generator) -> Tensor:
    """Random points [M, ...] in [0, 1] at distances `radii` [M] of one original [...], as far as [0, 1] lets them.

    In linf they are corners of the ball. In l1 and l0 they change values to their farther ends, the ends of [0, 1],
    one after the other, and so few of them. Where digital, points are on the grid, and no further away.
    """
    originals = original.cpu().expand(len(radii), *original.shape)
    reach, levels = per_sample(radii, originals), levels_of(original.shape)
    if norm == "linf":
        signs = torch.rand(originals.shape, generator=generator).sub(0.5).sign()
        points = project_linf(originals + reach * signs, originals, radii.double())
    elif norm == "l2":
        draw = torch.randn(originals.shape, generator=generator, dtype=torch.float64)
        points = project_l2(originals + reach * unit(draw), originals, radii.double())
    else:
        changes = _few_changes(originals.flatten(1), radii, norm, levels if digital else None, generator)
        points = originals + changes.reshape(originals.shape)
    if digital:
        points = to_digital(points, originals, radii.max().item(), norm, levels)
    layout = torch.channels_last if points.ndim == 4 else torch.contiguous_format
    return points.to(original.device).contiguous(memory_format=layout)


def _few_changes(values: Tensor, radii: Tensor, norm: str, levels: int | None, generator: torch.Generator) -> Tensor:
    """Changes [M, V] of values [M, V] in [0, 1], by whole levels where there are any."""
    whole = (values < 0.5).float() - values
    cost = whole.abs() if norm == "l1" else torch.ones_like(whole)
    order = torch.rand(values.shape, generator=generator).argsort(1)
    before = torch.zeros_like(cost).scatter(1, order, cost.gather(1, order).cumsum(1)) - cost
    share = ((radii[:, None] - before) / cost).clamp(0, 1)
    if norm == "l0":
        share = (share + TOLERANCE).floor()
    changes = share * whole
    return (changes.abs() * levels + TOLERANCE).floor() / levels * changes.sign() if levels else changes


def _flat(features: Tensor | Codes) -> Tensor:
    """[N, D]."""
    return (features.values if isinstance(features, Codes) else features).flatten(1)


def _has_weights(module: nn.Module) -> bool:
    own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    return any(name == "weight" for name, _ in own)
