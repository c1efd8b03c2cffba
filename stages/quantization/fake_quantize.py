"""Rounding to levels while training, in as few passes over memory as plain torch allows."""

import torch
from torch import Tensor

SHARE = 4  # of the samples of a batch, one in so many says how one scale for all should change


BEYOND_ONE = (
    1 + 1e-7
)  # below the next float32: the clamp of signs passes gradients at 1, `hardtanh_backward` only below


class _FakeQuantize(torch.autograd.Function):
    """Backward may itself be differentiated: penalties on input gradients need that."""

    @staticmethod
    def forward(context, values: Tensor, scale: Tensor, lowest: int, highest: int) -> Tensor:
        codes = (values / scale).round_()
        quantized = codes.clamp(lowest, highest).mul_(scale)
        context.save_for_backward(values, scale, codes, quantized)
        context.bounds = lowest - 0.5, highest + 0.5
        return quantized

    @staticmethod
    def backward(context, gradient: Tensor):
        values, scale, codes, quantized = context.saved_tensors
        # The clamp's gradient, as one vectorized pass without a mask in memory.
        to_values = torch.ops.aten.hardtanh_backward(gradient, codes, *context.bounds)
        to_scale = _to_scale(gradient, to_values, values, scale, quantized) if context.needs_input_grad[1] else None
        return to_values, to_scale, None, None


def _to_scale(gradient: Tensor, to_values: Tensor, values: Tensor, scale: Tensor, quantized: Tensor) -> Tensor:
    """Of d quantized / d scale, which is (quantized - values) / scale, and where values are cut quantized / scale."""
    if scale.dim() == 0:
        sampled = len(values[::SHARE]) / len(values)
        gradient, to_values, values, quantized = (t[::SHARE] for t in (gradient, to_values, values, quantized))
        scale = scale * sampled
    return (gradient * quantized).addcmul_(to_values, values, value=-1).sum_to_size(scale.shape) / scale


def fake_quantize(values: Tensor, scale: Tensor, lowest: int, highest: int) -> Tensor:
    """`scale * clamp(round(values / scale), lowest, highest)`, halves to even, of the values' shape and dtype.

    values: [N, ...]. scale: positive; one number (of shape []) for all samples, or of a shape that broadcasts.
    Gradients pass straight through the rounding (Bengio et al. 2013, arXiv 1308.3432): values get none where the clamp
    cuts, the scale gets what Esser et al. 2020 (LSQ, arXiv 1902.08153, equation 3) derive, without their step's factor;
    one number gets it from every fourth sample, an unbiased estimate for a quarter of its cost.
    """
    return _FakeQuantize.apply(values, scale, lowest, highest)


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(context, values: Tensor) -> Tensor:
        context.save_for_backward(values)
        return values.sign().add_(0.5).sign_()  # which makes zeros positive

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        (values,) = context.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, values, -BEYOND_ONE, BEYOND_ONE)


def fast_sign(values: Tensor) -> Tensor:
    """What `stages.quantization.rounding.sign_straight_through` gives, gradient included, in fewer passes."""
    return _Sign.apply(values)
