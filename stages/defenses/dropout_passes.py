"""Dropout in a network that was trained without it, drawn again in every pass: Gal and Ghahramani, "Dropout as a
Bayesian approximation", ICML 2016, https://arxiv.org/abs/1506.02142; in quantized networks Qendro et al.,
"Stochastic-Shield", 2021, https://arxiv.org/abs/2105.06512 (re-implemented after its abstract).

In a frozen integer network a dropped activation is the integer 0, its zero point, and the factor 1 / (1 - rate) goes
into the scale that follows the integers: all sums stay sums of integers. (Of binary activations 0 is no code: a kernel
has to skip them.) Layers are wrapped by hooks while passes run, and the network is as it was outside. All passes go
through the network as one batch, which is repeated at the first of the layers: what comes before is computed once.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stages.classifier import evaluating
from stages.quantization.frozen_layers import Codes, FrozenActivation, FrozenSign

LAST_HIDDEN, ACTIVATIONS = "last_hidden", "activations"  # what `layers` may say in the place of names
ACTIVATION_LAYERS = (nn.ReLU, FrozenActivation, FrozenSign)
PROBED_SAMPLES, PROBED_PASSES = 2, 3  # in which a branch that is not repeated does not fit the one that is


class Seen(NamedTuple):
    """What a look at a network found: the outputs of its modules in the order of their calls."""

    name: str
    module: nn.Module
    inputs: tuple
    output: Tensor | Codes


class DropoutPasses:
    """Where a network drops activations, and how many.

    layers: module names, in the order in which they run; none where nothing is dropped. rate: of activations.
    values, values_of_all: how many activations of one sample the largest tensor has from the first of the layers on,
    and in the whole network.
    """

    def __init__(self, network: nn.Module, layers: list[str], rate: float, input_shape: tuple[int, ...]) -> None:
        """layers: as of `named_layers`. rate: in [0, 1).

        Raises ValueError if a layer is unknown, if the first of them is on a branch, or if the rate is impossible.
        """
        if not 0 <= rate < 1:
            raise ValueError(f"dropout: rate is {rate}, expected a share in [0, 1)")
        self.rate = rate
        self.layers: list[str] = []
        seen = calls(network, torch.zeros(1, *input_shape, device=_device(network)))
        after = 0
        if rate > 0:
            self.layers = named_layers(seen, layers)
            after = next(place for place, call in enumerate(seen) if call.name == self.layers[0])
        sizes = [_values(call.output).numel() for call in seen]
        self.values, self.values_of_all = max(sizes[after:]), max(sizes)
        if rate > 0:
            self._check_trunk(network, input_shape)

    @contextmanager
    def of(self, network: nn.Module, passes: int, generator: torch.Generator) -> Iterator[None]:
        """Inside, a call of the network on [N, ...] gives the outputs of several passes, [passes * N, ...].

        Pass by pass; each drops activations of its own, by draws from a generator on the CPU.
        """
        pending = [passes]  # emptied by the first of the layers

        def drop(module: nn.Module, inputs: tuple, output: Tensor | Codes) -> Tensor | Codes:
            values = _values(output)
            if pending:
                values = values.repeat(pending.pop(), *[1] * (values.ndim - 1))
            kept = torch.rand(values.shape, generator=generator) >= self.rate
            values = values * kept.to(values)
            if isinstance(output, Codes):
                return output._replace(integers=values, scale=output.scale / (1 - self.rate))
            return values / (1 - self.rate)

        handles = [network.get_submodule(name).register_forward_hook(drop) for name in self.layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def dropped_values(self, network: nn.Module, input_shape: tuple[int, ...]) -> int:
        """How many activations of one sample may be dropped in a pass."""
        seen = calls(network, torch.zeros(1, *input_shape, device=_device(network)))
        return sum(_values(call.output).numel() for call in seen if call.name in self.layers)

    def _check_trunk(self, network: nn.Module, input_shape: tuple[int, ...]) -> None:
        """Raises ValueError unless all of the network behind the first layer depends on that layer alone."""
        inputs = torch.zeros(PROBED_SAMPLES, *input_shape, device=_device(network))
        try:
            with evaluating(network), torch.no_grad(), self.of(network, PROBED_PASSES, torch.Generator()):
                whole = len(network(inputs)) == PROBED_SAMPLES * PROBED_PASSES
        except RuntimeError:
            whole = False
        if not whole:
            raise ValueError(
                f"dropout: layers: {self.layers[0]!r} is on one branch of several, expected as the first a layer that "
                "all later ones depend on, such as a whole block"
            )


def named_layers(seen: list[Seen], layers: list[str]) -> list[str]:
    """Module names in the order in which the modules run.

    layers: module names, or `last_hidden`, what the last layer reads, or `activations`, the output of every activation
    that is no part of a block, and of every block that ends with one.
    Raises ValueError if there is no such module in the network.
    """
    order = {call.name: place for place, call in enumerate(seen)}
    found = []
    for name in layers:
        if name == LAST_HIDDEN:
            found.append(_last_hidden(seen))
        elif name == ACTIVATIONS:
            found += _activations(seen)
        elif name in order:
            found.append(name)
        else:
            expected = f"{LAST_HIDDEN}, {ACTIVATIONS}, {', '.join(name for name in order if '.' not in name)}"
            raise ValueError(f"dropout: layers: {name!r} is no layer of the network, expected one of: {expected}")
    if not found:
        raise ValueError(f"dropout: layers: {layers} names none, expected some where the rate is above 0")
    return sorted(set(found), key=order.__getitem__)


def calls(network: nn.Module, inputs: Tensor) -> list[Seen]:
    """The calls of the network's modules on inputs [N, ...], each after those that it makes."""
    seen: list[Seen] = []

    def remember(name: str) -> Callable:
        return lambda module, given, output: seen.append(Seen(name, module, given, output))

    handles = [module.register_forward_hook(remember(name)) for name, module in network.named_modules() if name]
    try:
        with evaluating(network), torch.no_grad():
            network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def multiply_accumulates(seen: list[Seen]) -> int:
    """What the calls of layers with weights take, for all samples and passes together."""
    weighted = [call for call in seen if _is_weighted(call.module)]
    return sum(_values(call.output).numel() * call.module.weight[0].numel() for call in weighted)


def _last_hidden(seen: list[Seen]) -> str:
    last = next(call for call in reversed(seen) if _is_weighted(call.module))
    given = [name for name, output in _trunk(seen) if output is last.inputs[0]]
    if not given:
        raise ValueError(
            f"dropout: layers: {LAST_HIDDEN!r} is no module's output in this network, expected a module's name"
        )
    return given[0]


def _activations(seen: list[Seen]) -> list[str]:
    activated = [call.output for call in seen if isinstance(call.module, ACTIVATION_LAYERS)]
    return [name for name, output in _trunk(seen) if any(output is given for given in activated)]


def _trunk(seen: list[Seen]) -> list[tuple[str, Tensor | Codes]]:
    """The outputs of modules that are part of no other, but of containers, each with the first that gives it out.

    A network's own dropout hands on what it was given, while it is not trained.
    """
    containers = {call.name for call in seen if isinstance(call.module, nn.Sequential)}
    found: list[tuple[str, Tensor | Codes]] = []
    for call in seen:
        is_part = call.name.rpartition(".")[0] not in {"", *containers}
        is_known = any(call.output is output for _, output in found)
        if not (is_part or is_known or call.name in containers):
            found.append((call.name, call.output))
    return found


def _is_weighted(module: nn.Module) -> bool:
    """Whether it is a convolution or a linear layer: its weight has an output dimension and others."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim > 1


def _values(output: Tensor | Codes) -> Tensor:
    return output.integers if isinstance(output, Codes) else output


def _device(network: nn.Module) -> torch.device:
    return next((tensor.device for tensor in (*network.parameters(), *network.buffers())), torch.device("cpu"))


def bytes_of(output: Tensor | Codes) -> int:
    """What one sample's activations take in memory: integers packed, others in float32."""
    values = _values(output)
    bits = output.largest.bit_length() if isinstance(output, Codes) else 32
    return math.ceil(values[0].numel() * bits / 8)
