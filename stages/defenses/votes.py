"""How the passes of a random network become one prediction, and what their disagreement says.

Functions of logits [P, N, K] of P passes. Votes are logits, too: the logarithms of K probabilities.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def mean_probabilities(logits: Tensor) -> Tensor:
    """The logarithm [N, K] of the passes' mean probabilities; of one pass its logits as they are.

    Gal and Ghahramani, "Dropout as a Bayesian approximation", ICML 2016, https://arxiv.org/abs/1506.02142.
    """
    if len(logits) == 1:
        return logits[0]
    return logits.log_softmax(2).logsumexp(0) - math.log(len(logits))


def majority(logits: Tensor) -> Tensor:
    """The logarithm [N, K] of the shares of P + 1 votes: each pass has one, and their mean probabilities share one.

    So the class that most passes predict comes first, of several the one of the higher mean probability. Of one pass
    its logits as they are. Without a gradient.
    """
    if len(logits) == 1:
        return logits[0]
    probabilities = logits.detach().softmax(2)
    votes = torch.zeros_like(probabilities).scatter_(2, probabilities.argmax(2, keepdim=True), 1).sum(0)
    smallest = torch.finfo(probabilities.dtype).tiny
    return ((votes + probabilities.mean(0)) / (len(logits) + 1)).clamp_min(smallest).log()


VOTES: dict[str, Callable[[Tensor], Tensor]] = {"mean": mean_probabilities, "majority": majority}


def predictive_entropy(logits: Tensor) -> Tensor:
    """The entropy [N], in nats, of the passes' mean probabilities: all uncertainty of a prediction."""
    return _entropy(logits.log_softmax(2).logsumexp(0) - math.log(len(logits)))


def mutual_information(logits: Tensor) -> Tensor:
    """By how much, in nats, [N], the mean prediction is less certain than the passes are by themselves: disagreement.

    0 where all passes agree on their probabilities. Houlsby, Huszár, Ghahramani and Lengyel 2011,
    https://arxiv.org/abs/1112.5745; as a detector Smith and Gal 2018, https://arxiv.org/abs/1803.08533.
    """
    return (predictive_entropy(logits) - _entropy(logits.log_softmax(2)).mean(0)).clamp_min(0)


UNCERTAINTIES: dict[str, Callable[[Tensor], Tensor]] = {
    "entropy": predictive_entropy,
    "mutual_information": mutual_information,
}


def _entropy(log_probabilities: Tensor) -> Tensor:
    """Of probabilities along the last dimension."""
    return -(log_probabilities.exp() * log_probabilities).nan_to_num(0).sum(-1)
