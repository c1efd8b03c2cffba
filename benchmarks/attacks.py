"""Our attacks beside those of Foolbox, ART and torchattacks: `python benchmarks/attacks.py NETWORK [--only NAME ...]`.

NETWORK is a network of a study without its suffix, such as
studies/cifar10/data/trained/cifar10-resnet8-fp32-none-s0. Each attack and its peers see the same validation images,
those that the network gets right, in one process with one thread; they take turns, each at two batch sizes, and of each
the run that took the least CPU time counts. Printed is a Markdown table, one row for each of our attacks and each peer:
time and passes an image, success, and median distance on the images that both of them break.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
import torchattacks
from art.attacks import evasion
from foolbox import attacks as foolbox
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from stages.artifacts.classifiers import load_classifier
from stages.artifacts.datasets import load_dataset
from stages.attacks import (
    apgd,
    apgd_targeted,
    auto_attack,
    boundary,
    carlini_wagner_l2,
    carlini_wagner_linf,
    ddn,
    deepfool,
    deepfool_linf,
    elastic_net,
    fab_targeted,
    fgsm,
    fmn_l2,
    fmn_linf,
    geoda,
    hop_skip_jump,
    jsma,
    pgd,
    pgd_l2,
    square,
    square_l2,
    zoo,
)
from stages.attacks.distances import DISTANCES
from stages.attacks.elastic_net import elastic_net_distance
from stages.classifier import Classifier
from stages.datasets.arrays import evaluation_samples
from stages.datasets.tensors import as_input
from tests.attacks.peers import Counted, Outcome, of_art, of_foolbox, of_torchattacks, outcome

BATCHES = (16, 64)
ROUNDS, LONG = 5, 8.0  # rounds of a case, and the seconds after which no other one begins

Run = Callable[[Classifier, Tensor, Tensor], Outcome]


class Case(NamedTuple):
    """One attack as configured: ours, in one or several ways, and its peers.

    samples: how many images. few: how many of them the named peers see that take seconds for each.
    epsilon: of an attack with a budget. measure: what distances are; of minimal-norm attacks.
    """

    samples: int
    ours: dict[str, Callable]
    peers: dict[str, Callable[[Counted, Tensor, Tensor], Tensor]]
    epsilon: float | None = None
    measure: Callable[[Tensor, Tensor], Tensor] | None = None
    few: Mapping[str, int] = MappingProxyType({})


def with_stop(attack: Callable, **knobs) -> dict[str, Callable]:
    """The attack at full budget for every image, and the same where broken images leave."""
    return {
        "": partial(attack, **knobs),
        "stop_when_broken": partial(attack, stop_when_broken=True, **knobs),
    }


def contiguous(peer: Callable) -> Callable:
    """A peer that flattens what it differentiates by views, which fail in the layout of channels last."""

    def run(network: Counted, inputs: Tensor, labels: Tensor) -> Tensor:
        network.network = deepcopy(network.network).to(memory_format=torch.contiguous_format)
        return peer(network, inputs.contiguous(), labels)

    return run


def art(name: str, **settings) -> Callable:
    """An attack of ART by its name."""
    return of_art(lambda estimator: getattr(evasion, name)(estimator, **settings))


def art_geoda(network: Counted, inputs: Tensor, labels: Tensor) -> Tensor:
    """ART's GeoDA, which leaves a file behind and asks NumPy for what it no longer has.

    Its default tolerance and sigma are meant for larger images: with them it ends seven times as far away.
    """
    np.mat = np.asmatrix
    peer = art("GeoDA", norm=2, max_iter=4000, sub_dim=10, bin_search_tol=1e-3, sigma=0.02, verbose=False)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        return peer(network, inputs, labels)


def art_jsma(**settings) -> Callable:
    """ART's JSMA, which has to be told the target: the class after the label."""
    peer = art("SaliencyMapMethod", batch_size=1, verbose=False, **settings)
    return lambda network, inputs, labels: peer(network, inputs, (labels + 1) % 10)


L0, L1, L2, LINF = (DISTANCES[norm] for norm in ("l0", "l1", "l2", "linf"))
EPSILON, EPSILON_L2 = 1 / 255, 0.1  # where many images of a float ResNet-8 fall and many stand
BETA = 0.001  # of EAD
ELASTIC_NET = partial(elastic_net_distance, beta=BETA)


def elastic_net_peers(rule: str, kind: type) -> dict[str, Callable]:
    """EAD as Foolbox has it, by a decision rule, and as torchattacks has it, a class for each rule."""
    foolbox_settings = {"initial_stepsize": 0.01, "initial_const": 0.01, "regularization": BETA, "decision_rule": rule}
    torchattacks_settings = {
        "lr": 0.01,
        "binary_search_steps": 10,
        "max_iterations": 10,
        "initial_const": 0.01,
        "beta": BETA,
    }
    return {
        "Foolbox": of_foolbox(foolbox.EADAttack(binary_search_steps=10, steps=10, **foolbox_settings)),
        "torchattacks": of_torchattacks(lambda network: kind(network, **torchattacks_settings)),
    }


CASES = {
    "FGSM": Case(
        128,
        {"": fgsm.attack},
        {
            "torchattacks": of_torchattacks(lambda network: torchattacks.FGSM(network, EPSILON)),
            "Foolbox": of_foolbox(foolbox.LinfFastGradientAttack(), EPSILON),
            "ART": art("FastGradientMethod", eps=EPSILON, batch_size=64),
        },
        epsilon=EPSILON,
    ),
    "PGD 20": Case(
        128,
        with_stop(pgd.attack, steps=20) | {"last point": partial(pgd.attack, steps=20, keep_best=False)},
        {
            "torchattacks": of_torchattacks(lambda network: torchattacks.PGD(network, EPSILON, EPSILON / 4, 20)),
            "Foolbox": of_foolbox(foolbox.LinfPGD(rel_stepsize=0.25, steps=20), EPSILON),
            "ART": art(
                "ProjectedGradientDescentPyTorch",
                eps=EPSILON,
                eps_step=EPSILON / 4,
                max_iter=20,
                num_random_init=1,
                batch_size=64,
                verbose=False,
            ),
        },
        epsilon=EPSILON,
    ),
    "PGD 20, 2/255": Case(  # where few images stand
        128,
        with_stop(pgd.attack, steps=20),
        {"torchattacks": of_torchattacks(lambda network: torchattacks.PGD(network, 2 / 255, 2 / 255 / 4, 20))},
        epsilon=2 / 255,
    ),
    "PGD-L2 20": Case(
        128,
        with_stop(pgd_l2.attack, steps=20) | {"last point": partial(pgd_l2.attack, steps=20, keep_best=False)},
        {
            "torchattacks": contiguous(
                of_torchattacks(lambda network: torchattacks.PGDL2(network, EPSILON_L2, EPSILON_L2 / 4, 20))
            ),
            "Foolbox": of_foolbox(foolbox.L2PGD(rel_stepsize=0.25, steps=20), EPSILON_L2),
        },
        epsilon=EPSILON_L2,
    ),
    "APGD 20": Case(
        128,
        with_stop(apgd.attack, steps=20),
        {"torchattacks": of_torchattacks(lambda network: torchattacks.APGD(network, eps=EPSILON, steps=20))},
        epsilon=EPSILON,
    ),
    "APGD-T 20": Case(
        64,
        with_stop(apgd_targeted.attack, steps=20),
        {"torchattacks": of_torchattacks(lambda network: torchattacks.APGDT(network, eps=EPSILON, steps=20))},
        epsilon=EPSILON,
    ),
    "AutoAttack, 10 steps": Case(  # torchattacks' number of them
        16,
        with_stop(auto_attack.attack, steps=10),
        {"torchattacks": contiguous(of_torchattacks(lambda network: torchattacks.AutoAttack(network, eps=EPSILON)))},
        epsilon=EPSILON,
    ),
    "FAB-T 20, 1 target": Case(  # at epsilon 1, the peer is content with the first class that it reaches
        64,
        {"": partial(fab_targeted.attack, steps=20, targets=1)},
        {
            "torchattacks": contiguous(
                of_torchattacks(lambda network: torchattacks.FAB(network, eps=1.0, steps=20, multi_targeted=True))
            )
        },
        measure=LINF,
    ),
    "DeepFool L2 50": Case(
        64,
        {"": partial(deepfool.attack, steps=50)},
        {
            "Foolbox": of_foolbox(foolbox.L2DeepFoolAttack(steps=50)),
            "torchattacks": of_torchattacks(lambda network: torchattacks.DeepFool(network, steps=50)),
            "ART": art("DeepFool", max_iter=50, epsilon=0.02, batch_size=64, verbose=False),
        },
        measure=L2,
        few={"torchattacks": 32, "ART": 32},
    ),
    "DeepFool Linf 50": Case(
        64,
        {"": partial(deepfool_linf.attack, steps=50)},
        {"Foolbox": of_foolbox(foolbox.LinfDeepFoolAttack(steps=50))},
        measure=LINF,
    ),
    "FMN Linf 100": Case(
        64,
        {"": partial(fmn_linf.attack, steps=100)},
        {"Foolbox": of_foolbox(foolbox.LInfFMNAttack(steps=100))},
        measure=LINF,
    ),
    "FMN L2 100": Case(
        64,
        {"": partial(fmn_l2.attack, steps=100)},
        {"Foolbox": of_foolbox(foolbox.L2FMNAttack(steps=100, max_stepsize=0.1))},  # its default of 1 stays at 1
        measure=L2,
    ),
    "DDN 100": Case(
        64,
        {"": partial(ddn.attack, steps=100)},
        {"Foolbox": of_foolbox(foolbox.DDNAttack(steps=100))},
        measure=L2,
    ),
    "C&W L2 10 x 10": Case(
        64,
        {
            "": partial(carlini_wagner_l2.attack, search_steps=10, steps=10),
            "5 x 10": partial(carlini_wagner_l2.attack, search_steps=5, steps=10),
            "9 x 50": partial(carlini_wagner_l2.attack, search_steps=9, steps=50),
        },
        {
            "Foolbox": of_foolbox(
                foolbox.L2CarliniWagnerAttack(binary_search_steps=10, steps=10, stepsize=0.01, initial_const=0.01)
            ),
            "ART": art("CarliniL2Method", initial_const=0.01, batch_size=1, verbose=False),
        },
        measure=L2,
        few={"ART": 8},
    ),
    "C&W L2 9 x 100": Case(
        32,
        {
            "": partial(carlini_wagner_l2.attack, search_steps=9, steps=100),
            "9 x 50": partial(carlini_wagner_l2.attack, search_steps=9, steps=50),
        },
        {
            "Foolbox": of_foolbox(
                foolbox.L2CarliniWagnerAttack(binary_search_steps=9, steps=100, stepsize=0.01, initial_const=0.01)
            )
        },
        measure=L2,
    ),
    "C&W Linf 10": Case(
        8,
        {"": carlini_wagner_linf.attack},
        {"ART": art("CarliniLInfMethod", learning_rate=0.01, max_iter=10, batch_size=1, verbose=False)},
        measure=LINF,
    ),
    "EAD 10 x 10, elastic net": Case(
        64,
        {"": partial(elastic_net.attack, steps=10, search_steps=10, rule="elastic_net", beta=BETA, momentum=False)},
        elastic_net_peers("EN", torchattacks.EADEN),
        measure=ELASTIC_NET,
    ),
    "EAD 10 x 10, L1": Case(
        64,
        {
            "": partial(elastic_net.attack, steps=10, search_steps=10),
            "5 x 10": partial(elastic_net.attack, steps=10, search_steps=5),
        },
        elastic_net_peers("L1", torchattacks.EADL1),
        measure=L1,
    ),
    "JSMA .08, 1": Case(
        32,
        {
            kind: partial(jsma.attack, theta=0.08, gamma=1.0, targets=kind, directions="increase")
            for kind in ("likeliest", "random")
        },
        {"ART": art_jsma(theta=0.08, gamma=1.0)},
        measure=L0,
        few={"ART": 16},
    ),
    "JSMA 1, .145": Case(
        32,
        {"likeliest": jsma.attack, "random, up": partial(jsma.attack, targets="random", directions="increase")},
        {"ART": art_jsma(theta=1.0, gamma=0.145)},
        measure=L0,
        few={"ART": 16},
    ),
    "Square Linf .015, 1000": Case(
        48,
        with_stop(square.attack, queries=1000, initial_fraction=0.05),
        {
            "torchattacks": of_torchattacks(
                lambda network: torchattacks.Square(network, eps=0.015, n_queries=1000, p_init=0.05)
            )
        },
        epsilon=0.015,
    ),
    "Square L2 .5, 1000": Case(
        32,
        {"": partial(square_l2.attack, queries=1000, initial_fraction=0.3)},
        {
            "torchattacks": contiguous(
                of_torchattacks(
                    lambda network: torchattacks.Square(network, norm="L2", eps=0.5, n_queries=1000, p_init=0.3)
                )
            )
        },
        epsilon=0.5,
    ),
    "ZOO 10 x 5": Case(
        16,
        {"": zoo.attack, "1 search, from 10": partial(zoo.attack, search_steps=1, initial_constant=10.0)},
        {
            "ART": art(
                "ZooAttack",
                max_iter=10,
                binary_search_steps=5,
                initial_const=0.01,
                use_resize=False,
                use_importance=False,
                verbose=False,
            )
        },
        measure=L2,
        few={"ART": 4},
    ),
    "Boundary 500": Case(
        16,
        {"": boundary.attack, "1000 iterations": partial(boundary.attack, iterations=1000)},
        {
            "ART": art("BoundaryAttack", targeted=False, max_iter=500, verbose=False),
            "Foolbox, 5000 steps": of_foolbox(foolbox.BoundaryAttack(steps=5000)),
        },
        measure=L2,
        few={"ART": 3, "Foolbox, 5000 steps": 4},
    ),
    "GeoDA 4000": Case(
        16,
        {"": geoda.attack, "250 queries": partial(geoda.attack, queries=250, iterations=4)},
        {"ART": art_geoda},
        measure=L2,
        few={"ART": 4},
    ),
    "HopSkipJump 10": Case(
        16,
        {"": hop_skip_jump.attack, "2 iterations": partial(hop_skip_jump.attack, iterations=2)},
        {
            "ART": art("HopSkipJump", norm=2, max_iter=10, verbose=False),
            "Foolbox": of_foolbox(foolbox.HopSkipJumpAttack(steps=10)),
        },
        measure=L2,
        few={"ART": 8, "Foolbox": 8},
    ),
}

COLUMNS = (
    "attack | peer | images | batch | passes | its | CPU ms | its | ours / its | wall ms | its | success | its "
    "| distance | its | ours / its"
)


class Measured(NamedTuple):
    """One run: its batch size, milliseconds an image, passes an image, success [N], and distances [N]."""

    batch: int
    cpu: float
    wall: float
    forwards: float
    backwards: float
    success: Tensor
    distance: Tensor


def of_ours(attack: Callable, epsilon: float | None) -> Run:
    """Our attack in the form of a peer."""

    def run(classifier: Classifier, inputs: Tensor, labels: Tensor) -> Outcome:
        budget = {} if epsilon is None else {"epsilons": torch.tensor([epsilon], dtype=torch.float64)}
        result = attack(classifier, inputs, labels, generator=torch.Generator().manual_seed(0), **budget)
        passes = (count.double().mean().item() for count in (result.queries, result.backwards))
        return Outcome(result.inputs[0], result.success[0], *passes)

    return run


def measured(
    run: Run, measure: Callable, classifier: Classifier, inputs: Tensor, labels: Tensor, batch: int
) -> Measured:
    """Run on all inputs in batches."""
    cpu, wall = time.process_time(), time.perf_counter()
    parts = [run(classifier, *part) for part in zip(inputs.split(batch), labels.split(batch), strict=True)]
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    count = len(inputs)
    shares = [len(part.inputs) / count for part in parts]
    return Measured(
        batch,
        1000 * cpu / count,
        1000 * wall / count,
        sum(share * part.forwards for share, part in zip(shares, parts, strict=True)),
        sum(share * part.backwards for share, part in zip(shares, parts, strict=True)),
        torch.cat([part.success for part in parts]),
        measure(torch.cat([part.inputs for part in parts]), inputs).double(),
    )


def compare(case: Case, classifier: Classifier, inputs: Tensor, labels: Tensor) -> dict[str, dict[str, Measured]]:
    """Of ours and of the peers, by their names, the run that took the least CPU time."""
    runs = {("ours", name): of_ours(attack, case.epsilon) for name, attack in case.ours.items()}
    runs |= {("peers", name): partial(outcome, peer) for name, peer in case.peers.items()}
    fastest: dict[tuple[str, str], Measured] = {}
    start = time.perf_counter()
    for _ in range(ROUNDS):
        for (side, name), run in runs.items():
            count = case.few.get(name, case.samples) if side == "peers" else case.samples
            given = inputs[:count], labels[:count]
            for batch in sorted({min(batch, len(given[0])) for batch in BATCHES}):
                now = measured(run, case.measure or LINF, classifier, *given, batch)
                best = fastest.get((side, name))
                fastest[side, name] = now if best is None or now.cpu < best.cpu else best
        if time.perf_counter() - start > LONG:
            break
    return {
        side: {name: found for (owner, name), found in fastest.items() if owner == side} for side in ("ours", "peers")
    }


def row(attack: str, peer: str, ours: Measured, theirs: Measured, budget: bool) -> str:
    """A row of the table; success and distance on the images that both saw, distance where both succeed."""
    count = len(theirs.success)
    both = ours.success[:count] & theirs.success
    near, far = (found.distance[:count][both].median().item() for found in (ours, theirs))
    return (
        "| "
        + " | ".join(
            [
                attack,
                peer,
                str(len(ours.success)) if count == len(ours.success) else f"{len(ours.success)}, its {count}",
                f"{ours.batch}, {theirs.batch}",
                *(f"{found.forwards:.0f} f {found.backwards:.0f} b" for found in (ours, theirs)),
                *(f"{found.cpu:.3g}" for found in (ours, theirs)),
                f"{ours.cpu / theirs.cpu:.2f}",
                *(f"{found.wall:.3g}" for found in (ours, theirs)),
                *(f"{100 * found.success[:count].double().mean():.0f} %" for found in (ours, theirs)),
                *(["", "", ""] if budget or not both.any() else [f"{near:.3g}", f"{far:.3g}", f"{near / far:.2f}"]),
            ]
        )
        + " |"
    )


def correct_images(network: Path, classifier: Classifier, count: int) -> tuple[Tensor, Tensor]:
    """`count` validation images, spread over the classes, that the network gets right."""
    dataset = json.loads(network.with_suffix(".json").read_text())["variant"]["dataset"]
    validation = load_dataset(network.parents[1] / f"prepared/{dataset}.safetensors").val
    chosen = evaluation_samples(validation.labels, 3 * count)
    inputs, labels = as_input(torch.from_numpy(validation.inputs[chosen])), torch.from_numpy(validation.labels[chosen])
    with torch.no_grad():
        right = classifier(inputs).argmax(1) == labels
    return inputs[right][:count], labels[right][:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path)
    parser.add_argument("--samples", type=int, default=128, help="the most images that an attack sees")
    parser.add_argument("--only", nargs="+", default=list(CASES), metavar="NAME", choices=CASES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    classifier = load_classifier(options.network).eval()
    inputs, labels = correct_images(options.network, classifier, options.samples)
    print(f"| {COLUMNS} |\n|{'---|' * (COLUMNS.count('|') + 1)}", flush=True)
    for name in options.only:
        case = CASES[name]
        found = compare(case, classifier, inputs[: case.samples], labels[: case.samples])
        for way, ours in found["ours"].items():
            for peer, theirs in found["peers"].items():
                print(row(f"{name}, {way}" if way else name, peer, ours, theirs, case.measure is None), flush=True)


if __name__ == "__main__":
    main()
