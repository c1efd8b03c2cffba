"""What defenses cost, and what a filter's gradient is worth: `python benchmarks/defenses.py NETWORK`.

NETWORK is an undefended network of a study without its suffix, such as
studies/cifar10/data/trained/cifar10-resnet8-fp32-none-s0. Printed are Markdown tables. The first, of a float network,
has the CPU time of a training step with each loss, relative to that without a defense: batches of 128 in bfloat16, one
thread, the mean of several steps; the sources of `ensemble_at` are untrained, which changes no time. The second has the
accuracy of feature squeezing before the network on validation samples: under PGD replayed from the network alone, and
adaptively with the identity's gradient and with the filter's own.

`--filter` prints the second table alone, of any filter that is not fitted, such as

    python benchmarks/defenses.py NETWORK --filter jpeg quality=50
    python benchmarks/defenses.py NETWORK --filter shield 'filters=[gaussian, {median: {window: 3}}]' rate=0

On images PGD has budgets in linf, on sound signal-to-noise ratios.
"""

import argparse
import copy
import statistics
from collections.abc import Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from time import process_time

import torch
from ruamel.yaml import YAML
from torch import Tensor

from stages import plugins
from stages.artifacts.classifiers import load_classifier
from stages.artifacts.datasets import load_dataset
from stages.artifacts.network_files import load_description
from stages.artifacts.networks import build, load_network
from stages.attacks import pgd, pgd_snr
from stages.attacks.attacked import Attacked
from stages.classifier import Classifier, evaluating
from stages.datasets.arrays import evaluation_samples
from stages.datasets.levels import LEVELS, is_sound
from stages.datasets.tensors import as_input
from stages.defenses.filtered import Filtered
from stages.defenses.input_filter import InputFilter, RandomFilter
from stages.defenses.shield import named_filter
from stages.randomness import reseed
from stages.seeds import seed_of

BATCH_SIZE, STEPS = 128, 13
EPSILONS = {f"{levels}/255": levels / LEVELS for levels in (1, 2, 4, 8)}
RATIOS = {f"{ratio} dB": float(ratio) for ratio in (70, 60, 50, 40)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path)
    parser.add_argument("--samples", type=int, default=200, help="validation samples under attack")
    parser.add_argument("--filter", nargs="+", metavar=("NAME", "SETTING=VALUE"), help="a filter, with its settings")
    parser.add_argument("--clean", action="store_true", help="of the filter, no more than clean accuracy")
    parser.add_argument("--steps", type=int, default=20, help="of PGD")
    parser.add_argument("--draws", type=int, default=1, help="that each gradient averages, of a random filter")
    options = parser.parse_args()
    torch.set_num_threads(1)
    name, *given = options.filter or ["feature_squeezing"]
    if name not in (known := filters()):
        parser.error(f"--filter: {name!r} is no filter without a fit{plugins.nearest(name, known)}")
    try:
        settings = plugins.settings("defenses", name, dict(map(setting, given)))
    except ValueError as error:
        parser.error(f"--filter: {error}")
    description = load_description(options.network)
    dataset = load_dataset(options.network.parents[1] / "prepared" / f"{description['variant']['dataset']}.safetensors")
    chosen = evaluation_samples(dataset.val.labels, max(options.samples, 0 if options.filter else BATCH_SIZE))
    inputs = as_input(torch.from_numpy(dataset.val.inputs[chosen]))
    labels = torch.from_numpy(dataset.val.labels[chosen])

    if not options.filter:
        print("| defense | CPU ms a step | relative |\n|---|---|---|")
        losses = [name for name in plugins.names("defenses") if not plugins.is_filter(name)]
        costs = {loss: step_cost(loss, options.network, inputs[:BATCH_SIZE], labels[:BATCH_SIZE]) for loss in losses}
        for loss in sorted(costs, key=costs.__getitem__):
            print(f"| `{loss}` | {1000 * costs[loss]:.0f} | {costs[loss] / costs['none']:.1f} |")
        print()

    undefended = load_classifier(options.network)
    try:
        refuse_misfits(name, settings, undefended)
        filter = import_module(f"stages.defenses.{name}").filter(undefended.input_shape, **settings)
    except ValueError as error:
        parser.error(f"--filter: {error}")
    print("| budget | replayed | adaptive, the identity's gradient | adaptive, the filter's gradient |")
    print("|---|---|---|---|")
    samples = inputs[: options.samples], labels[: options.samples]
    found = withstood(undefended, filter, *samples, options.steps, options.draws)
    for budget, shares in islice(found, 1) if options.clean else found:
        print(f"| {budget} | {' | '.join(f'{share:.1%}' for share in shares)} |", flush=True)


def filters() -> list[str]:
    """The defenses that are filters and learn nothing from data."""
    named = [name for name in plugins.names("defenses") if plugins.is_filter(name)]
    return [name for name in named if not plugins.is_fitted(name)]


def refuse_misfits(name: str, settings: dict, undefended: Classifier) -> None:
    """Raises ValueError if a filter, or one of those that a shield consists of, is not for the network's inputs."""
    inputs = "sound" if is_sound(undefended.input_shape) else "images"
    for part in [part for part, _ in map(named_filter, settings.get("filters", []))] if name == "shield" else [name]:
        if inputs not in (known := plugins.filtered_inputs(part)):
            raise ValueError(f"{part!r} filters {' and '.join(known)}, the network's inputs are {inputs}")


def setting(written: str) -> tuple[str, object]:
    """A setting and its value, as YAML writes it; ValueError where it has none."""
    name, separator, value = written.partition("=")
    if not separator:
        raise ValueError(f"{written!r} should be a setting and its value, such as quality=50")
    return name, YAML(typ="safe").load(value)


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


def withstood(
    undefended: Classifier, filter: InputFilter, inputs: Tensor, labels: Tensor, steps: int, draws: int
) -> Iterator[tuple[str, list[float]]]:
    """(budget, accuracies), first clean: of the filtered network under replay, and under both adaptive attacks."""
    sound = is_sound(undefended.input_shape)
    attack, budgets = (pgd_snr, RATIOS) if sound else (pgd, EPSILONS)
    filtered, naive = behind(filter, undefended), behind(with_identity_gradient(filter), undefended)

    def accuracy(points: Tensor) -> float:
        reseed(filtered, seed_of("benchmark", "judgement"))
        with evaluating(filtered), torch.no_grad():
            return (filtered(points).argmax(1) == labels).double().mean().item()

    yield "none (clean)", [accuracy(inputs)] * 3
    for budget, epsilon in budgets.items():
        crafted = []
        for classifier in (undefended, naive, filtered):
            reseed(classifier, seed_of("benchmark", "attacked classifier"))
            result = attack.attack(
                Attacked(classifier, digital=True, eot_samples=draws),
                inputs,
                labels,
                epsilons=torch.tensor([epsilon], dtype=torch.float64),
                generator=torch.Generator().manual_seed(0),
                steps=steps,
                step_size=2 / steps,
            )
            crafted.append(result.inputs[0])
        yield budget, [accuracy(points) for points in crafted]


def behind(filter: InputFilter, undefended: Classifier) -> Filtered:
    """The network behind a filter."""
    composed = filter.composed or Filtered
    return composed(undefended.network, filter, undefended.input_shape, undefended.num_classes).eval()


def with_identity_gradient(filter: InputFilter) -> InputFilter:
    """The same filter as an attacker sees it who takes its gradient for the identity's."""
    view = (RandomFilter if filter.stochastic else InputFilter).backward_view
    naive = copy.copy(filter)
    naive.__class__ = type("IdentityGradient", (type(filter),), {"backward_view": view})
    return naive


if __name__ == "__main__":
    main()
