"""Channels that come and go while a network trains: masks that are drawn at random, and how far they have grown.

Rakin et al. 2021, "RA-BNN: Constructing Robust & Accurate Binary Neural Network to Simultaneously Defend Adversarial
Bit-Flip Attack and Improve Accuracy", arXiv 2103.13813: channel-wise binary masks trained with the Gumbel-Sigmoid.

A network of the largest numbers of channels is trained. Of each group of channels (`channel_groups.py`) the first ones,
its base, are always there; whether one of the others is there is drawn in each pass, with a chance that training
changes. What a channel that is not there holds is multiplied with zero wherever it is read. Behind a sign that is the
only place where a mask makes it nothing: the sign of zero is one.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import log

import torch
from torch import Tensor, nn

from stages.quantization.channel_groups import Group


def gumbel_sigmoid(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Draws of zeros and ones, of the shape of `logits`: one with the chance sigmoid(logit).

    The gradient is that of the soft mask sigmoid((logits + g0 - g1) / temperature), where g0 and g1 are drawn from the
    standard Gumbel distribution (Jang et al. 2017, arXiv 1611.01144): the lower the temperature, the nearer it is to
    what is drawn, which is whether it is above one half.
    """
    uniform = torch.rand(2, *logits.shape, generator=generator, dtype=torch.float64)
    uniform = uniform.clamp_min(torch.finfo(torch.float64).tiny)  # whose logarithm is a number
    first, second = -(-uniform.log()).log()
    soft = ((logits + (first - second).to(logits)) / temperature).sigmoid()
    return (soft > 0.5).to(soft) + (soft - soft.detach())


class ChannelMasks(nn.Module):
    """Which channels a network has, by group, in the pass that runs.

    While training they are drawn anew in each pass; afterwards a channel is there if its chance is more than a half.
    Draws depend on a seed, drawn when the masks are made, and on how many there were. Both are among the network's
    tensors, so that a training that goes on from a checkpoint draws what it would have drawn.
    """

    def __init__(self, base: Mapping[str, int], largest: Mapping[str, int], *, chance: float, rate: float = 1.0):
        """
        Args:
            base: by the name of a group, how many channels are always there.
            largest: how many there may be, the base among them.
            chance: of each of the others at the start.
            rate: how many times as fast as weights the logits of chances learn.

        Raises ValueError where there are fewer channels than the base, or the chance does not lie between 0 and 1.
        """
        super().__init__()
        for name, count in base.items():
            if largest[name] < count:
                raise ValueError(f"largest: {largest[name]} channels of {name}, expected its base of {count} or more")
        if not 0 < chance < 1:
            raise ValueError(f"chance: {chance}, expected a number between 0 and 1, which training could not leave")
        self.base, self.rate, self.temperature = dict(base), rate, 1.0
        logit = log(chance / (1 - chance))
        self.logits = nn.ParameterList(torch.full((largest[name] - count,), logit) for name, count in base.items())
        self.register_buffer("seed", torch.randint(2**62, ()))
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))
        self.drawn: dict[str, Tensor] = {}

    def draw(self) -> None:
        """Says which channels there are in the next pass: by group a mask [C] of zeros and ones."""
        generator = torch.Generator().manual_seed(int(self.seed) + int(self.draws))
        if self.training:
            self.draws += 1
        for (name, count), logits in zip(self.base.items(), self.logits, strict=True):
            faster = logits + (self.rate - 1) * (logits - logits.detach())  # the same value with another gradient
            others = self._of(faster.cpu(), generator).to(logits)
            self.drawn[name] = torch.cat([others.new_ones(count), others])

    def channels(self) -> dict[str, int]:
        """How many channels each group has: its base and those whose chance is more than a half."""
        grown = (int((logits > 0).sum()) for logits in self.logits)
        return {name: count + more for (name, count), more in zip(self.base.items(), grown, strict=True)}

    def _of(self, logits: Tensor, generator: torch.Generator) -> Tensor:
        if self.training:
            return gumbel_sigmoid(logits, self.temperature, generator)
        return (logits > 0).to(logits)


def mask_channels(network: nn.Module, groups: Sequence[Group], masks: ChannelMasks) -> None:
    """Makes the masks a part of the network, as `channel_masks`, and applies them wherever channels are read."""
    network.channel_masks = masks
    network.register_forward_pre_hook(lambda *_: masks.draw())
    for group in groups:
        for reader, repeats in group.readers.items():
            network.get_submodule(reader).register_forward_pre_hook(_masking(masks, group.name, repeats))


def _masking(masks: ChannelMasks, group: str, repeats: int):
    def hook(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (values,) = inputs
        mask = masks.drawn[group].to(values).repeat_interleave(repeats)
        return (values * mask.view(-1, *[1] * (values.dim() - 2)),)

    return hook


def has_settled(counts: Sequence[Mapping[str, int]], patience: int, tolerance: float) -> bool:
    """Whether channels have come or gone, and hardly any did in each of the last `patience` steps of growth.

    How many came or went is a net count, the sum over groups of how much each group's number changed: where in a group
    one channel comes and another goes, that is none. Growth has not begun while hardly any has come since the start:
    chances that start low need time to rise.

    counts: the numbers of channels by group, at the start and after each step. tolerance: the largest share of all
    channels that counts as hardly any.
    """
    if len(counts) <= patience or _are_alike(counts[0], counts[-1], tolerance):
        return False
    return all(_are_alike(before, after, tolerance) for before, after in pairwise(counts[-patience - 1 :]))


def _are_alike(before: Mapping[str, int], after: Mapping[str, int], tolerance: float) -> bool:
    return sum(abs(after[name] - before[name]) for name in before) <= tolerance * sum(before.values())
