"""Flips bits in the memory of a network: one variant, one attack, all draws and numbers of flips."""

import importlib
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from stages.artifacts.datasets import load_dataset
from stages.artifacts.faults import FAULTS, FLIPPED, save_faults, save_flipped
from stages.artifacts.networks import load_network
from stages.datasets.arrays import Split, evaluation_samples
from stages.datasets.tensors import as_input
from stages.faults.checksums import Checksums
from stages.faults.guessing import guessing
from stages.faults.memory import Memory
from stages.faults.search import Step, predictions
from stages.quantization.frozen_layers import check_exact
from stages.runtime import configure
from stages.seeds import seed_of

BATCH_SIZE = 50  # whose activations fit a cache, as those of 500 do not


class Images(NamedTuple):
    """Inputs [N, C, H, W] in [0, 1] and labels [N]."""

    inputs: Tensor
    labels: Tensor


def run(task, params, outputs) -> None:
    """Attack the memory of the task's variant draw by draw, and write what is left of it and which bits were flipped.

    The attacker has validation images, in an order of its own in each draw; what is left is judged on test images.
    """
    device = configure(params)
    variant, evaluation = task.variant, params.evaluation
    dataset = load_dataset(Path(f"{variant.prepared}.safetensors"))
    network, description = load_network(Path(f"{variant.network}.safetensors"))
    network.requires_grad_(False).to(device)
    judge = Judge(
        network,
        images(dataset.test.take(evaluation_samples(dataset.test.labels, params.samples(variant.defense))), device),
        len(dataset.classes),
        input_shape=None if description["format"] is None else tuple(description["input_shape"]),
    )
    checksums = None
    if evaluation.checksums is not None:
        secret = torch.Generator().manual_seed(seed_of(variant.name, "checksums"))
        checksums = Checksums(network, evaluation.checksums.group_size, secret)
    plugin = importlib.import_module(f"stages.faults.{task.plugin}")
    attacker, knobs, faults, flipped = images(dataset.val, device), params.settings_of_fault(task.attack), [], []
    interval = 0.5 if sys.stderr.isatty() else 20
    for draw in tqdm(range(params.draws(task.attack)), desc=task.job.item, unit="draw", mininterval=interval):
        seed = seed_of(task.job.item, f"draw {draw}")
        rows, bits = attacked(plugin, judge, attacker, evaluation.flips, knobs, checksums, seed)
        facts = {**variant.parts, "attack": task.attack, "draw": draw}
        faults += [facts | row for row in rows]
        flipped += [facts | bit for bit in bits]
    shared = {"searches": plugin.SEARCHES, "num_classes": len(dataset.classes)}
    save_faults(outputs.path(task.job.outputs[0]), pd.DataFrame(faults, columns=FAULTS.names).assign(**shared))
    save_flipped(outputs.path(task.job.outputs[1]), pd.DataFrame(flipped, columns=FLIPPED.names))


def images(split: Split, device: torch.device) -> Images:
    """All images of a split."""
    return Images(as_input(torch.from_numpy(split.inputs).to(device)), torch.from_numpy(split.labels).to(device))


class Judge:
    """Says what is left of a network: on test images, and with sums that are exact if it is an integer network.

    input_shape: of an integer network, else None.
    """

    def __init__(self, network: nn.Module, test: Images, num_classes: int, input_shape: tuple[int, ...] | None):
        self.network, self.test, self.num_classes, self.input_shape = network, test, num_classes, input_shape

    def predictions(self) -> Tensor:
        """The classes [N] of the test images, -1 for none. ValueError: flips have made sums of a layer inexact."""
        if self.input_shape is not None:
            check_exact(self.network, self.input_shape)
        with torch.no_grad():
            return torch.cat([predictions(self.network(batch)) for batch in self.test.inputs.split(BATCH_SIZE)])

    def accuracy(self) -> float:
        """The share of test images that are classified correctly. ValueError: as of `predictions`."""
        return (self.predictions() == self.test.labels).double().mean().item()


def attacked(
    plugin: ModuleType,
    judge: Judge,
    attacker: Images,
    counts: list[int],
    knobs: dict[str, Any],
    checksums: Checksums | None,
    seed: int,
) -> tuple[list[dict], list[dict]]:
    """One draw of an attack: rows of what is left after each of `counts` flips, and rows of the bits flipped.

    There are further rows where a search has made the network guess on its own images, after each step until it does so
    on the test images, where it ends, and at the numbers of flips of random rates. A search that looks at no images
    ends with the very step that makes it guess on the test images, one with a target not for that. What is left then
    holds for all larger counts. Bits of random flips are not listed, being as good as any others. The network is as
    before then.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(attacker.labels), generator=generator).to(attacker.labels.device)
    own = Images(attacker.inputs[order], attacker.labels[order])
    given = {}
    if hasattr(plugin, "classes"):  # of a targeted attack
        given["goal"] = plugin.classes(judge.num_classes, generator, **knobs)
    default = inspect.signature(plugin.attack).parameters["region"].default
    draw = _Draw(judge, Memory(judge.network, knobs.get("region", default)), checksums, given.get("goal"))
    chance = guessing(judge.num_classes)
    try:
        for step in plugin.attack(judge.network, *own, flips=counts, generator=generator, **given, **knobs):
            before = len(draw.made)
            draw.made += step.flips
            for count in counts:
                if before < count <= len(draw.made):
                    draw.judge(count)
            if not plugin.SEARCHES:
                draw.judge(len(draw.made))
                continue
            draw.list(step)
            untargeted = "goal" not in given
            if untargeted and _accuracy(step, own, judge) <= chance and draw.judge(len(draw.made)) <= chance:
                break
            if len(draw.made) >= max(counts):
                break
        for count in counts:
            if count > len(draw.made):
                draw.judge(count)
    finally:
        draw.memory.flip(draw.made)
    return list(draw.rows.values()), draw.bits


def _accuracy(step: Step, own: Images, judge: Judge) -> float:
    """The accuracy on the attacker's images, the first of its own; on the test images where it looks at none."""
    if step.logits is None:
        return judge.accuracy()
    return (predictions(step.logits) == own.labels[: len(step.logits)]).double().mean().item()


class _Draw:
    """One draw: the bits flipped so far, and the rows about them."""

    def __init__(self, judge: Judge, memory: Memory, checksums: Checksums | None, goal: tuple | None):
        self._judge, self.memory, self._checksums, self._goal = judge, memory, checksums, goal
        self.made: list[int] = []
        self.rows: dict[int, dict[str, Any]] = {}  # by number of flips
        self.bits: list[dict[str, Any]] = []

    def judge(self, count: int) -> float:
        """Adds the row of `count` flips, or of all where there are fewer, and returns the accuracy."""
        if count not in self.rows:
            beyond = self.made[count:]
            self.memory.flip(beyond)
            self.rows[count] = self._judged(self.made[:count]) | {"flips": count}
            self.memory.flip(beyond)
        return self.rows[count]["correct"] / self.rows[count]["n"]

    def _judged(self, made: list[int]) -> dict[str, Any]:
        known = next((row for row in self.rows.values() if row["made"] == len(made)), None)
        if known is not None:
            return known
        labels, found = self._judge.test.labels, self._judge.predictions()
        row = {
            "memory_bits": self.memory.size,
            "made": len(made),
            "n": len(labels),
            "correct": int((found == labels).sum()),
            "unpredicted": int((found < 0).sum()),
        }
        if self._goal is not None:
            target, source = self._goal
            aimed = labels != target if source is None else labels == source
            row |= {"target": target, "aimed": int(aimed.sum()), "hit": int((found[aimed] == target).sum())}
            row |= {} if source is None else {"source": source}
        if self._checksums is not None:
            row |= {"seen": self._checksums.seen(self.memory, made), "checksum_bytes": self._checksums.overhead}
            with self._checksums.recovered():
                row["recovered"] = int((self._judge.predictions() == labels).sum())
        return row

    def list(self, step: Step) -> None:
        """Adds the rows of a step's bits."""
        for flip, address in enumerate(step.flips, len(self.made) - len(step.flips) + 1):
            stored, bit = self.memory.located(address)
            code = stored.codes()[bit.index : bit.index + 1]
            values = {"before": stored.decoded(code ^ (1 << bit.bit)).item(), "after": stored.decoded(code).item()}
            where = {"place": self.memory.place(address)[0], **bit._asdict(), "kind": stored.kind, "width": stored.bits}
            self.bits.append({"flip": flip} | where | values | {"loss": step.loss})
