"""How many draws an attacker has to average: `python benchmarks/eot.py NETWORK`.

NETWORK is a random network of a study without its suffix, such as
studies/cifar10/data/filtered/cifar10-resnet8-int8-shield-s0. Printed is a Markdown table of what PGD leaves correct of
validation images, by the number of draws that each of its gradients averages (EOT), beside clean images and what PGD
crafts on the network alone, without filters, dropout and votes. All are judged on the same several fresh draws.
"""

import argparse
from pathlib import Path
from time import process_time

import torch
from torch import Tensor

from stages.artifacts.classifiers import load_classifier
from stages.artifacts.datasets import load_dataset
from stages.artifacts.network_files import load_description
from stages.attacks import pgd, pgd_evading
from stages.attacks.attacked import Attacked
from stages.classifier import Classifier, evaluating
from stages.datasets.arrays import evaluation_samples
from stages.datasets.tensors import as_input
from stages.knobs import parse_fraction
from stages.seeds import seed_of

ATTACKS = {"pgd": pgd, "pgd_evading": pgd_evading}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path)
    parser.add_argument("--samples", type=int, default=100, help="validation images under attack")
    parser.add_argument("--epsilon", type=parse_fraction, default=8 / 255, help="in linf, such as 8/255")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--draws", type=int, nargs="+", default=[1, 2, 5, 10, 20, 40])
    parser.add_argument("--attack", choices=list(ATTACKS), default="pgd")
    parser.add_argument("--last-point", action="store_true", help="of each run instead of the best by its own draws")
    parser.add_argument("--judgements", type=int, default=5, help="fresh draws over which accuracy is averaged")
    options = parser.parse_args()
    torch.set_num_threads(1)
    classifier = load_classifier(options.network)
    if not classifier.stochastic:
        parser.error(f"{options.network}: is not random, expected a network whose gradients have something to average")
    description = load_description(options.network)
    dataset = load_dataset(options.network.parents[1] / "prepared" / f"{description['variant']['dataset']}.safetensors")
    chosen = evaluation_samples(dataset.val.labels, options.samples)
    inputs = as_input(torch.from_numpy(dataset.val.inputs[chosen]))
    labels = torch.from_numpy(dataset.val.labels[chosen])
    alone = Classifier(classifier.network, classifier.input_shape, classifier.num_classes)

    def crafted(target: Classifier, draws: int) -> tuple[Tensor, float]:
        """Adversarial inputs, and the CPU time they took, in seconds a sample."""
        if target is classifier:
            classifier.reseed(seed_of("benchmark", "attacked classifier"))
        start = process_time()
        result = ATTACKS[options.attack].attack(
            Attacked(target, digital=True, eot_samples=draws),
            inputs,
            labels,
            epsilons=torch.tensor([options.epsilon], dtype=torch.float64),
            generator=torch.Generator().manual_seed(seed_of("benchmark", "attack")),
            steps=options.steps,
            step_size=2.5 / options.steps,
            keep_best=not options.last_point,
        )
        return result.inputs[0], (process_time() - start) / len(inputs)

    budget = f"{options.steps} steps, epsilon {options.epsilon:.4g}"
    print(f"{options.network.name}, {len(inputs)} images, {options.attack}, {budget}\n")
    print("| attacker | draws | correct | accepted errors | CPU s an image |\n|---|---|---|---|---|")
    print(f"| none | | {judged(classifier, inputs, labels, options.judgements)} | |")
    attackers = [
        ("replayed from the network alone", alone, 1),
        *((options.attack, classifier, n) for n in options.draws),
    ]
    for name, target, draws in attackers:
        points, seconds = crafted(target, draws)
        shares = judged(classifier, points, labels, options.judgements)
        print(f"| {name} | {draws} | {shares} | {seconds:.2f} |", flush=True)


@torch.no_grad()
def judged(classifier: Classifier, points: Tensor, labels: Tensor, judgements: int) -> str:
    """Two cells: the accuracy, and the share of errors that no detector reports, if there is one."""
    correct, accepted = [], []
    with evaluating(classifier):
        for judgement in range(judgements):
            seed = seed_of("benchmark", f"judgement {judgement}")
            classifier.reseed(seed)
            right = classifier(points).argmax(1) == labels
            correct.append(right.double().mean().item())
            classifier.reseed(seed)
            detected = classifier.detected(points)
            if detected is not None:
                accepted.append((~right & ~detected).double().mean().item())
    shares = [f"{sum(values) / len(values):.1%}" if values else "" for values in (correct, accepted)]
    return " | ".join(shares)


if __name__ == "__main__":
    main()
