"""The points that an attacker with a budget may try: balls of the maximum and the Euclidean norm, within [0, 1]."""

import torch
from torch import Tensor

from stages.attacks.batches import per_sample
from stages.attacks.distances import project_l2, project_linf

TINY = torch.finfo(torch.float32).tiny  # a gradient's length of 0


class LinfBall:
    """For each sample, the points of [0, 1] of which no value is further than its epsilon from the original.

    inputs: float32 [N, ...], the originals. epsilons: float64 [N], above 0, in input units.
    """

    def __init__(self, inputs: Tensor, epsilons: Tensor) -> None:
        # Ball and [0, 1] together are a box. Its corners are found in float64 once; then a clamp in float32 is exact.
        self.lowest = project_linf(torch.zeros_like(inputs), inputs, epsilons)
        self.highest = project_linf(torch.ones_like(inputs), inputs, epsilons)

    def project(self, points: Tensor) -> Tensor:
        """The nearest points in the ball and in [0, 1]."""
        return points.clamp(self.lowest, self.highest)

    @staticmethod
    def steepest(gradient: Tensor) -> Tensor:
        """The step of length 1 along which losses of this gradient [N, ...] rise most."""
        return gradient.sign()

    @staticmethod
    def draw(inputs: Tensor, generator: torch.Generator) -> Tensor:
        """One uniform draw from the unit ball a sample, in the inputs' shape and memory layout."""
        return torch.empty_like(inputs).copy_(torch.rand(inputs.shape, generator=generator)) * 2 - 1


class L2Ball:
    """For each sample, the points of [0, 1] at most its epsilon from the original, in the Euclidean norm.

    inputs: float32 [N, ...], the originals. epsilons: float64 [N], above 0, in input units.
    """

    def __init__(self, inputs: Tensor, epsilons: Tensor) -> None:
        self.inputs, self.epsilons = inputs, epsilons

    def project(self, points: Tensor) -> Tensor:
        """Points in the ball and in [0, 1], clipped and then shortened."""
        return project_l2(points, self.inputs, self.epsilons)

    @staticmethod
    def steepest(gradient: Tensor) -> Tensor:
        """The step of length 1 along which losses of this gradient [N, ...] rise most; none where the gradient is 0."""
        # Squares of small gradients would be 0 in float32.
        length = torch.linalg.vector_norm(gradient.flatten(1), dim=1, dtype=torch.float64)
        return (gradient / per_sample(length.clamp_min(TINY), gradient)).float()

    @staticmethod
    def draw(inputs: Tensor, generator: torch.Generator) -> Tensor:
        """One draw from the unit ball a sample, uniform in direction and length, in the inputs' shape and layout.

        Of many values, uniform draws from the ball are all at its surface, from where most of an attack's steps would
        only lead back.
        """
        values = inputs[0].numel()
        uniform = torch.rand(len(inputs), values + 1, generator=generator, dtype=torch.float64)
        # Normal values have no preferred direction. They come from uniform ones by the inverse of their distribution
        # function, since randn would draw a sample's values differently with other samples behind it.
        normal = torch.special.ndtri(uniform[:, :values].clamp_min(torch.finfo(torch.float64).tiny))
        directions = normal / torch.linalg.vector_norm(normal, dim=1, keepdim=True)
        return torch.empty_like(inputs).copy_((directions * uniform[:, values:]).reshape(inputs.shape))


BALLS = {"linf": LinfBall, "l2": L2Ball}  # by the name of the norm
