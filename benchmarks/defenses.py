"""What defenses cost, and what a filter's gradient is worth: `python benchmarks/defenses.py NETWORK`.

NETWORK is an undefended float network of a study without its suffix, such as
studies/cifar10/data/trained/cifar10-resnet8-fp32-none-s0. Printed are two Markdown tables. The first has the CPU time
of a training step with each loss, relative to that without a defense: batches of 128 in bfloat16, one thread, the mean
of several steps; the sources of `ensemble_at` are untrained, which changes no time. The second has the accuracy of
feature squeezing before the network on validation images: under PGD replayed from the network alone, and adaptively
with the identity's gradient and with the filter's own.
"""

import argparse
import statistics
from importlib import import_module
from pathlib import Path
from time import process_time

import torch
from torch import Tensor

from stages import plugins
from stages.artifacts.classifiers import load_classifier
from stages.artifacts.datasets import load_dataset
from stages.artifacts.network_files import load_description
from stages.artifacts.networks import build, load_network
from stages.attacks import pgd
from stages.attacks.attacked import Attacked
from stages.datasets.arrays import evaluation_samples
from stages.datasets.tensors import as_input
from stages.defenses import feature_squeezing
from stages.defenses.filtered import Filtered
from stages.defenses.input_filter import InputFilter

BATCH_SIZE, STEPS = 128, 13
EPSILONS = tuple(levels / 255 for levels in (1, 2, 4, 8))
PGD_STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path)
    parser.add_argument("--samples", type=int, default=200, help="validation images under attack")
    options = parser.parse_args()
    torch.set_num_threads(1)
    description = load_description(options.network)
    dataset = load_dataset(options.network.parents[1] / "prepared" / f"{description['variant']['dataset']}.safetensors")
    chosen = evaluation_samples(dataset.val.labels, max(options.samples, BATCH_SIZE))
    inputs = as_input(torch.from_numpy(dataset.val.inputs[chosen]))
    labels = torch.from_numpy(dataset.val.labels[chosen])

    print("| defense | CPU ms a step | relative |\n|---|---|---|")
    names = [name for name in plugins.names("defenses") if not plugins.is_filter(name)]
    costs = {name: step_cost(name, options.network, inputs[:BATCH_SIZE], labels[:BATCH_SIZE]) for name in names}
    for name in sorted(costs, key=costs.__getitem__):
        print(f"| `{name}` | {1000 * costs[name]:.0f} | {costs[name] / costs['none']:.1f} |")

    inputs, labels = inputs[: options.samples], labels[: options.samples]
    print("\n| epsilon | replayed | adaptive, the identity's gradient | adaptive, the filter's gradient |")
    print("|---|---|---|---|")
    for epsilon, shares in squeezing(options.network, inputs, labels):
        print(f"| {epsilon} | {' | '.join(f'{share:.1%}' for share in shares)} |")


def step_cost(defense: str, path: Path, inputs: Tensor, labels: Tensor) -> float:
    """The mean CPU time, in seconds, of a training step on a batch."""
    network, description = load_network(path)
    network.to(memory_format=torch.channels_last).train()
    given = {}
    if plugins.takes_teacher(defense):
        given["teacher"] = load_network(path)[0].requires_grad_(False)
    if plugins.takes_sources(defense):
        models = plugins.default("defenses", defense, "models")
        given["sources"] = [build(description | {"model": model}).eval().requires_grad_(False) for model in models]
    loss = import_module(f"stages.defenses.{defense}").loss
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    times = []
    for _ in range(STEPS):
        start = process_time()
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(network, inputs, labels, generator=generator, **given)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        times.append(process_time() - start)
    return statistics.mean(times[1:])  # the first step allocates


class IdentityGradient(feature_squeezing.FeatureSqueezing):
    """The same filter as an attacker sees it who takes its gradient for the identity's."""

    backward_view = InputFilter.backward_view


def squeezing(path: Path, inputs: Tensor, labels: Tensor):
    """(epsilon, accuracies), first clean: of the filtered network under replay, and under both adaptive attacks."""
    undefended = load_classifier(path)
    shape, classes = undefended.input_shape, undefended.num_classes
    filter = feature_squeezing.filter(shape)
    filtered = Filtered(undefended.network, filter, shape, classes)
    naive = Filtered(undefended.network, IdentityGradient(filter.bits, filter.window), shape, classes)

    def accuracy(points: Tensor) -> float:
        with torch.no_grad():
            return (filtered(points).argmax(1) == labels).double().mean().item()

    yield "0 (clean)", [accuracy(inputs)] * 3
    for epsilon in EPSILONS:
        crafted = [
            pgd.attack(
                Attacked(classifier, digital=True, eot_samples=1),
                inputs,
                labels,
                epsilons=torch.tensor([epsilon], dtype=torch.float64),
                generator=torch.Generator().manual_seed(0),
                steps=PGD_STEPS,
                step_size=0.1,
            ).inputs[0]
            for classifier in (undefended, naive, filtered)
        ]
        yield f"{epsilon * 255:.0f}/255", [accuracy(points) for points in crafted]


if __name__ == "__main__":
    main()
