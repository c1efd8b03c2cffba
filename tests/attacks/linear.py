"""Linear classifiers, for which the outcome of an attack is known in closed form."""

import torch
from torch import nn

from stages.classifier import Classifier


class LinearNetwork(nn.Module):
    """Logits = weights @ flattened inputs + biases; its last hidden layer is the flattened input."""

    def __init__(self, weights: torch.Tensor, biases: torch.Tensor) -> None:
        super().__init__()
        self.last = nn.Linear(weights.shape[1], weights.shape[0])
        self.last.weight.data, self.last.bias.data = weights, biases

    def features(self, inputs):
        return inputs.flatten(1)

    def forward(self, inputs):
        return self.last(self.features(inputs))


def linear_classifier(num_classes: int, input_shape=(3, 4, 4), seed=0) -> Classifier:
    generator = torch.Generator().manual_seed(seed)
    values = torch.Size(input_shape).numel()
    weights = torch.randn(num_classes, values, generator=generator)
    # Equal logits at the centre of the box, so that every class is predicted somewhere around it.
    biases = -weights.sum(1) / 2
    return Classifier(LinearNetwork(weights, biases), input_shape, num_classes)


def centred_inputs(count: int, input_shape=(3, 4, 4), seed=1) -> torch.Tensor:
    """Inputs in [0.4, 0.6], so that the box does not clip perturbations up to 0.4."""
    generator = torch.Generator().manual_seed(seed)
    return 0.4 + 0.2 * torch.rand(count, *input_shape, generator=generator)


def boundary_distance(
    classifier: Classifier, inputs: torch.Tensor, labels: torch.Tensor, norm: str = "linf"
) -> torch.Tensor:
    """Distance [N] in a norm (l1, l2, linf) to the nearest input of another class, were there no box around inputs.

    The least margin / ||w_label - w_other|| in the dual norm; negative where the classifier errs.
    """
    dual = {"l1": torch.inf, "l2": 2, "linf": 1}[norm]
    weights = classifier.network.last.weight.detach().double()
    logits = classifier(inputs).detach().double()
    margins = logits.gather(1, labels[:, None]) - logits
    norms = torch.linalg.vector_norm(weights[labels][:, None] - weights, dual, dim=2)
    return (margins / norms).masked_fill(norms == 0, torch.inf).amin(1)


def least_changes(classifier: Classifier, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """L0 distance [N] to the nearest input of another class in [0, 1]: the least number of values to change, int64.

    Toward each class, values are set to 0 or 1 in the order of what that gains.
    """
    weights = classifier.network.last.weight.detach().double()
    logits = classifier(inputs).detach().double()
    least = torch.full((len(inputs),), inputs[0].numel() + 1)
    for other in range(len(weights)):
        slopes = weights[other] - weights[labels]
        gains = torch.maximum(slopes * (1 - inputs.flatten(1)), -slopes * inputs.flatten(1))
        reached = gains.sort(1, descending=True).values.cumsum(1)
        needed = logits.gather(1, labels[:, None]) - logits[:, [other]]
        changes = (reached <= needed).sum(1) + 1
        least = torch.where((labels != other) & (changes < least), changes, least)
    return least
