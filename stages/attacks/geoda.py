"""GeoDA: Rahmati, Moosavi-Dezfooli, Frossard and Dai, "GeoDA: a geometric framework for black-box adversarial attacks",
CVPR 2020, https://arxiv.org/abs/2003.06468 (Algorithm 1, Euclidean norm, in a subspace of low frequencies)."""

import math

import torch
from torch import Tensor

from stages.attacks.batches import per_sample
from stages.attacks.decision_based import (
    Subspace,
    boundary_normal,
    distances,
    halvings_for_probes,
    is_adversarial,
    start,
    to_boundary,
)
from stages.attacks.distances import unit
from stages.attacks.minimal_norm import Search, attack_nearest
from stages.attacks.result import AttackResult
from stages.classifier import Classifier
from stages.knobs import Count, Fraction

NORM = "l2"
THREAT = "black_box"
ITERATIVE = False  # in gradient steps: none are taken here
BUDGET = ("queries",)  # what twice the effort doubles

TURNS = (1.0, 0.8, 0.6, 0.4, 0.2, 0.1)  # toward the normal, the first of which that is adversarial is taken


def attack(
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    queries: Count = 4000,
    sub_dimension: Count = 75,
    iterations: Count = 10,
    contraction: Fraction = 0.6,
    start_tries: Count = 24,
) -> AttackResult:
    """Go from the original along the boundary's estimated normal to the boundary, estimate it there, and again.

    inputs: float32 [N, ...] in [0, 1]. labels: int64 [N].
    queries: forward passes a sample for the normals; the start and the ways to the boundary take some 15 an iteration
    more.
    sub_dimension: of images, normals consist of this many of the lowest frequencies along each side (all if the side
    has fewer); other inputs have no subspace.
    iterations: how many normals. contraction: by how much the distance is taken to shrink in each (lambda), which says
    how the queries are shared out: each normal gets lambda^(-2/3) times as many as the one before.
    start_tries: random images to choose the first adversarial point from.
    Only predicted classes are seen. Unlike in the paper, where the normal does not lead to a nearer point, directions
    between it and the present one are tried; the start is the nearest of several (decision_based.py).
    Returns one row [1, N]. Raises ValueError if an input is outside [0, 1].
    """
    counts = shares(queries, iterations, contraction)

    def find(search: Search, draws: torch.Generator) -> None:
        halvings = halvings_for_probes(search)
        points, samples = start(search, draws, start_tries)
        if not len(samples):
            return
        points = to_boundary(search, points, samples, halvings)
        within = low_frequencies(search.inputs.shape[1:], sub_dimension, search.inputs.device)
        for count in counts:
            normal = boundary_normal(search, points, samples, count, draws, within)
            points = to_boundary(search, turned(search, points, samples, normal), samples, halvings)

    return attack_nearest(find, classifier, inputs, labels, norm=NORM, generator=generator, gradients=False)


def shares(queries: int, iterations: int, contraction: float) -> list[int]:
    """How many of the queries each normal gets, all that get any, in their order (section 3.3)."""
    weights = [max(contraction, 1e-3) ** (-2 / 3 * iteration) for iteration in range(iterations)]
    ends = [round(queries * sum(weights[: iteration + 1]) / sum(weights)) for iteration in range(iterations)]
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False) if end > begin]


def low_frequencies(shape: torch.Size, sub_dimension: int, device: torch.device) -> Subspace | None:
    """The projection of images onto the lowest frequencies of the discrete cosine transform; None if that is all."""
    if len(shape) != 3 or sub_dimension >= max(shape[1:]):
        return None
    rows, columns = (cosines(size, min(size, sub_dimension)).to(device) for size in shape[1:])
    return lambda directions: (rows.T @ rows) @ directions @ (columns.T @ columns)


def cosines(size: int, count: int) -> Tensor:
    """The `count` lowest of the orthonormal basis of the discrete cosine transform (II), [count, size]."""
    frequencies, places = torch.arange(count)[:, None], torch.arange(size) + 0.5
    basis = torch.cos(math.pi / size * frequencies * places) * math.sqrt(2 / size)
    basis[0] = math.sqrt(1 / size)
    return basis


def turned(search: Search, points: Tensor, samples: Tensor, normal: Tensor) -> Tensor:
    """Points [M, ...] as far from the original as before, turned toward the normal as far as they stay adversarial."""
    originals, reach = search.inputs[samples], distances(search, points, samples)
    direction = unit(points - originals)
    ahead = points.clone()
    waiting = torch.arange(len(points), device=points.device)
    for turn in TURNS:
        way = unit(torch.lerp(direction[waiting], normal[waiting], turn))
        tried = (originals[waiting] + per_sample(reach[waiting], points) * way).clamp(0, 1)
        adversarial = is_adversarial(search, tried, samples[waiting])
        ahead[waiting[adversarial]] = tried[adversarial]
        waiting = waiting[~adversarial]
        if not len(waiting):
            break
    return ahead
