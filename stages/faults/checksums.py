"""Checksums over groups of weights, and zeros where they fail: a defense of the memory that needs no training.

After Li, Rakin, He, Fan and Chakrabarti, "RADAR: Run-time Adversarial Weight Attack Detection and Accuracy Recovery",
arXiv 2101.08254: a layer's weights are dealt out to groups, so that neighbours are in different ones; of each group a
sum with secret signs is taken, of which two bits are kept where no attacker reaches them. They are those that the top
bit of one weight changes: for 8 bits those of weight 256 and 128. Where they differ, the group is set to zero. Only
integer weights are protected. Two top bits of one group can cancel, and lower bits mostly go unseen: with `spare` the
bit-flip attack is that of who knows it. A weight of one bit has no zero; for it a device would have to skip the group.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from stages.faults.memory import WEIGHTS, Memory, Stored, stored_tensors

SIGNATURE_BITS = 2


class Checksums:
    """The checksums of a network as it is now, in groups of at most `group_size` weights of one layer.

    generator: draws the secret signs.
    """

    def __init__(self, network: nn.Module, group_size: int, generator: torch.Generator):
        found = stored_tensors(network)
        self.protected = {s.layer: s for s in found if s.kind == WEIGHTS and not s.is_float}
        self.group_size = group_size
        self._signs = {
            layer: torch.randint(2, (stored.values.numel(),), generator=generator).to(stored.values.device) * 2 - 1
            for layer, stored in self.protected.items()
        }
        self._kept = {layer: self._signatures(stored) for layer, stored in self.protected.items()}

    @property
    def overhead(self) -> int:
        """Bytes of the signatures, which lie where no attacker reaches them."""
        return -(-SIGNATURE_BITS * sum(len(signatures) for signatures in self._kept.values()) // 8)

    def failing(self) -> dict[str, Tensor]:
        """Per layer which groups have another signature now: bool [groups]."""
        return {layer: self._signatures(stored) != self._kept[layer] for layer, stored in self.protected.items()}

    def seen(self, memory: Memory, addresses: Iterable[int]) -> int:
        """How many of the bits at these addresses of a memory lie in a group that fails."""
        failing, count = self.failing(), 0
        for stored, numbers in memory.numbers(addresses):
            if stored.kind == WEIGHTS and stored.layer in failing:
                groups = self._groups(stored)[torch.from_numpy(numbers // stored.bits)]
                count += int(failing[stored.layer][groups].sum())
        return count

    @contextmanager
    def recovered(self) -> Iterator[bool]:
        """Inside, the groups that fail are zero; outside, their weights are as they were. Yields whether any fail."""
        zeroed, is_any = [], False
        for layer, failing in self.failing().items():
            stored, is_any = self.protected[layer], is_any or bool(failing.any())
            words = failing[self._groups(stored)]
            zeroed.append((stored.values, words, stored.values[words]))
            stored.values[words] = 0
        try:
            yield is_any
        finally:
            for values, words, before in zeroed:
                values[words] = before

    def _groups(self, stored: Stored) -> Tensor:
        """The group of each weight [words]: as a deck of cards is dealt."""
        count = -(-stored.values.numel() // self.group_size)
        return torch.arange(stored.values.numel(), device=stored.values.device) % count

    def _signatures(self, stored: Stored) -> Tensor:
        """Two bits of each group, as a number below 4: int64 [groups]."""
        groups = self._groups(stored)
        words = stored.codes() if stored.bits == 1 else stored.values.long()
        sums = torch.zeros(int(groups.max()) + 1, dtype=torch.int64, device=words.device)
        sums.index_add_(0, groups, words * self._signs[stored.layer])
        return (sums >> (stored.bits - 1)) & (2**SIGNATURE_BITS - 1)
