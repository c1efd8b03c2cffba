"""Square Attack in the Euclidean norm: Andriushchenko, Croce, Flammarion and Hein, "Square Attack: a query-efficient
black-box adversarial attack via random search", ECCV 2020, https://arxiv.org/abs/1912.00049 (Algorithms 1 and 3)."""

from typing import NamedTuple

import torch
from torch import Tensor

from stages.attacks.batches import per_sample
from stages.attacks.distances import length, project_l2
from stages.attacks.result import AttackResult, checked_epsilons
from stages.attacks.square import (
    Proposal,
    check_images,
    corners_of_squares,
    generators_of_positions,
    random_search,
    search_each_epsilon,
    side_lengths,
)
from stages.classifier import Classifier
from stages.knobs import Count, Fraction

NORM = "l2"
THREAT = "black_box"
ITERATIVE = False  # in gradient steps: none are taken here
BUDGET = ("queries",)  # what twice the effort doubles

TILES = 5  # along each side of the image, in the perturbation that the search starts from
TINY = 1e-12  # a window without a perturbation has no direction


def attack(
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    epsilons: Tensor,
    generator: torch.Generator,
    queries: Count = 1000,
    initial_fraction: Fraction = 0.1,
    stop_when_broken: bool = False,
) -> AttackResult:
    """Move the perturbation's length from random windows to others, keep what raises the margin, see only logits.

    inputs: float32 [N, C, H, W] in [0, 1]. labels: int64 [N]. epsilons: [E] or [E, N] of at least 0, in input units; 0
    leaves the inputs as they are and asks nothing.
    queries: forward passes per sample, all of them made, since a higher margin also counts after the first success.
    initial_fraction: of the pixels, that the first windows cover (the paper's p).
    stop_when_broken: samples leave the batch at their first success, as in the paper; for sets that are never replayed.
    A sample's draws depend on the generator and its own position and are the same for every epsilon. So its result does
    not depend on which other samples and epsilons are asked for, as far as its logits do not.
    Raises ValueError if inputs are no images or outside [0, 1], or if an epsilon is negative or not finite.
    """
    table = checked_epsilons(inputs, epsilons, NORM)
    check_images(inputs)
    image_size = tuple(inputs.shape[2:])
    sides = [window_side(side, min(image_size)) for side in side_lengths(image_size, queries, initial_fraction)]
    draws = _draw(inputs.shape, sides, generator).to(inputs.device)

    def search(originals: Tensor, targets: Tensor, radii: Tensor, attacked: Tensor) -> tuple[Tensor, Tensor]:
        own = draws.of(attacked)
        start = project_l2(originals + _scaled(_tiled(originals, own.tile_signs), radii), originals, radii)
        propose = _windows_exchanged(originals, radii, own, sides)
        return random_search(classifier, start, targets, propose, len(sides), stop_when_broken)

    return search_each_epsilon(search, classifier, inputs, labels, table, NORM)


def window_side(side: int, image_side: int) -> int:
    """The nearest odd side of at least 3 pixels, so that a window has a middle, as far as the image is large enough."""
    odd = max(side + 1 - side % 2, 3)
    return min(odd, image_side)


def pyramid(height: int, width: int) -> Tensor:
    """Equation 2 with height >= width: a bump [height, width] whose values grow toward its middle."""
    middle = height // 2
    rows = (torch.arange(height) - middle).abs()
    columns = (torch.arange(width) - width // 2).abs()
    rings = middle - torch.maximum(rows[:, None], columns)  # M of the paper
    terms = 1.0 / (middle + 1 - torch.arange(middle + 1)) ** 2
    return terms.cumsum(0)[rings]


def window(side: int) -> Tensor:
    """Section 3.4: two bumps of opposite signs side by side, of unit length [side, side]."""
    left = pyramid(side, side // 2)
    bumps = torch.cat([left, -pyramid(side, side - side // 2)], 1)
    return bumps / bumps.norm()


class _Draws(NamedTuple):
    """What is random, for N samples and Q queries.

    tile_signs: float32 [N, C, TILES, TILES], of the bumps at the start. gaining, losing: int64 [N, Q, 2], top and left
    of the two windows. signs: float32 [N, Q, C]. turned: bool [N, Q], whether the bumps lie one above the other.
    """

    tile_signs: Tensor
    gaining: Tensor
    losing: Tensor
    signs: Tensor
    turned: Tensor

    def to(self, device: torch.device) -> "_Draws":
        return _Draws(*(draw.to(device) for draw in self))

    def of(self, samples: Tensor) -> "_Draws":
        return _Draws(*(draw[samples] for draw in self))


def _draw(shape: torch.Size, sides: list[int], generator: torch.Generator) -> _Draws:
    count, channels, height, width = shape
    drawn = []
    for own in generators_of_positions(count, generator):
        drawn.append(
            (
                torch.rand(channels, TILES, TILES, generator=own).sub(0.5).sign(),
                corners_of_squares((height, width), sides, own),
                corners_of_squares((height, width), sides, own),
                torch.rand(len(sides), channels, generator=own).sub(0.5).sign(),
                torch.rand(len(sides), generator=own) < 0.5,
            )
        )
    return _Draws(*(torch.stack(draws) for draws in zip(*drawn, strict=True)))


def _tiled(inputs: Tensor, signs: Tensor) -> Tensor:
    """Section 3.4: the perturbation to start from [N, C, H, W], a grid of bumps with random signs."""
    tiles = torch.empty_like(inputs)
    height, width = inputs.shape[2:]
    # Tiles share out the image, so that their sizes differ by a pixel at most, and in tiny images some are empty.
    tops, lefts = ([size * tile // TILES for tile in range(TILES + 1)] for size in (height, width))
    for row in range(TILES):
        for column in range(TILES):
            rows, columns = slice(*tops[row : row + 2]), slice(*lefts[column : column + 2])
            side = max(tops[row + 1] - tops[row], lefts[column + 1] - lefts[column])
            bump = pyramid(side, side)[: tops[row + 1] - tops[row], : lefts[column + 1] - lefts[column]]
            tiles[:, :, rows, columns] = signs[:, :, row, column, None, None] * bump.to(inputs.device)
    return tiles


def _scaled(perturbations: Tensor, lengths: Tensor) -> Tensor:
    """The perturbations [N, ...] at these lengths, float64 [N]."""
    return perturbations * per_sample((lengths / length(perturbations)).float(), perturbations)


def _windows_exchanged(inputs: Tensor, radii: Tensor, draws: _Draws, sides: list[int]) -> Proposal:
    """Algorithm 3 with the draws of these samples: one window gives its length to another, and that which is unused."""
    width = inputs.shape[3]
    windows = {side: window(side).to(inputs.device) for side in set(sides)}

    def pixels(corners: Tensor, side: int) -> Tensor:
        """Of the windows at `corners` [N, 2], places in the flattened image: int64 [N, 1, side * side]."""
        offsets = torch.arange(side, device=corners.device)
        top, left = corners.unsqueeze(2).unbind(1)
        return ((top + offsets)[:, :, None] * width + (left + offsets)[:, None]).flatten(1).unsqueeze(1)

    def propose(step: int, points: Tensor, samples: Tensor) -> Tensor:
        originals, radius, side = inputs[samples], radii[samples], sides[step]
        change = (points - originals).flatten(2)
        gaining, losing = (
            pixels(corners[samples, step], side).expand(-1, change.shape[1], -1)
            for corners in (draws.gaining, draws.losing)
        )
        turned = draws.turned[samples, step][:, None, None]
        bump = torch.where(turned, windows[side].T, windows[side]).flatten(1).unsqueeze(1)
        own = change.gather(2, gaining)
        direction = draws.signs[samples, step][:, :, None] * bump + _normalized(own)
        left = change.scatter(2, gaining, 0).scatter(2, losing, 0)
        # By channel: the squared length of both windows, which is now free, and a share of what was never used.
        length = change.square().sum(2, keepdim=True)
        unused = (radius.square().float() - length.sum((1, 2))).clamp_min(0) / change.shape[1]
        available = (length - left.square().sum(2, keepdim=True)).clamp_min(0) + unused[:, None, None]
        changed = left.scatter(2, gaining, _normalized(direction) * available.sqrt())
        # Adding to the originals keeps their memory layout.
        return project_l2(originals + changed.reshape(originals.shape), originals, radius)

    return propose


def _normalized(windows: Tensor) -> Tensor:
    return windows / windows.norm(dim=2, keepdim=True).clamp_min(TINY)
