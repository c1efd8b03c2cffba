"""Progressive bit search: which bits of a network, flipped one step after the other, raise a loss the most.

Rakin, He and Fan, "Bit-Flip Attack: Crushing Neural Network with Progressive Bit Search", arXiv 1903.12269, section 3:
in each step every tensor names its best bits by the gradient, the loss with these flipped is measured tensor by tensor,
and the flips of the tensor with the highest loss are made. Here tensors are tried in the order of what their bits
promise, and only the first ones where `tries` says so; a trial computes only the layers behind the tensor.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from stages.faults.memory import Memory, Stored
from stages.faults.replay import Replay

LARGEST_LOSS = 100.0  # of one sample, in nats: what is beyond says no more, and would drown the other samples
BEYOND = 1e39  # what an infinite logit counts as: more than any float32
LARGEST_SPREAD = 30.0  # of a sample's logits; beyond it the gradient of a loss near zero gets lost in rounding
RANDOM_TRIES = 32


class Step(NamedTuple):
    """One step of an attack.

    flips: the addresses of the bits that it has flipped.
    loss: the attacker's objective afterwards, on the attacker's images; None where it has none.
    logits: [N, K] on these images afterwards; None where it has none.
    """

    flips: list[int]
    loss: float | None = None
    logits: Tensor | None = None


class Objective(NamedTuple):
    """What the attacker raises: the sum of the losses of samples for some labels int64 [N], each times a weight [N],
    which is negative where the attacker wants the label."""

    labels: Tensor
    weights: Tensor

    def __call__(self, logits: Tensor) -> Tensor:
        """One number, of logits [N, K]."""
        return (self.weights * losses(logits, self.labels)).sum()

    def slope(self, logits: Tensor) -> Tensor:
        """One number whose gradient says where the objective rises: its own, but of two kinds of samples.

        Those whose loss is to rise and is the largest already are done with and have none. Logits far apart are held
        nearer, so that a sample that is surely right still says what would change that.
        """
        precise = _finite(logits)
        shrunk = ((precise.amax(1) - precise.amin(1)).detach() / LARGEST_SPREAD).clamp(min=1.0)
        found = shrunk * F.cross_entropy(precise / shrunk.unsqueeze(1), self.labels, reduction="none")
        is_done = (self.weights > 0) & (losses(logits.detach(), self.labels) >= LARGEST_LOSS)
        return (self.weights * torch.where(is_done, 0.0, found)).sum()

    @classmethod
    def mean(cls, labels: Tensor) -> "Objective":
        """The mean loss of samples for their labels."""
        return cls(labels, torch.full(labels.shape, 1 / len(labels), device=labels.device))

    def of(self, rows: Tensor) -> "Objective":
        """The objective on some of the samples."""
        return Objective(self.labels[rows], self.weights[rows])


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each sample [N] in nats, at most `LARGEST_LOSS`, which logits that are no numbers have, too."""
    found = F.cross_entropy(_finite(logits), labels, reduction="none")
    return torch.where(logits.isnan().any(1), LARGEST_LOSS, found).clamp(max=LARGEST_LOSS).to(logits.dtype)


def _finite(logits: Tensor) -> Tensor:
    """In float64, so that large numbers differ as they do in float32, by which the largest is the prediction."""
    return logits.double().nan_to_num(posinf=BEYOND, neginf=-BEYOND)


def predictions(logits: Tensor) -> Tensor:
    """The predicted classes int64 [N] of logits [N, K]; -1, which is no class, where one of them is no number."""
    return torch.where(logits.isnan().any(1), -1, logits.argmax(1))


def progressive_search(
    memory: Memory,
    inputs: Tensor,
    objective: Objective,
    generator: torch.Generator,
    *,
    tries: int = 0,
    each: int = 1,
    spare: int = 0,
    most_bits: int = 8,
) -> Iterator[Step]:
    """Flips bits of the memory, in place, for as long as that raises the objective on the inputs.

    Args:
        generator: draws the bits that are tried where the gradient names none that raises the objective.
        tries: so many candidates are tried in a step, the first ones by what they promise; 0: all of them.
        each: so many single bits of each tensor are candidates, its best.
        spare: so many of the highest bits of integer words are left alone.
        most_bits: where no candidate raises the objective, the best two bits of a tensor are flipped together, and so
            on, up to this many; and where none of these does, single bits at random.
    """
    replay = Replay(memory.network, inputs)
    loss = objective(replay.logits).item()
    while True:
        gradients = _gradients(memory, inputs, objective, replay.logits)
        ranked = _ranked(memory, gradients, max(each, most_bits), spare)
        promising = (
            _first([part for best in ranked for part in best.parts(count, each)], tries)
            for count in range(1, most_bits + 1)
        )
        for candidates in chain(promising, _random(memory, spare, generator)):
            found = [(_tried(memory, replay, candidate, objective), candidate) for candidate in candidates]
            highest, best = max(found, key=lambda trial: trial[0], default=(loss, None))
            if highest > loss:
                break
        else:
            return
        memory.flip(best.addresses)
        logits = replay.keep([best.layer])
        loss = objective(logits).item()
        yield Step(best.addresses, loss, logits)


class _Candidate(NamedTuple):
    """Bits of a tensor, the best first: their addresses, and how much more loss the gradient promises of each.

    rank: how many bits of the tensor promise as much or more than the first of them.
    """

    layer: str
    addresses: list[int]
    gains: list[float]  # none of bits at random
    rank: int = 0

    @property
    def promise(self) -> float:
        """No objective rises by more than `LARGEST_LOSS`."""
        return min(sum(self.gains), LARGEST_LOSS)

    def parts(self, count: int, each: int) -> Iterator["_Candidate"]:
        """The best `count` bits together, or, of single bits, the best `each`."""
        for start in range(each if count == 1 else 1):
            if start + count <= len(self.addresses):
                end = start + count
                yield self._replace(addresses=self.addresses[start:end], gains=self.gains[start:end], rank=start)


def _tried(memory: Memory, replay: Replay, candidate: _Candidate, objective: Objective) -> float:
    memory.flip(candidate.addresses)
    loss = objective(replay.changed([candidate.layer])).item()
    memory.flip(candidate.addresses)
    return loss


def _first(candidates: list[_Candidate], tries: int) -> list[_Candidate]:
    """The candidates to try. Of those that promise as much, as exponents of float32 words do, the best of each tensor
    go first, lest all were of one, and then the ones of later layers: they are near the logits, and quick to try."""
    places = range(len(candidates))
    ordered = sorted(
        places, key=lambda place: (candidates[place].promise, -candidates[place].rank, place), reverse=True
    )
    return [candidates[place] for place in ordered[: tries or None]]


def _random(memory: Memory, spare: int, generator: torch.Generator) -> Iterator[list[_Candidate]]:
    """Once single bits at random that have not been flipped; nothing is drawn before they are asked for."""
    drawn = torch.randint(memory.size, (RANDOM_TRIES,), generator=generator).tolist()
    found = []
    for address in dict.fromkeys(drawn):
        stored, bit = memory.located(address)
        if address not in memory.flipped and (stored.is_float or bit.bit < stored.bits - spare):
            found.append(_Candidate(stored.layer, [address], []))
    yield found


def _gradients(memory: Memory, inputs: Tensor, objective: Objective, logits: Tensor) -> list[Tensor]:
    """The objective's gradient with respect to each word of each tensor, as if integers were real numbers, too.

    `logits` are those of the inputs; samples whose logits are no numbers say nothing. Where a word has become so large
    that a gradient is no number, it counts as zero there and goes no further, lest all gradients before it were lost.
    """
    network = memory.network
    statistics = {stored.name for stored in memory.tensors if _is_statistic(network, stored)}
    leaves = {
        stored.name: stored.values.float().view(stored.shape).clone().requires_grad_()
        for stored in memory.tensors
        if stored.name not in statistics
    }
    rows = (~logits.isnan().any(1)).nonzero().flatten()
    if not len(rows):
        return [torch.zeros(stored.values.numel(), device=logits.device) for stored in memory.tensors]
    with _numbers_alone(network):
        value = objective.of(rows).slope(functional_call(network, leaves, (inputs[rows],)))
        gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
    found = dict(zip(leaves, gradients, strict=True))
    for layer in dict.fromkeys(stored.layer for stored in memory.tensors if stored.name in statistics):
        found |= _of_statistics(layer, network.get_submodule(layer), found)
    return [found[stored.name].reshape(-1) for stored in memory.tensors]


@contextmanager
def _numbers_alone(network: nn.Module) -> Iterator[None]:
    """Inside, gradients of layers' outputs that are no finite numbers are zero."""

    def hook(_layer: nn.Module, _inputs: Any, output: Any) -> None:
        for value in output if isinstance(output, tuple) else (output,):
            if isinstance(value, Tensor) and value.requires_grad:
                value.register_hook(lambda gradient: gradient.nan_to_num(0.0, 0.0, 0.0))

    handles = [layer.register_forward_hook(hook) for layer in network.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_statistic(network: nn.Module, stored: Stored) -> bool:
    """Whether PyTorch has no gradient for a tensor: for the mean and variance of its own batch norm."""
    return stored.tensor.startswith("running_") and isinstance(network.get_submodule(stored.layer), nn.BatchNorm2d)


def _of_statistics(name: str, layer: nn.BatchNorm2d, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradients of mean and variance from those of weight and bias, by (x - mean) / deviation * weight + bias."""
    variance = layer.running_var + layer.eps
    return {
        f"{name}.running_mean": -gradients[f"{name}.bias"] * layer.weight / variance.sqrt(),
        f"{name}.running_var": -gradients[f"{name}.weight"] * layer.weight / (2 * variance),
    }


def _ranked(memory: Memory, gradients: list[Tensor], count: int, spare: int) -> list[_Candidate]:
    """Each tensor's best `count` bits, but for the `spare` highest of integers; of a tensor of float32 words those that
    raise a value, and those that lower one, as for large changes the gradient does not tell which of the two it should
    be."""
    flipped = [[] for _ in memory.tensors]
    for address in memory.flipped:
        place, number = memory.place(address)
        flipped[place].append(number)
    found = []
    for place, (stored, gradient) in enumerate(zip(memory.tensors, gradients, strict=True)):
        changes = stored.changes()
        gains = promised_gains(stored, gradient, changes)
        gains[:, stored.bits if stored.is_float else max(0, stored.bits - spare) :] = 0.0
        gains = gains.flatten()
        gains[flipped[place]] = 0.0  # a bit that has been flipped stays so
        rises = (changes > 0).flatten()
        for gains_of_one in (gains * rises, gains * ~rises) if stored.is_float else (gains,):
            best = gains_of_one.topk(min(count, len(gains)))
            promising = best.values > 0
            if promising.any():
                addresses = best.indices[promising] + memory.address(place, 0, 0)
                found.append(_Candidate(stored.layer, addresses.tolist(), best.values[promising].tolist()))
    return found


def promised_gains(stored: Stored, gradient: Tensor, changes: Tensor) -> Tensor:
    """What flipping each bit adds to the objective, by its gradient [words] alone: float64 `[words, bits]`, in nats.

    A change of a float32 word that is larger than the word, of a high bit of its exponent, goes beyond where a gradient
    says in which direction the objective rises: there its size counts.
    """
    gains = gradient.nan_to_num().double().unsqueeze(1) * changes
    if not stored.is_float:
        return gains
    return torch.where(changes.abs() > stored.values.double().abs().unsqueeze(1), gains.abs(), gains)
