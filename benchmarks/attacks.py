"""What attacks in the maximum norm reach, and their cost: `python benchmarks/attacks.py NETWORK [EPSILON] [SAMPLES]`.

NETWORK is a network of the default study without its suffix, such as data/quantized/fashion_mnist-resnet8-w1a1-none-s0.
All attacks see the same test samples in one batch, with one thread. Printed are the share left standing, passes and CPU
milliseconds a sample. EPSILON is in levels of 1/255.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from stages.artifacts.datasets import load_dataset
from stages.artifacts.networks import load_classifier
from stages.attacks import apgd, apgd_targeted, fgsm, noise, pgd, square
from stages.datasets.arrays import evaluation_samples
from stages.datasets.tensors import as_input

ATTACKS = {
    "noise": noise.attack,
    "FGSM": fgsm.attack,
    "PGD 10, last point": partial(pgd.attack, keep_best=False),
    "PGD 10, best point": pgd.attack,
    "PGD 100, best point": partial(pgd.attack, steps=100),
    "APGD 10": partial(apgd.attack, steps=10),
    "APGD 100": apgd.attack,
    "targeted APGD 10": partial(apgd_targeted.attack, steps=10),
    "Square 100": partial(square.attack, queries=100, initial_fraction=0.8),
    "Square 1000": partial(square.attack, queries=1000, initial_fraction=0.8),
}


def main(network: str, epsilon: str = "4", samples: str = "200") -> None:
    torch.set_num_threads(1)
    dataset = json.loads(Path(f"{network}.json").read_text())["variant"]["dataset"]
    test = load_dataset(Path(f"data/prepared/{dataset}.safetensors")).test
    chosen = evaluation_samples(test.labels, int(samples))
    inputs, labels = as_input(torch.from_numpy(test.inputs[chosen])), torch.from_numpy(test.labels[chosen])
    classifier = load_classifier(Path(network), torch.device("cpu"))
    print(f"{network}, {samples} samples, epsilon {epsilon}/255")
    for name, attack in ATTACKS.items():
        start = time.process_time()
        result = attack(
            classifier,
            inputs,
            labels,
            epsilons=torch.tensor([float(epsilon) / 255], dtype=torch.float64),
            generator=torch.Generator().manual_seed(0),
        )
        spent = 1000 * (time.process_time() - start) / len(inputs)
        standing = 1 - result.success.double().mean()
        passes = f"{result.queries.double().mean():6.0f} f {result.backwards.double().mean():5.0f} b"
        print(f"  {name:22}{standing:7.3f}{passes}{spent:9.1f} ms", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
