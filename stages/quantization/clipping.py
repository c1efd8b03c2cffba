"""Scales of activations at which rounding errs least, in the place of those that take in almost all values."""

from collections.abc import Iterable

import torch
from brevitas.graph.calibrate import calibration_mode
from torch import Tensor, nn

from stages.quantization.fake_quantize import fake_quantize
from stages.quantization.quantizers import Activations

SHARES = torch.linspace(0.02, 1.0, 50)  # of the calibrated scale


@torch.no_grad()
def clip_activations(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Lowers the activation scales of a calibrated Brevitas network to where rounding errs least.

    Each becomes that share of itself, of `SHARES`, that has the least mean squared error on the network's float
    activations: of few levels, what is cut off above costs less than what wide levels round to zero below (Banner et
    al. 2019, arXiv 1810.05723; by search as in Choukroun et al. 2019, arXiv 1902.06822). Signs have no scale.
    """
    errors = {
        module: torch.zeros(len(SHARES), dtype=torch.float64)
        for module in network.modules()
        if isinstance(module, Activations)
    }

    def measure(quantizer: Activations, arguments: tuple[Tensor, ...]) -> None:
        values = arguments[0]
        scale = quantizer.scaling_impl.value.abs() / quantizer.threshold
        for place, share in enumerate(SHARES.tolist()):
            rounded = fake_quantize(values, share * scale, quantizer.lowest, quantizer.highest)
            errors[quantizer][place] += float((rounded - values).square().sum(dtype=torch.float64))

    handles = [quantizer.register_forward_pre_hook(measure) for quantizer in errors]
    network.eval()
    try:
        with calibration_mode(network):
            for inputs in batches:
                network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    network.eval()
    for quantizer, error in errors.items():
        quantizer.scaling_impl.value.mul_(SHARES[error.argmin()])
