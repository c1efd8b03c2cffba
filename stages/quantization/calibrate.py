"""What Brevitas measures on calibration data, always drawn from the train split."""

from collections.abc import Iterable

import torch
from brevitas.graph.calibrate import bias_correction_mode, calibration_mode
from torch import Tensor, nn


@torch.no_grad()
def calibrate(network: nn.Module, batches: Iterable[Tensor], *, untrained: bool = False) -> None:
    """Sets the activation scales of a Brevitas network from its float activations.

    They are made from the 99.999th percentile of magnitudes, as a mean over batches; at 16 bits from the largest.
    Batch norm of a network that is `untrained` knows no statistics yet, and takes those of each batch.
    """
    network.eval()
    if untrained:
        for layer in _batch_norms(network):
            layer.train()
    with calibration_mode(network):
        for inputs in batches:
            network(inputs)
    network.eval()


@torch.no_grad()
def settle_batch_norm(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Takes the statistics of batch norm anew, as means over batches, with all else as in evaluation."""
    network.eval()
    layers = _batch_norms(network)
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain mean
        layer.train()
    for inputs in batches:
        network(inputs)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    network.eval()


@torch.no_grad()
def correct_bias(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Shifts each bias by the mean error of quantization in its channel (Nagel et al. 2019, arXiv 1906.04721)."""
    network.eval()
    with bias_correction_mode(network):
        for inputs in batches:
            network(inputs)


def _batch_norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
