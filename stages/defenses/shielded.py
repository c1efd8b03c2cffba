"""A network that is asked several times about the same input, behind filters and with dropout that are drawn anew each
time, and a vote: as one classifier, and what attackers differentiate of it.

Athalye, Carlini and Wagner, "Obfuscated gradients give a false sense of security", ICML 2018,
https://arxiv.org/abs/1802.00420 (sections 4.2 and 5.3) say how to attack such: BPDA through what has no gradient, and
gradients of an expectation over draws (EOT).
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stages.attacks.draws import split
from stages.defenses.dropout_passes import DropoutPasses, bytes_of, calls, multiply_accumulates
from stages.defenses.filtered import Filtered
from stages.defenses.input_filter import InputFilter, in_sequence, with_gradient_of
from stages.defenses.votes import UNCERTAINTIES, VOTES, mean_probabilities
from stages.models.footprint import Footprint

VALUES_AT_ONCE = 2**22  # activations of a layer that passes have in memory at a time

# From inputs and, of a random filter, a generator to what the network is asked about.
Filtering = Callable[..., Tensor]


class Shielded(Filtered):
    """A filter, a network that may drop activations, and the vote of several passes.

    filter: a `RandomFilter`, or one with more to say, by attributes of these names: passes (1 without it); layers and
    rate of the dropout (no dropout); vote, of `VOTES` ("mean"); uncertainty, of `UNCERTAINTIES`, by which an input is
    suspected (None: there is no detector).
    generator: what is random comes from it. To be seeded by `reseed`; passes over the same inputs give something else
    each time.
    """

    def __init__(self, network: nn.Module, filter: InputFilter, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__(network, filter, input_shape, num_classes)
        self.passes = getattr(filter, "passes", 1)
        self.vote = VOTES[getattr(filter, "vote", "mean")]
        self.uncertainty = getattr(filter, "uncertainty", None)
        layers, rate = getattr(filter, "layers", []), getattr(filter, "rate", 0.0)
        self.dropout = DropoutPasses(network, layers, rate, self.input_shape)
        self.stochastic = filter.stochastic or bool(self.dropout.layers)
        self.generator = torch.Generator()

    def reseed(self, seed: int) -> None:
        """What is random from here on depends on the seed and on what is asked, and on nothing before."""
        self.generator.manual_seed(seed)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.vote(self.pass_logits(inputs, self.passes, self.generator, self.filter))

    def features(self, inputs: Tensor) -> Tensor:
        """Those of one pass."""
        given = self._filtered(inputs, self.filter, self.generator)
        with self.dropout.of(self.network, 1, self.generator):
            return self.network.features(given)

    def gradient_view(self, generator: torch.Generator | None = None, samples: int = 1) -> nn.Module:
        """The vote of `samples` times as many passes, by draws from `generator`.

        Of one sample its logits are the classifier's for the same draws, bit for bit. The gradient is that of the
        logarithm of the mean probability, whatever the vote, since counting has none.
        """
        return _ExpectedView(self, generator or self.generator, samples)

    @property
    def detects(self) -> bool:
        return self.uncertainty is not None

    def suspicion(self, inputs: Tensor) -> Tensor | None:
        """The uncertainty [N] of a prediction for inputs [N, C, H, W], in nats; None where it is no detector."""
        if self.uncertainty is None:
            return None
        return UNCERTAINTIES[self.uncertainty](self._logits(inputs))

    def uncertainties(self, inputs: Tensor) -> dict[str, Tensor]:
        """What the passes say of their prediction, each [N]: `confidence`, its probability, and each uncertainty."""
        logits = self._logits(inputs)
        confidence = self.vote(logits).softmax(1).amax(1)
        return {"confidence": confidence} | {name: of(logits) for name, of in UNCERTAINTIES.items()}

    def footprint(self, of_network: Footprint) -> Footprint:
        """What a prediction costs, given the network's own footprint: what is before the first dropout runs once.

        Its activations are kept in memory while the rest of the network runs, pass after pass.
        """
        of_filter = self.filter.footprint(self.input_shape)
        zeros = torch.zeros(1, *self.input_shape, device=self.filter.threshold.device)
        plain = calls(self.network, zeros)
        once = multiply_accumulates(plain)
        kept = 0
        if self.filter.stochastic or not self.dropout.layers:
            runs = self.passes if self.filter.stochastic else 1
            macs = runs * once
            of_filter = replace(of_filter, macs=runs * of_filter.macs)
        else:
            first = next(place for place, call in enumerate(plain) if call.name == self.dropout.layers[0])
            before = multiply_accumulates(plain[: first + 1])
            macs = before + self.passes * (once - before)
            kept = bytes_of(plain[first].output) if self.passes > 1 else 0
        of_passes = replace(of_network, macs=macs, peak_activation_bytes=of_network.peak_activation_bytes + kept)
        return in_sequence(of_filter, of_passes)

    def operations(self) -> int | None:
        """Steps of arithmetic beside the network's in a prediction: the filter's, and a draw for each activation that
        may be dropped; None where the filter's are not counted."""
        of_filter = self.filter.operations(self.input_shape)
        if of_filter is None:
            return None
        runs = self.passes if self.filter.stochastic else 1
        return runs * of_filter + self.passes * self.dropout.dropped_values(self.network, self.input_shape)

    def pass_logits(self, inputs: Tensor, passes: int, generator: torch.Generator, filtering: Filtering) -> Tensor:
        """Logits [passes, N, K], each pass with draws of its own from the generator."""
        if not self.stochastic:
            return self.network(filtering(inputs)).expand(passes, -1, -1)
        if not self.filter.stochastic:
            inputs = filtering(inputs)
        # Behind a random filter each pass runs the whole network.
        values = self.dropout.values_of_all if self.filter.stochastic else self.dropout.values
        at_once = max(1, VALUES_AT_ONCE // max(1, len(inputs) * values))
        groups = [at_once] * (passes // at_once) + [passes % at_once] * (passes % at_once > 0)
        several = len(groups) > 1 and torch.is_grad_enabled() and inputs.requires_grad
        logits = []
        for count in groups:
            seed = split(generator).initial_seed()  # so that a pass that is computed again draws the same
            if several:
                logits.append(checkpoint(self._group, inputs, count, seed, filtering, use_reentrant=False))
            else:
                logits.append(self._group(inputs, count, seed, filtering))
        return torch.cat(logits)

    def _logits(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return self.pass_logits(inputs, self.passes, self.generator, self.filter)

    def _group(self, inputs: Tensor, passes: int, seed: int, filtering: Filtering) -> Tensor:
        """Logits [passes, N, K] of inputs, filtered already where the filter is not random."""
        draws = torch.Generator().manual_seed(seed)
        repeats, count = passes, len(inputs)
        if self.filter.stochastic:
            inputs, repeats = torch.cat([filtering(inputs, draws) for _ in range(passes)]), 1
        with self.dropout.of(self.network, repeats, draws):
            return self.network(inputs).unflatten(0, (passes, count))

    def _filtered(self, inputs: Tensor, filtering: Filtering, generator: torch.Generator) -> Tensor:
        return filtering(inputs, generator) if self.filter.stochastic else filtering(inputs)


class _ExpectedView(nn.Module):
    def __init__(self, classifier: Shielded, generator: torch.Generator, samples: int) -> None:
        super().__init__()
        self.classifier, self.generator, self.samples = classifier, generator, samples

    def forward(self, inputs: Tensor) -> Tensor:
        shielded, samples = self.classifier, self.samples if self.classifier.stochastic else 1
        passes = samples * shielded.passes
        logits = shielded.pass_logits(inputs, passes, self.generator, shielded.filter.backward_view)
        smooth = mean_probabilities(logits)
        if shielded.vote is mean_probabilities:
            return smooth
        votes = [shielded.vote(draw) for draw in logits.detach().unflatten(0, (samples, shielded.passes))]
        return with_gradient_of(smooth, mean_probabilities(torch.stack(votes)))
