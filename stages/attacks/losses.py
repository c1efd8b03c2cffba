"""What attacks raise: functions of logits [N, K] and labels, int64 [N], with one value a sample."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor, Tensor], Tensor]  # of logits [N, K] and labels [N]: what to raise, one value a sample [N]

TINY = 1e-12  # quantized logits tie


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Each sample's cross-entropy [N], in nats."""
    return functional.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """How far the highest other logit is above the label's, [N]: positive where the classifier errs."""
    return without_label(logits, labels).amax(1) - logits.gather(1, labels[:, None])[:, 0]


def margin_of(logits: Tensor, labels: Tensor, target: Tensor) -> Tensor:
    """How far the logits of the target classes, int64 [N], are above those of the labels, [N]."""
    return (logits.gather(1, target[:, None]) - logits.gather(1, labels[:, None]))[:, 0]


def difference_of_logits_ratio(logits: Tensor, labels: Tensor) -> Tensor:
    """The margin in units of the gap between the first and the third highest logit, [N] (DLR).

    Scaling the logits changes nothing. With fewer than 3 classes, which have no third, the margin itself. Source: Croce
    and Hein, 2020, https://arxiv.org/abs/2003.01690 (section 4).
    """
    if logits.shape[1] < 3:
        return margin(logits, labels)
    highest = logits.topk(3).values
    return margin(logits, labels) / (highest[:, 0] - highest[:, 2]).clamp_min(TINY)


LOSSES = {"cross_entropy": cross_entropy, "margin": margin, "dlr": difference_of_logits_ratio}


def without_label(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits [N, K] with minus infinity for the label's."""
    return logits.scatter(1, labels[:, None], -torch.inf)


def likeliest_wrong_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """The classes but the label by falling logit, int64 [N, K - 1]."""
    return without_label(logits, labels).argsort(dim=1, descending=True, stable=True)[:, :-1]
