"""The Jacobian-based saliency map attack: Papernot, McDaniel, Jha, Fredrikson, Celik and Swami, "The limitations of
deep learning in adversarial settings", IEEE EuroS&P 2016, https://arxiv.org/abs/1511.07528 (Algorithms 2 and 3)."""

from typing import Literal

import torch
from torch import Tensor

from stages.attacks.losses import Loss, likeliest_wrong_classes
from stages.attacks.minimal_norm import BATCH, Search, attack_nearest
from stages.attacks.result import AttackResult
from stages.classifier import Classifier
from stages.knobs import Fraction, Positive

NORM = "l0"
THREAT = "white_box"
ITERATIVE = True
PAIRS = 2**22  # saliencies in memory at a time


def attack(
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    theta: Positive = 1.0,
    gamma: Fraction = 0.145,
    targets: Literal["random", "likeliest", "all"] = "likeliest",
    directions: Literal["increase", "decrease", "both"] = "both",
) -> AttackResult:
    """Change the pair of values that raises the target and lowers the other classes most, until the classifier errs.

    inputs: float32 [N, ...] in [0, 1]. labels: int64 [N].
    theta: by how much the two values change in a step, clipped to [0, 1]; they may be chosen again.
    gamma: the share of values that may change (the paper's Upsilon).
    targets: a random wrong class, the wrong one with the highest logit, or all wrong ones, of which the nearest error
    is kept. Any wrong class counts as success, and ends the run.
    directions: whether values may increase, as in Algorithm 2, decrease, as in the paper's variant, or each do what
    helps more; one that has moved does not turn back.
    Saliency is that of the logits (the softmax of a trained network saturates). Of the last pair, each value is tried
    alone as well. A sample is done when it errs, when no pair raises the target and lowers the others, or when another
    target has taken fewer changes.
    Passes a sample and target: one forward and two backward for the original and each step, two forward for the last
    pair; and for each sample one forward that ranks the classes and one that says whether it is right.
    Raises ValueError if an input is outside [0, 1].
    """

    def find(search: Search, generator: torch.Generator) -> None:
        wrong = likeliest_wrong_classes(search.logits(search.inputs), search.labels)
        if targets == "random":
            draws = torch.rand(search.rows_to_draw, generator=generator, dtype=torch.float64)
            chosen = (draws.to(search.places.device)[search.places] * wrong.shape[1]).long()
            wrong = wrong.sort(1).values.gather(1, chosen[:, None])
        elif targets == "likeliest":
            wrong = wrong[:, :1]
        samples = torch.arange(len(wrong), device=wrong.device).repeat(wrong.shape[1])
        for owners, goals in zip(samples.split(BATCH), wrong.T.flatten().split(BATCH), strict=True):
            climb_saliency(search, owners, goals, theta, int(gamma * search.inputs[0].numel()), directions)

    return attack_nearest(find, classifier, inputs, labels, norm=NORM, generator=generator)


def climb_saliency(
    search: Search, samples: Tensor, targets: Tensor, theta: float, most_changes: int, directions: str
) -> None:
    """Algorithm 2 for M runs of samples, int64 [M], toward targets, int64 [M]; at most BATCH of them."""
    points = before = search.inputs[samples]
    turned = torch.zeros_like(points.flatten(1), dtype=torch.int8)  # which way each value has moved: -1, 0 or 1
    places = ways = targets.new_empty(len(targets), 0)  # of the last pair: which values, and which way they went
    while len(samples):
        logits, (rise, others) = search.gradients(points, saliency_parts(targets), samples)
        error = logits.argmax(1) != search.labels[samples]
        if error.any():
            for place, way in zip(places[error].unbind(1), ways[error].unbind(1), strict=True):
                search.logits(moved(before[error], place[:, None], way[:, None] * theta), samples[error])
        changes = (points != search.inputs[samples]).flatten(1).sum(1)
        values = points.flatten(1)
        movable = (turned != 0) | (changes + 2 <= most_changes)[:, None]
        up = movable & (values < 1) & (turned >= 0) & (directions != "decrease")
        down = movable & (values > 0) & (turned <= 0) & (directions != "increase")
        # Moves are numbered: first each value up, then each value down.
        gain, loss = (
            torch.cat([slope.masked_fill(~up, -torch.inf), (-slope).masked_fill(~down, -torch.inf)], 1)
            for slope in (rise.flatten(1), -others.flatten(1))
        )
        pairs, salient = most_salient_pair(gain, loss)
        going = salient & ~error & (changes < search.distance[samples])
        samples, targets, before, turned, pairs = (
            tensor[going] for tensor in (samples, targets, points, turned, pairs)
        )
        places, ways = pairs % turned.shape[1], 1 - 2 * (pairs // turned.shape[1])
        turned = turned.scatter(1, places, ways.to(turned.dtype))
        points = moved(before, places, ways * theta)


def saliency_parts(targets: Tensor) -> Loss:
    """The target's logit and the sum of all others, [M, 2], whose gradients saliency is made of."""

    def parts(logits: Tensor, labels: Tensor) -> Tensor:
        target = logits.gather(1, targets[:, None])
        return torch.cat([target, logits.sum(1, keepdim=True) - target], 1)

    return parts


def moved(points: Tensor, places: Tensor, changes: Tensor) -> Tensor:
    """Points [M, ...] with the values at places [M, P] of the flattened points changed, in [0, 1]."""
    flat = points.flatten(1)
    values = (flat.gather(1, places) + changes).clamp(0, 1)
    return torch.empty_like(points).copy_(flat.scatter(1, places, values).reshape(points.shape))


def most_salient_pair(gain: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
    """The two moves, int64 [M, 2], whose summed gain times summed loss is highest (Algorithm 3); both sums above 0.

    gain: [M, V], how much each move raises the target. loss: [M, V], how much it lowers the others; minus infinity for
    what cannot move. Also says whether there is such a pair, bool [M].
    Exact, without looking at all V^2 pairs: a move with less gain and less loss than two others is in no best pair,
    since one of the two could take its place. What is left are a few moves, and all pairs of these.
    """
    order = gain.argsort(dim=1, descending=True, stable=True)
    ranked = loss.gather(1, order)
    highest = ranked.cummax(1).values[:, :-1]
    second = torch.minimum(ranked[:, 1:], highest).cummax(1).values  # of the losses up to each move
    left = torch.ones_like(ranked, dtype=torch.bool)
    left[:, 2:] = ranked[:, 2:] > second[:, :-1]
    count = int(left.sum(1).max())
    few = order.gather(1, left.byte().argsort(dim=1, descending=True, stable=True)[:, :count])
    gain, loss = gain.gather(1, few), loss.gather(1, few)
    best, salient = [], []
    rows = max(PAIRS // count**2, 1)
    for gains, losses in zip(gain.split(rows), loss.split(rows), strict=True):
        raised, lowered = (part[:, :, None] + part[:, None, :] for part in (gains, losses))
        saliency = (raised * lowered).masked_fill((raised <= 0) | (lowered <= 0), 0)
        saliency.diagonal(dim1=1, dim2=2).zero_()
        value, place = saliency.flatten(1).max(1)
        best.append(torch.stack([place // count, place % count], 1))
        salient.append(value > 0)
    return few.gather(1, torch.cat(best)), torch.cat(salient)
