"""How strong a penalty may be: `python benchmarks/penalty_weights.py NETWORK block_jacobian 0.01 0.1 1`.

NETWORK is an undefended float network of a study without its suffix, such as
studies/jacobian/data/trained/cifar10-resnet8-fp32-none-s0. It is trained on for a few epochs on some of the training
images or clips, these without augmentation, with each weight of the penalty, and printed is a Markdown table of its
accuracy on the validation split, clean and under PGD. No test sample is seen.
"""

import argparse
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from stages.artifacts.datasets import load_dataset
from stages.artifacts.network_files import load_description, load_float
from stages.attacks import pgd
from stages.attacks.attacked import Attacked
from stages.classifier import Classifier
from stages.datasets.arrays import Dataset, evaluation_samples
from stages.datasets.levels import is_sound, levels_of
from stages.datasets.tensors import as_input
from stages.train import samples
from stages.training.checkpoint import Checkpoint
from stages.training.loop import Samples, Schedule, accuracy, train

BUDGETS = (1, 2, 4)  # in levels of the inputs
PGD_STEPS = 20
SCHEDULE = Schedule(
    epochs=3,
    batch_size=64,
    learning_rate=0.01,
    momentum=0.9,
    weight_decay=5e-5,
    crop_padding=2,
    horizontal_flip=True,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path)
    parser.add_argument("defense", help="one that has a weight, such as jacobian")
    parser.add_argument("weights", type=float, nargs="+")
    parser.add_argument("--learning-rate", type=float, default=SCHEDULE.learning_rate, help="at the start")
    parser.add_argument("--images", type=int, default=10_000, help="training samples")
    parser.add_argument("--attacked", type=int, default=200, help="validation samples under attack")
    options = parser.parse_args()
    torch.set_num_threads(1)
    description = load_description(options.network)
    dataset = load_dataset(options.network.parents[1] / "prepared" / f"{description['variant']['dataset']}.safetensors")
    chosen = evaluation_samples(dataset.train.labels, options.images)
    cpu = torch.device("cpu")
    trained_on, validation = samples(dataset.train.take(chosen), cpu), samples(dataset.val, cpu)
    attacked = samples(dataset.val.take(evaluation_samples(dataset.val.labels, options.attacked)), cpu)
    loss = import_module(f"stages.defenses.{options.defense}").loss

    schedule = replace(SCHEDULE, learning_rate=options.learning_rate)
    if is_sound(dataset.input_shape):
        schedule = replace(schedule, crop_padding=0, horizontal_flip=False)
    budgets = (f"PGD {budget}/{levels_of(dataset.input_shape)}" for budget in BUDGETS)
    print(f"| {options.defense}, weight | clean | {' | '.join(budgets)} |")
    print("|---" * (2 + len(BUDGETS)) + "|", flush=True)
    for weight in (None, *options.weights):
        network, _ = load_float(options.network)
        if weight is not None:
            with TemporaryDirectory() as folder:
                train(
                    network,
                    partial(loss, weight=weight),
                    trained_on,
                    validation,
                    schedule,
                    seed=0,
                    dtype=torch.bfloat16,
                    checkpoint=Checkpoint(Path(folder, "checkpoint")),
                )
        shares = [accuracy(network.eval(), validation), *under_attack(network, dataset, attacked)]
        print(f"| {weight or 'none'} | {' | '.join(f'{share:.1%}' for share in shares)} |", flush=True)


def under_attack(network: nn.Module, dataset: Dataset, attacked: Samples) -> list[float]:
    """The share of samples that PGD leaves right, at each epsilon."""
    classifier = Classifier(network, dataset.input_shape, len(dataset.classes))
    epsilons = torch.tensor(BUDGETS, dtype=torch.float64) / levels_of(dataset.input_shape)
    result = pgd.attack(
        Attacked(classifier, digital=False, eot_samples=1),
        as_input(attacked.inputs),
        attacked.labels,
        epsilons=epsilons,
        generator=torch.Generator().manual_seed(0),
        steps=PGD_STEPS,
    )
    return (~result.success).double().mean(1).tolist()


if __name__ == "__main__":
    main()
