"""early_growth: a binary network whose layers grow channels while that helps, then trained from scratch.

Rakin et al. 2021, "RA-BNN: Constructing Robust & Accurate Binary Neural Network to Simultaneously Defend Adversarial
Bit-Flip Attack and Improve Accuracy", arXiv 2103.13813. In its first stage a network of the largest width is trained
together with masks of channels (`stages/quantization/growth.py`) until these settle; in its second the network that
has grown is trained from scratch. Both train with the defense's own loss. Weights have one bit everywhere, first and
last layer too. How far it grew stands in the network's JSON, by step under `history` and in the end under `channels`.
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from stages.knobs import Count, Fraction, Positive
from stages.quantization.calibrate import calibrate
from stages.quantization.channel_groups import scaled
from stages.quantization.formats import Format
from stages.quantization.growth import ChannelMasks, has_settled, mask_channels
from stages.quantization.recipes import Make, Quantized, quantization_aware

GROWS = True


def quantize(
    make: Make,
    calibration: list[Tensor],
    fine_tune: Callable[..., list[dict]],
    *,
    activations: Literal[1, 2, 3, 4, 5, 6, 7, 8] = 1,
    edges: Literal[1, 2, 3, 4, 5, 6, 7, 8] = 1,
    base: Positive = 1.0,
    largest: Positive = 2.0,
    chance: Fraction = 0.3,
    rate: Positive = 50.0,
    temperature: Positive = 1.0,
    cooling: Fraction = 0.9,
    steps: Count = 12,
    epochs_a_step: Count = 1,
    patience: Count = 2,
    tolerance: Fraction = 0.05,
    epochs: Count = 12,
    learning_rate: Positive = 0.8,
) -> Quantized:
    """Grown in steps, after each of which channels are counted; then trained from scratch for `epochs`.

    activations, edges: 1 makes the network a complete binary one, as the paper's.
    base: so many times the model's own channels are always there, from the start. 1: what it grows from is the model.
    largest: so many times may be there in the end. A pass of the first stage costs what one of that network costs: 2 is
        four times as many multiply-accumulates.
    chance: of each further channel, at the start, to be there in a pass. Low, as the network starts from its base, but
        not so low that channels are seldom in the passes in which they could show their use: with 0.1 a twelfth more
        came, with 0.3 a quarter more (docs/schemes.md). At one half whatever rises at all would come.
    rate: how many times as fast as weights the logits of chances learn. One gradient has to move them by units, not by
        hundredths: with 1, at a learning rate of 0.2, none of them changed sign in 276 passes (`benchmarks/growth.py`).
    temperature, cooling: of the soft mask whose gradient the drawn one has, in the first step, and what it is
        multiplied with after each. At 1 it has a gradient everywhere. The colder, the fewer channels still change:
        cooling makes growth settle.
    steps: at most; each is a training of `epochs_a_step` epochs, whose learning rate ends at zero, so that what is
        counted is not what the last passes happened to do.
    patience, tolerance: growth, once it has begun, has settled where in so many steps, one after the other, no larger
        share of all channels came or went, each group's net change counted. Of ResNet-8's 2 to 4 % do in each step when
        growth is over.
    learning_rate: the peak, in both stages. High, as gradients of binary weights are multiplied with their scales.
    """
    format = Format(1, activations, edge_bits=edges)
    groups = make.groups()
    most = scaled(groups, largest)
    network = make.untrained(format, most)
    masks = ChannelMasks(scaled(groups, base), most, chance=chance, rate=rate)
    mask_channels(network, groups, masks)
    calibrate(network, calibration, untrained=True)
    counts = [masks.channels()]
    history: list[dict] = [{"growth": 0, "channels": counts[0]}]
    for step in range(1, steps + 1):
        masks.temperature = temperature * cooling ** (step - 1)
        trained = fine_tune(network, part=f"growth{step}", epochs=epochs_a_step, learning_rate=learning_rate)
        counts.append(masks.channels())
        history += [epoch | {"growth": step} for epoch in trained]
        history[-1]["channels"] = counts[-1]
        if has_settled(counts, patience, tolerance):
            break
    grown = quantization_aware(
        make, format, calibration, fine_tune, epochs=epochs, learning_rate=learning_rate, channels=counts[-1]
    )
    return grown._replace(history=history + grown.history)
