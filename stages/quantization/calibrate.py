"""What Brevitas measures on calibration data, always drawn from the train split."""

from collections.abc import Iterable

import torch
from brevitas.graph.calibrate import bias_correction_mode, calibration_mode
from torch import Tensor, nn


@torch.no_grad()
def calibrate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Sets the activation scales of a Brevitas network from its float activations.

    They are made from the 99.999th percentile of magnitudes, as a mean over batches; at 16 bits from the largest.
    """
    network.eval()
    with calibration_mode(network):
        for inputs in batches:
            network(inputs)


@torch.no_grad()
def correct_bias(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Shifts each bias by the mean error of quantization in its channel (Nagel et al. 2019, arXiv 1906.04721)."""
    network.eval()
    with bias_correction_mode(network):
        for inputs in batches:
            network(inputs)
