"""What a flip of the bit-flip attack costs, and how far flips get: `python benchmarks/bitflips.py [NETWORK]`.

An 8-bit ResNet-20 for 3x32x32 images is attacked with random weights on a batch of 128, every weight in reach. Printed
is a Markdown table with the seconds of one step of each search, the mean of several: wall-clock and CPU time, since a
machine may be busy with other things. Where the bits of most promise lie decides what it costs to try them, and random
weights promise alike everywhere, as those of a trained network do not: for these see NETWORK.

With NETWORK, a quantized network of a study without its suffix (data/quantized/fashion_mnist-resnet8-int8-none-s0): the
flips after which each search leaves it at 11 % of the validation images or fewer, from several batches of them, and the
CPU seconds of a step. With --random N beside it: whether the gradient blinds the search, by what N random flips of
weights do to the loss.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, process_time

import torch
from torch import Tensor, nn

from stages.artifacts.datasets import load_dataset
from stages.artifacts.networks import load_network
from stages.datasets.tensors import as_input
from stages.faults import bit_flip_attack
from stages.faults.goals import guessing
from stages.faults.memory import Memory
from stages.faults.replay import Replay
from stages.faults.search import Objective, Step, _gradients, promised_gains
from stages.models import resnet20
from stages.quantization.formats import Format
from stages.quantization.frozen_layers import FrozenLayers, FrozenQuantizer, FrozenWeights

SHAPE, CLASSES, BATCH_SIZE = (3, 32, 32), 10, 128
SEARCHES = {
    "8 of the best ten bits of every tensor, the default": {},
    "30 of them": {"tries": 30},
    "8 of the best bits of every tensor": {"each": 1},
    "the best bit of every tensor, as in the paper": {"each": 1, "tries": 0},
}
CHANCE = guessing(CLASSES)
BATCHES = 5
MOST_PROMISING = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path, nargs="?")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--flips", type=int, default=5, help="that are timed, or with NETWORK made at most")
    parser.add_argument("--random", type=int, help="flips of weights, each by itself, beside those of most promise")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.network and options.random:
        print_promise(options.network, options.random)
    elif options.network:
        print_strength(options.network, options.flips)
    else:
        print_cost(options.flips)


def print_cost(flips: int) -> None:
    inputs = torch.rand(BATCH_SIZE, *SHAPE, generator=torch.Generator().manual_seed(0))
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    print("| tried | s a step | CPU s a step |\n|---|---|---|")
    for name, knobs in SEARCHES.items():
        network = random_network()
        with torch.no_grad():
            labels = network(inputs).argmax(1)
        steps = search(network, inputs, labels, 0, knobs)
        next(steps)  # with what is computed once
        start, cpu = perf_counter(), process_time()
        made = [next(steps) for _ in range(flips)]
        taken = perf_counter() - start, process_time() - cpu
        print(f"| {name} | {taken[0] / len(made):.2f} | {taken[1] / len(made):.2f} |", flush=True)


def print_promise(path: Path, count: int) -> None:
    """Whether what a gradient promises of the flips of weights is what they do to the loss of a batch."""
    inputs, labels = validation_images(path)
    seen = batch_of(labels, 0)
    network, _ = load_network(path)
    memory, objective = Memory(network.requires_grad_(False), "weights"), Objective.mean(labels[seen])
    replay = Replay(network, inputs[seen])
    before = objective(replay.logits).item()
    gradients = _gradients(memory, inputs[seen], objective, replay.logits)
    promised = torch.cat(
        [promised_gains(*pair, pair[0].changes()).flatten() for pair in zip(memory.tensors, gradients, strict=True)]
    )

    def truth(addresses: Tensor) -> Tensor:
        found = []
        for address in addresses.tolist():
            memory.flip([address])
            found.append(objective(replay.changed([memory.located(address)[0].layer])).item() - before)
            memory.flip([address])
        return torch.tensor(found, dtype=promised.dtype)

    drawn = torch.randperm(memory.size, generator=torch.Generator().manual_seed(0))[:count]
    of_drawn, of_best = truth(drawn), truth(promised.topk(MOST_PROMISING).indices)
    agreement = torch.corrcoef(torch.stack([promised[drawn], of_drawn]))[0, 1].item()
    print("| flips of weights | mean rise of the loss | highest |\n|---|---|---|")
    print(f"| {count} at random | {of_drawn.mean():.4f} | {of_drawn.max():.4f} |")
    print(f"| the {MOST_PROMISING} of most promise | {of_best.mean():.4f} | {of_best.max():.4f} |")
    print(f"\nPromise and truth of the random ones correlate by {agreement:.2f}.")


def validation_images(path: Path) -> tuple[Tensor, Tensor]:
    """The validation images of a network's study and their labels."""
    dataset = load_dataset(Path(f"{path.parents[1]}/prepared/{path.name.partition('-')[0]}.safetensors"))
    return as_input(torch.from_numpy(dataset.val.inputs)), torch.from_numpy(dataset.val.labels)


def batch_of(labels: Tensor, number: int) -> Tensor:
    """Which images are in a batch."""
    return torch.randperm(len(labels), generator=torch.Generator().manual_seed(number))[:BATCH_SIZE]


def print_strength(path: Path, most: int) -> None:
    """For each search, and each batch that it sees, the flips until the network guesses."""
    inputs, labels = validation_images(path)
    print(f"| tried | flips to {CHANCE:.0%}, of at most {most}, by batch | CPU s a step |\n|---|---|---|")
    for name, knobs in SEARCHES.items():
        found = [flips_to_chance(path, inputs, labels, batch, most, knobs) for batch in range(BATCHES)]
        told, cpu = zip(*found, strict=True)
        print(f"| {name} | {', '.join(told)} | {sum(cpu) / len(cpu):.2f} |", flush=True)


def flips_to_chance(
    path: Path, inputs: Tensor, labels: Tensor, batch: int, most: int, knobs: dict
) -> tuple[str, float]:
    """How many it took on one batch, or what was left after the most that were asked for, and CPU seconds a step."""
    network, _ = load_network(path)
    seen = batch_of(labels, batch)
    steps = search(network, inputs[seen], labels[seen], batch, knobs)
    made, left, taken = 0, 1.0, []
    while made < most and left > CHANCE:
        start = process_time()
        step = next(steps, None)
        if step is None:
            break
        taken.append(process_time() - start)
        made += len(step.flips)
        with torch.no_grad():
            left = (network(inputs).argmax(1) == labels).double().mean().item()
    cpu = sum(taken) / max(1, len(taken))
    return (str(made) if left <= CHANCE else f"more than {made} ({left:.1%} left)"), cpu


def search(network: nn.Module, inputs: Tensor, labels: Tensor, seed: int, knobs: dict) -> Iterator[Step]:
    """The steps of a search over all weights."""
    generator = torch.Generator().manual_seed(seed)
    return bit_flip_attack.attack(network, inputs, labels, flips=[], generator=generator, region="weights", **knobs)


def random_network() -> nn.Module:
    """A frozen network whose activations neither vanish nor clip."""
    generator = torch.Generator().manual_seed(0)
    network = resnet20.network(FrozenLayers((0.5,) * 3, 0.25, Format(8, 8)), SHAPE, CLASSES).eval()
    for layer in network.modules():
        if isinstance(layer, FrozenWeights):
            drawn = torch.randn(layer.weight.shape, generator=generator) * 30
            layer.weight.copy_(drawn.round().clamp(-127, 127))
            layer.weight_scale.fill_(1 / 30 / layer.weight[0].numel() ** 0.5)
        elif isinstance(layer, FrozenQuantizer):
            layer.scale.fill_(0.02)
    return network


if __name__ == "__main__":
    main()
