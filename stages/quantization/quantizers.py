"""What Brevitas' layers call to round: weights to each width, activations with a learned scale.

They stand where Brevitas has its own (`tensor_quant`), which take several times as many passes over memory. Each
returns the rounded values, their scale, a zero point and the number of bits, as Brevitas' proxies expect.
"""

import torch
from brevitas.core.quant import RescalingIntQuant
from torch import Tensor, nn

from stages.quantization.fake_quantize import fake_quantize
from stages.quantization.formats import STOCHASTIC_BINARY, STOCHASTIC_TERNARY, TERNARY, Width, bits_in_memory

SMALLEST_SCALE = 1e-10  # of a channel without any weight but zero

# The step between levels that has the least mean squared error for normally distributed weights, in mean magnitudes
# (Max 1960, "Quantizing for minimum distortion", for uniform levels: here 4 of -2..1 and 7 of -3..3). With more bits
# the outermost level can be the largest magnitude: there cutting outliers off gains little.
BEST_STEP = {2: 1.3139, 3: 0.8156}

TERNARY_THRESHOLD = 0.7  # in mean magnitudes


class Activations(RescalingIntQuant):
    """Brevitas' quantizer of activations; once calibrated, in few passes and with the same learned scale.

    While statistics are collected it is Brevitas' own.
    """

    def __init__(self, int_quant, scaling_impl, int_scaling_impl, zero_point_impl, bit_width_impl):
        super().__init__(int_quant, scaling_impl, int_scaling_impl, zero_point_impl, bit_width_impl)
        bits = bit_width_impl()
        self.threshold = int(self.int_scaling_impl(bits))
        self.lowest, self.highest = int(self.int_quant.min_int(bits)), int(self.int_quant.max_int(bits))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        scaling = self.scaling_impl
        if self.observer_only or scaling.counter <= scaling.collect_stats_steps:
            return super().forward(inputs)
        scale = scaling.value.abs().clamp_min(SMALLEST_SCALE) / self.threshold
        bits = self.msb_clamp_bit_width_impl()
        rounded = fake_quantize(inputs, scale, self.lowest, self.highest)
        return rounded, scale, self.zero_point_impl(inputs, scale, bits), bits


class Weights(nn.Module):
    """One scale an output channel, taken from its weights each time. A subclass says which, and which levels."""

    def __init__(self, bits: int):
        super().__init__()
        self.register_buffer("bits", torch.tensor(float(bits)), persistent=False)
        self.register_buffer("zero_point", torch.tensor(0.0), persistent=False)

    def forward(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rounded, scale = self.round(weight)
        return rounded, scale, self.zero_point, self.bits

    def round(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Rounded weights [out, ...], which are integers times the scales, and these scales [out, 1, ...]."""
        raise NotImplementedError


class IntegerWeights(Weights):
    """Integers of 2 to 8 bits, symmetric but for those of 2 bits, which would be three levels only."""

    def __init__(self, bits: int):
        super().__init__(bits)
        self.highest = 2 ** (bits - 1) - 1
        self.lowest = -2 if bits == 2 else -self.highest
        self.step = BEST_STEP.get(bits)

    def round(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        if self.step is None:
            scale = _channels(weight.abs().flatten(1).amax(1), weight).clamp_min(SMALLEST_SCALE) / self.highest
        else:
            scale = _mean_magnitude(weight) * self.step
        return fake_quantize(weight, scale, self.lowest, self.highest), scale


class BinaryWeights(Weights):
    """sign(w) times the channel's mean |w| (XNOR-Net, Rastegari et al. 2016, arXiv 1603.05279)."""

    def __init__(self):
        super().__init__(bits=1)

    def round(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        scale = _mean_magnitude(weight)
        return _straight_through(weight, _sign(weight)) * scale, scale


class TernaryWeights(Weights):
    """-1, 0 or 1 times a scale (Ternary Weight Networks, Li et al. 2016, arXiv 1605.04711, equations 5 and 6).

    Weights up to 0.7 of the channel's mean magnitude become 0; the scale is the mean magnitude of the others.
    """

    def __init__(self):
        super().__init__(bits=2)

    def round(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        magnitudes = weight.abs()
        kept = (magnitudes > TERNARY_THRESHOLD * _mean_magnitude(weight)).to(weight)
        sums, counts = (magnitudes * kept).flatten(1).sum(1), kept.flatten(1).sum(1).clamp_min(1)
        scale = _channels(sums / counts, weight).clamp_min(SMALLEST_SCALE)
        return _straight_through(weight, _sign(weight) * kept * scale), scale


class StochasticWeights(Weights):
    """Levels drawn anew each time while training; afterwards those of the deterministic format.

    A weight's expectation is its value cut at the scale: w / scale is rounded at random to one of the two levels beside
    it (BinaryConnect, Courbariaux et al. 2015, arXiv 1511.00363, equation 2; for ternary levels Lin et al. 2016, arXiv
    1510.03009, section 3.1). Gradients pass straight through the draw and the cut.

    Draws depend on a seed, drawn when the layer is made, and on how many there were. Both are among the network's
    tensors, so that a training that goes on from a checkpoint draws what it would have drawn.
    """

    def __init__(self, deterministic: Weights, gap: int):
        """
        Args:
            deterministic: what is rounded to after training, and whose scale it is.
            gap: between two levels: 2 for -1 and 1, 1 for -1, 0 and 1.
        """
        super().__init__(int(deterministic.bits))
        self.deterministic, self.gap = deterministic, gap
        self.register_buffer("seed", torch.randint(2**62, ()))
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))

    def round(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        rounded, scale = self.deterministic.round(weight)
        if not self.training:
            return rounded, scale
        generator = torch.Generator().manual_seed(int(self.seed) + int(self.draws))
        self.draws += 1
        uniform = torch.rand(weight.shape, generator=generator).to(weight)
        gaps = ((weight / scale).clamp(-1, 1) + 1) / self.gap  # above -1
        # In float32 a gap and the largest uniform number may add up to the next one.
        levels = ((gaps + uniform).floor() * self.gap - 1).clamp(max=1)
        return _straight_through(weight, levels * scale), scale


def weights_of(width: Width) -> Weights:
    """The quantizer of weights of a width."""
    if width == 1:
        return BinaryWeights()
    if width == TERNARY:
        return TernaryWeights()
    if width == STOCHASTIC_BINARY:
        return StochasticWeights(BinaryWeights(), gap=2)
    if width == STOCHASTIC_TERNARY:
        return StochasticWeights(TernaryWeights(), gap=1)
    return IntegerWeights(bits_in_memory(width))


def is_random(network: nn.Module) -> bool:
    """Whether weights of the network are drawn while it trains."""
    return any(isinstance(module, StochasticWeights) for module in network.modules())


def _channels(values: Tensor, weight: Tensor) -> Tensor:
    """Values [out] in the shape [out, 1, ...] that broadcasts to weights."""
    return values.view(-1, *[1] * (weight.dim() - 1))


def _mean_magnitude(weight: Tensor) -> Tensor:
    return _channels(weight.abs().flatten(1).mean(1), weight).clamp_min(SMALLEST_SCALE)


def _sign(weight: Tensor) -> Tensor:
    return torch.copysign(torch.ones_like(weight), weight + 0.0)  # + 0.0 makes -0.0 positive


def _straight_through(weight: Tensor, rounded: Tensor) -> Tensor:
    """What weights were rounded to, with the gradient of the weights themselves (Bengio et al. 2013)."""
    return _StraightThrough.apply(weight, rounded.detach())


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(context, weight: Tensor, rounded: Tensor) -> Tensor:
        return rounded.view_as(rounded)

    @staticmethod
    def backward(context, gradient: Tensor):
        return gradient, None
