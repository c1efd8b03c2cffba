"""What attacks share that see nothing but the predicted class: start points, the way to the boundary, its normal.

All of it is batched over samples and over each sample's queries. `samples`, int64 [M], says which of the search's
samples the M points belong to.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from stages.attacks.batches import per_sample, where
from stages.attacks.distances import length, unit
from stages.attacks.draws import gaussian, split
from stages.attacks.minimal_norm import Search

# A probe moves each value by at least a level of 8-bit inputs: a quantized network rounds smaller changes away.
LEVEL = 1 / 255
PROBE = 0.1  # how far probes are from the point, as a fraction of its distance to the original
CHUNK = 32  # probes of each sample that are made at once, which bounds the memory

Subspace = Callable[[Tensor], Tensor]  # projects directions [M, ...] onto it


def is_adversarial(search: Search, points: Tensor, samples: Tensor) -> Tensor:
    """Whether the predicted class is not the label, bool [M], of points [M, ...]: one query each."""
    return search.logits(points, samples).argmax(1) != search.labels[samples]


def distances(search: Search, points: Tensor, samples: Tensor) -> Tensor:
    """How far points [M, ...] are from their originals, [M]."""
    return length(points - search.inputs[samples])


def shrunk(search: Search, points: Tensor, samples: Tensor, fraction: Tensor) -> Tensor:
    """The points at a fraction, [M], of the way from the original to `points` [M, ...]."""
    originals = search.inputs[samples]
    return (originals + per_sample(fraction, points) * (points - originals)).clamp(0, 1)


def to_boundary(search: Search, points: Tensor, samples: Tensor, halvings: int) -> Tensor:
    """Bisect between the original and an adversarial point, [M, ...]: the last adversarial points on the way.

    halvings: queries for each point, after each of which the bracket is half as long.
    """
    inside = torch.zeros(len(points), device=points.device)
    outside = torch.ones_like(inside)
    for _ in range(halvings):
        middle = (inside + outside) / 2
        adversarial = is_adversarial(search, shrunk(search, points, samples, middle), samples)
        outside, inside = torch.where(adversarial, middle, outside), torch.where(adversarial, inside, middle)
    return shrunk(search, points, samples, outside)


def halvings_for_probes(search: Search) -> int:
    """How often to bisect, so that what is left is small beside what a probe moves along the boundary's normal.

    That is PROBE / sqrt(d) of the distance in d dimensions.
    """
    return math.ceil(math.log2(2 / PROBE * math.sqrt(search.inputs[0].numel())))


def start(search: Search, generator: torch.Generator, tries: int) -> tuple[Tensor, Tensor]:
    """Adversarial points near the boundary [M, ...], and the samples int64 [M] for which there is one.

    tries: random images for each sample: uniform noise in blocks of 1, 2, 4, ... values along each side up to the whole
    input, since a network that sees one class in fine noise sees others in coarse. Each is blended with the original
    until it is a little nearer than the nearest point so far, and bisected only if it is adversarial there.
    """
    points, samples = search.inputs.clone(), torch.arange(len(search.labels), device=search.labels.device)
    nearest = torch.full_like(search.distance, torch.inf).float()
    sizes = block_sizes(search.inputs)
    for attempt in range(tries):
        noise = blocks_of_noise(search, sizes[attempt % len(sizes)], generator)
        fraction = (0.9 * nearest / distances(search, noise, samples).clamp_min(1e-30)).clamp(max=1)
        blend = shrunk(search, noise, samples, fraction)
        better = is_adversarial(search, blend, samples).nonzero()[:, 0]
        if len(better):
            points[better] = to_boundary(search, blend[better], better, 5)
            nearest[better] = distances(search, points[better], better)
    found = nearest.isfinite().nonzero()[:, 0]
    return points[found], found


def block_sizes(inputs: Tensor) -> list[int]:
    """1, 2, 4, ... up to the longest side of a sample of inputs [N, ...], without the channels of images."""
    longest = max(inputs.shape[2:] if inputs.ndim == 4 else inputs.shape[1:])
    return [2**power for power in range(math.ceil(math.log2(longest)) + 1)]


def blocks_of_noise(search: Search, size: int, generator: torch.Generator) -> Tensor:
    """Uniform noise from [0, 1] that is constant in blocks of `size` along each side, in the inputs' shape [N, ...]."""
    shape = search.inputs.shape[1:]
    first = 1 if len(shape) == 3 else 0  # channels have their own noise
    coarse = [*shape[:first], *(-(-side // size) for side in shape[first:])]
    noise = draw_uniform(search, coarse, generator)
    for dimension, side in enumerate(shape[first:], first + 1):
        noise = noise.repeat_interleave(size, dimension).narrow(dimension, 0, side)
    return noise


def draw_uniform(search: Search, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """A uniform draw from [0, 1] for each sample, [N, *shape], that depends on its place in the batch alone."""
    draw = torch.rand((search.rows_to_draw, *shape), generator=split(generator))
    return draw.to(search.inputs.device)[search.places]


def probes(search: Search, count: int, generator: torch.Generator, within: Subspace | None = None) -> Tensor:
    """`count` random directions of unit length for each sample, [N, count, ...], within a subspace or of all."""
    shape = search.inputs.shape[1:]
    draw = gaussian(search.rows_to_draw, (count, *shape), split(generator)).to(search.inputs.device)
    directions = draw[search.places].flatten(0, 1)
    return unit(within(directions) if within else directions).reshape(-1, count, *shape)


def boundary_normal(
    search: Search,
    points: Tensor,
    samples: Tensor,
    count: int,
    generator: torch.Generator,
    within: Subspace | None = None,
) -> Tensor:
    """Monte Carlo estimate of the boundary's normal at points [M, ...] on it, unit length, toward the adversarial side.

    Probes around the point answer 1 where they are adversarial and -1 where they are not, and are averaged with their
    answers less the mean answer as weights (HopSkipJump, equation 16). count: queries for each point.
    """
    radius = probe_radius(search, points, samples)
    weighted, summed = torch.zeros_like(points), torch.zeros_like(points)
    mean = torch.zeros(len(points), device=points.device)
    # Chunks depend on `count` alone and not on how many samples there are, on which no draw may depend.
    for asked in [CHUNK] * (count // CHUNK) + [count % CHUNK] * (count % CHUNK > 0):
        directions = probes(search, asked, generator, within)[samples]
        answers = ask(search, points, samples, radius, directions)
        weighted += torch.einsum("mk,mk...->m...", answers, directions)
        summed += directions.sum(1)
        mean += answers.sum(1) / count
    return unit(without_noise(weighted - per_sample(mean, points) * summed, (1 - mean**2) * count))


def probe_radius(search: Search, points: Tensor, samples: Tensor) -> Tensor:
    """How far from points [M, ...] on the boundary to probe, [M]."""
    return (PROBE * distances(search, points, samples)).clamp_min(LEVEL * math.sqrt(points[0].numel()))


def ask(search: Search, points: Tensor, samples: Tensor, radius: Tensor, directions: Tensor) -> Tensor:
    """Answers [M, count], 1 if adversarial and else -1, at a radius [M] in directions [M, count, ...] from points."""
    asked = (points[:, None] + per_sample(radius, points)[:, None] * directions).clamp(0, 1)
    adversarial = is_adversarial(search, asked.flatten(0, 1), samples.repeat_interleave(directions.shape[1]))
    return adversarial.reshape(directions.shape[:2]) * 2.0 - 1


def without_noise(estimate: Tensor, energy: Tensor) -> Tensor:
    """A sum of probes [M, ...] by their answers, with noise taken from it if it belongs to images of several channels.

    energy: [M], the squared length that the sum has if answers are random. What channels have in common, brightness,
    and what is left, colour, are each multiplied by Wiener's factor, the share of their energy that is no noise: most
    networks on natural images respond to brightness far more than to colour, which is most of the dimensions.
    """
    if estimate.ndim != 4 or estimate.shape[1] == 1:
        return estimate
    brightness = estimate.mean(1, keepdim=True).expand_as(estimate)
    colour = estimate - brightness
    noise = energy / estimate.shape[1]
    factor, colour_factor = _share_of_signal(brightness, noise), _share_of_signal(colour, energy - noise)
    signal = per_sample(factor, estimate) * brightness + per_sample(colour_factor, estimate) * colour
    return where(factor + colour_factor > 0, signal, estimate)


def _share_of_signal(part: Tensor, noise: Tensor) -> Tensor:
    return (1 - noise / part.flatten(1).square().sum(1).clamp_min(1e-30)).clamp_min(0)
