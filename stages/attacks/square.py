"""Square Attack: Andriushchenko, Croce, Flammarion and Hein, "Square Attack: a query-efficient black-box adversarial
attack via random search", ECCV 2020, https://arxiv.org/abs/1912.00049 (Algorithms 1 and 2, maximum norm)."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from stages.attacks.distances import project_linf
from stages.attacks.draws import split
from stages.attacks.losses import margin
from stages.attacks.result import AttackResult, checked_epsilons, judged
from stages.classifier import Classifier, evaluating
from stages.knobs import Count, Fraction
from stages.seeds import seed_of

NORM = "linf"
THREAT = "black_box"
ITERATIVE = False  # in gradient steps: epsilon 1 tests gradients, and none are taken here
BUDGET = ("queries",)  # what twice the effort doubles

# Section 3.2: the queries after which the fraction of changed pixels is halved, of a budget of SCHEDULE_BUDGET.
HALVINGS = (10, 50, 200, 1000, 2000, 4000, 6000, 8000)
SCHEDULE_BUDGET = 10_000

# From a query's place in the sequence, the best points so far [N, C, H, W] and which samples of the batch they belong
# to, int64 [N], to the points to ask about.
Proposal = Callable[[int, Tensor, Tensor], Tensor]


def attack(
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    epsilons: Tensor,
    generator: torch.Generator,
    queries: Count = 1000,
    initial_fraction: Fraction = 0.05,
    stop_when_broken: bool = False,
) -> AttackResult:
    """Recolour random squares of the perturbation, keep what raises the margin, and see nothing but logits.

    inputs: float32 [N, C, H, W] in [0, 1]. labels: int64 [N]. epsilons: [E] or [E, N] in [0, 1], in input units; 0
    leaves the inputs as they are and asks nothing.
    queries: forward passes per sample, all of them made, since a higher margin also counts after the first success.
    initial_fraction: of the pixels, that the first squares cover (the paper's p).
    stop_when_broken: samples leave the batch at their first success, as in the paper; for sets that are never replayed.
    A sample's draws depend on the generator and its own position and are the same for every epsilon. So its result does
    not depend on which other samples and epsilons are asked for, as far as its logits do not.
    Raises ValueError if inputs are no images, or if inputs or epsilons are outside [0, 1].
    """
    table = checked_epsilons(inputs, epsilons, NORM)
    check_images(inputs)
    sides = side_lengths(tuple(inputs.shape[2:]), queries, initial_fraction)
    draws = _draw(inputs.shape, sides, generator).to(inputs.device)

    def search(originals: Tensor, targets: Tensor, radii: Tensor, attacked: Tensor) -> tuple[Tensor, Tensor]:
        start, propose = _squares_at_the_ends(originals, radii, draws.of(attacked), sides)
        return random_search(classifier, start, targets, propose, len(sides), stop_when_broken)

    return search_each_epsilon(search, classifier, inputs, labels, table, NORM)


def search_each_epsilon(
    search: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    table: Tensor,
    norm: str,
) -> AttackResult:
    """The result of a search without gradients at every epsilon of the table, float64 [E, N]; 0 asks nothing.

    search: from originals, labels, radii and which samples of the batch those are (bool [N]) to points and queries.
    """
    adversarial = torch.stack([inputs.detach()] * len(table))
    asked = torch.zeros(table.shape, dtype=torch.int64, device=inputs.device)
    with evaluating(classifier), torch.no_grad():
        for row, radii in enumerate(table):
            attacked = radii > 0
            if attacked.any():
                found = search(inputs[attacked], labels[attacked], radii[attacked], attacked)
                adversarial[row, attacked], asked[row, attacked] = found
    return judged(classifier, adversarial, inputs, labels, norm=norm, queries=asked, backwards=torch.zeros_like(asked))


def random_search(
    classifier: Classifier, start: Tensor, labels: Tensor, propose: Proposal, steps: int, stop_when_broken: bool
) -> tuple[Tensor, Tensor]:
    """Algorithm 1: the points [N, C, H, W] of the highest margin seen, and the queries int64 [N] that this took."""
    points = start
    highest = margin(classifier(points), labels)
    queries = torch.ones_like(labels)
    searching = torch.arange(len(labels), device=labels.device)
    for step in range(steps):
        if stop_when_broken:
            searching = (highest <= 0).nonzero()[:, 0]
            if not len(searching):
                break
        candidates = propose(step, points[searching], searching)
        found = margin(classifier(candidates), labels[searching])
        queries[searching] += 1
        better = found > highest[searching]
        improved = searching[better]
        points[improved], highest[improved] = candidates[better], found[better]
    return points, queries


def check_images(inputs: Tensor) -> None:
    """Raises ValueError if inputs are no images [N, C, H, W]."""
    if inputs.ndim != 4:
        raise ValueError(f"inputs: shape {list(inputs.shape)}: expected images [N, C, H, W]")


def side_lengths(image_size: tuple[int, int], queries: int, initial_fraction: float) -> list[int]:
    """The side of the square, in pixels, that each query after the first one recolours in an image (height, width).

    The paper's schedule, rescaled to the budget: sides fall with the square root of the fraction, down to one pixel.
    """
    pixels = math.prod(image_size)
    halvings = [sum(query * SCHEDULE_BUDGET > halving * queries for halving in HALVINGS) for query in range(1, queries)]
    return [min(max(round(math.sqrt(initial_fraction / 2**times * pixels)), 1), *image_size) for times in halvings]


def generators_of_positions(count: int, generator: torch.Generator) -> list[torch.Generator]:
    """A generator for each position in a batch, from one draw, so that no sample's draws depend on another."""
    draw = split(generator).initial_seed()
    return [torch.Generator().manual_seed(seed_of(f"sample {position}", str(draw))) for position in range(count)]


def corners_of_squares(image_size: tuple[int, int], sides: list[int], generator: torch.Generator) -> Tensor:
    """A place for a square of each side, its top and left: int64 [Q, 2], uniform over those inside the image."""
    height, width = image_size
    places = torch.tensor([[height - side + 1, width - side + 1] for side in sides]).reshape(-1, 2)
    # In float64, where no uniform number below 1 is rounded up to a place outside the image.
    return (torch.rand(places.shape, generator=generator, dtype=torch.float64) * places).long()


class _Draws(NamedTuple):
    """What is random, for N samples and Q squares; a colour is one of the two values that a pixel may take.

    stripes: bool [N, C, 1, W]. corners: int64 [N, Q, 2], top and left of each square. colours: bool [N, Q, C].
    """

    stripes: Tensor
    corners: Tensor
    colours: Tensor

    def to(self, device: torch.device) -> "_Draws":
        return _Draws(*(draw.to(device) for draw in self))

    def of(self, samples: Tensor) -> "_Draws":
        return _Draws(*(draw[samples] for draw in self))


def _draw(shape: torch.Size, sides: list[int], generator: torch.Generator) -> _Draws:
    count, channels, height, width = shape
    stripes, corners, colours = [], [], []
    for own in generators_of_positions(count, generator):
        stripes.append(torch.rand(channels, 1, width, generator=own) < 0.5)
        corners.append(corners_of_squares((height, width), sides, own))
        colours.append(torch.rand(len(sides), channels, generator=own) < 0.5)
    return _Draws(*(torch.stack(drawn) for drawn in (stripes, corners, colours)))


def _squares_at_the_ends(inputs: Tensor, radii: Tensor, draws: _Draws, sides: list[int]) -> tuple[Tensor, Proposal]:
    """Stripes to start from, and Algorithm 2 with the draws of these samples.

    Algorithm 2 adds -2 epsilon or 2 epsilon to a square and projects, which sets each value in it to one of the two
    ends of its range: all points are corners of the ball.
    """
    reach = radii.reshape(-1, 1, 1, 1)
    low, high = (project_linf(inputs.double() + change, inputs, radii) for change in (-reach, reach))

    def propose(step: int, points: Tensor, samples: Tensor) -> Tensor:
        is_high = points == high[samples]
        square = _squares(draws.corners[samples, step], sides[step], tuple(inputs.shape[2:]))
        colour = draws.colours[samples, step][:, :, None, None]
        # A square that already has its colour would waste a query, every second one where there is one channel.
        same = (~square | (is_high == colour)).flatten(1).all(1)
        candidate = torch.where(square, colour ^ same[:, None, None, None], is_high)
        return torch.where(candidate, high[samples], low[samples])

    return torch.where(torch.empty_like(inputs, dtype=torch.bool).copy_(draws.stripes), high, low), propose


def _squares(corners: Tensor, side: int, image_size: tuple[int, int]) -> Tensor:
    """Where the squares are whose top and left are `corners` [N, 2]: bool [N, 1, H, W]."""
    rows, columns = (
        (torch.arange(size, device=corners.device) - start[:, None]).unsqueeze(1)
        for size, start in zip(image_size, corners.unbind(1), strict=True)
    )
    inside_rows, inside_columns = ((offsets >= 0) & (offsets < side) for offsets in (rows, columns))
    return inside_rows[..., None] & inside_columns[:, :, None]
