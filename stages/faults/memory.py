"""The memory of a network as addressable bits: every word that a device would store for it.

Integer weights take as many bits as their format says, in two's complement or, of one bit, as a sign; everything else
(weight scales, biases, batch-norm values, activation scales, and all of a float network) is float32 words. What is
constant for every network of an architecture, such as the input's scale, is code and not memory.

A bit's address is its place in the memory, or in that part of it which an attacker reaches: word after word, within a
word from the least significant bit up. Flips are made in the network itself, in place and exactly undone by flipping
again: they work on the bits, so that a float32 word may also become infinite or no number, and come back.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from stages.quantization.frozen_layers import FrozenBatchNorm, FrozenQuantizer, FrozenWeights

FLOAT_BITS = 32
REGIONS = ("all", "weights", "inner_weights", "floats")
WEIGHTS, SCALES, BIASES, BATCH_NORM = "weights", "scales", "biases", "batch_norm"

_BATCH_NORM_TENSORS = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), BATCH_NORM)
# What the tensors of a layer are. Other layers hold none, or integers that count something while training.
TENSORS: dict[type[nn.Module], dict[str, str]] = {
    FrozenWeights: {"weight": WEIGHTS, "weight_scale": SCALES, "bias": BIASES},
    FrozenBatchNorm: _BATCH_NORM_TENSORS,
    FrozenQuantizer: {"scale": SCALES},
    nn.Conv2d: {"weight": WEIGHTS, "bias": BIASES},
    nn.Linear: {"weight": WEIGHTS, "bias": BIASES},
    nn.BatchNorm2d: _BATCH_NORM_TENSORS,
}


class Bit(NamedTuple):
    """Where a bit is: a layer's tensor, the index of the word in it (flattened), and the bit's place in the word."""

    layer: str
    tensor: str
    index: int
    bit: int


class Stored:
    """One tensor in memory: `values` shares its storage, flattened; `bits` is the width of a word."""

    def __init__(self, layer: str, tensor: str, kind: str, values: Tensor, bits: int):
        self.layer, self.tensor, self.kind, self.shape, self.bits = layer, tensor, kind, values.shape, bits
        self.values = values.detach().view(-1)

    @property
    def name(self) -> str:
        """Its name in the network's state."""
        return f"{self.layer}.{self.tensor}"

    @property
    def is_float(self) -> bool:
        return self.values.is_floating_point()

    @property
    def size(self) -> int:
        """In bits."""
        return self.values.numel() * self.bits

    def codes(self) -> Tensor:
        """The words as integers int64 `[words]` in `[0, 2**bits)`, the way that they lie in memory."""
        if self.is_float:
            words = self.values.view(torch.int32).long()
        else:
            words = (self.values.long() + 1) // 2 if self.bits == 1 else self.values.long()
        return words & (2**self.bits - 1)

    def flip(self, masks: Tensor) -> None:
        """Inverts, in each word, the bits that `masks` int64 `[words]` has set."""
        (words,) = masks.nonzero(as_tuple=True)
        decoded = self.decoded(self.codes()[words] ^ masks[words])
        if self.is_float:  # as integers, lest a copy changes what is no number
            self.values.view(torch.int32)[words] = decoded.view(torch.int32)
        else:
            self.values[words] = decoded

    def decoded(self, codes: Tensor) -> Tensor:
        """The values that words int64 in `[0, 2**bits)` stand for."""
        if not self.is_float and self.bits == 1:
            return (2 * codes - 1).to(self.values.dtype)
        signed = torch.where(codes >= 2 ** (self.bits - 1), codes - 2**self.bits, codes)
        return signed.int().view(torch.float32) if self.is_float else signed.to(self.values.dtype)

    def changes(self) -> Tensor:
        """By how much a value changes when one bit of it is flipped: float64 `[words, bits]`.

        Of a float32 word the result may be infinite or no number. That counts as what the bit's weight would give if
        the exponent went on: 2**128, with the word's sign.
        """
        codes = self.codes()
        flipped = torch.stack([self.decoded(codes ^ (1 << bit)).double() for bit in range(self.bits)], 1)
        values = self.values.double().unsqueeze(1)
        if self.is_float:
            flipped = torch.where(flipped.isfinite(), flipped, torch.full_like(values, 2.0**128).copysign(values))
        return flipped - values


class Memory:
    """The words of a network that faults may hit.

    network: built from frozen or float layers; it is changed in place.
    region: `all` of memory; `weights`; `inner_weights`, those of neither the first nor the last layer; `floats`,
        everything but weights.

    Raises ValueError where the region is unknown or the network has no words there.
    """

    def __init__(self, network: nn.Module, region: str = "all"):
        if region not in REGIONS:
            raise ValueError(f"region: {region!r} is unknown, expected one of: {', '.join(REGIONS)}")
        self.network = network
        stored = list(stored_tensors(network))
        self.tensors = _in_region(stored, region)
        if not self.tensors:
            others = ", ".join(other for other in REGIONS if _in_region(stored, other))
            raise ValueError(f"region: {region!r} has no words in this network, expected one of: {others}")
        self._starts = np.cumsum([0, *(stored.size for stored in self.tensors)])
        self._flipped: set[int] = set()

    @property
    def size(self) -> int:
        """In bits."""
        return int(self._starts[-1])

    @property
    def flipped(self) -> frozenset[int]:
        """The addresses of bits that are not as they were."""
        return frozenset(self._flipped)

    def flip(self, addresses: Iterable[int]) -> None:
        """Inverts the bits at these addresses, each named once.

        Raises IndexError where one lies outside the region.
        """
        addresses = list(addresses)
        for stored, numbers in self.numbers(addresses):
            masks = np.zeros(stored.values.numel(), dtype=np.int64)
            np.bitwise_xor.at(masks, numbers // stored.bits, 1 << (numbers % stored.bits))
            stored.flip(torch.from_numpy(masks).to(stored.values.device))
        self._flipped.symmetric_difference_update(addresses)

    def numbers(self, addresses: Iterable[int]) -> Iterator[tuple[Stored, np.ndarray]]:
        """The tensors that hold bits of these addresses, and the numbers int64 [bits] that they have in the tensor.

        Raises IndexError where one lies outside the region.
        """
        addresses = np.fromiter(addresses, dtype=np.int64)
        if len(addresses) and (addresses.min() < 0 or addresses.max() >= self.size):
            ends = f"{addresses.min()} to {addresses.max()}"
            raise IndexError(f"an address of {ends}, expected bits 0 to {self.size - 1}")
        places = np.searchsorted(self._starts, addresses, side="right") - 1
        for place in np.unique(places):
            yield self.tensors[place], addresses[places == place] - self._starts[place]

    def restore(self) -> None:
        """Makes every bit what it was."""
        self.flip(self.flipped)

    def address(self, place: int, index: int, bit: int) -> int:
        """The address of a bit of the word `index` of the tensor at `place` in `tensors`."""
        return int(self._starts[place]) + index * self.tensors[place].bits + bit

    def place(self, address: int) -> tuple[int, int]:
        """The place in `tensors` of the one that holds the bit at an address, and the bit's number in that tensor."""
        place = int(np.searchsorted(self._starts, address, side="right")) - 1
        return place, address - int(self._starts[place])

    def located(self, address: int) -> tuple[Stored, Bit]:
        """The tensor that holds the bit at an address, and where it is."""
        place, number = self.place(address)
        stored = self.tensors[place]
        return stored, Bit(stored.layer, stored.tensor, *divmod(number, stored.bits))


def stored_tensors(network: nn.Module) -> Iterable[Stored]:
    """All that a device stores for a network, layer by layer.

    Raises ValueError where a layer holds numbers of which is not known what they are.
    """
    for layer, module in network.named_modules():
        kinds = next((kinds for kind, kinds in TENSORS.items() if isinstance(module, kind)), {})
        held = {**module._parameters, **module._buffers}
        for tensor, values in held.items():
            if values is None or tensor in module._non_persistent_buffers_set:
                continue
            if tensor in kinds:
                bits = FLOAT_BITS if values.is_floating_point() else module.bits
                yield Stored(layer, tensor, kinds[tensor], values, bits)
            elif values.is_floating_point() or values.dtype == torch.int8:
                raise ValueError(
                    f"layer {layer}: tensor {tensor} is stored, expected one of {', '.join(kinds) or 'none'}"
                )


def _in_region(tensors: Sequence[Stored], region: str) -> list[Stored]:
    weights = [stored for stored in tensors if stored.kind == WEIGHTS]
    return {
        "all": list(tensors),
        "weights": weights,
        "inner_weights": weights[1:-1],
        "floats": [stored for stored in tensors if stored.kind != WEIGHTS],
    }[region]
