"""Flips bits in the memory of a network: one variant, one attack, all draws and numbers of flips."""

import importlib
import inspect
import sys
from functools import cached_property
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
from stages.faults.goals import AIMED, GOALS, TO_CHANCE, TO_HALF, TO_TARGET, guessing, halfway
from stages.faults.memory import Memory
from stages.faults.search import Step, predictions
from stages.quantization.frozen_layers import check_exact
from stages.runtime import configure
from stages.seeds import seed_of

BATCH_SIZE = 50  # whose activations fit a cache, as those of 500 do not
# A search is judged after a step where images of the attacker say that a goal may be near, with this to spare; of an
# attacker who looks at none, so many.
NEAR, LOOKED_AT = 0.1, 64
NEAR_TARGET = 0.15  # share of the attacker's images that the target has; half of them may be others than those aimed at
TAKEN = 0.95  # share of the test images aimed at that the target gets, where a targeted attack ends


class Images(NamedTuple):
    """Inputs [N, C, H, W] in [0, 1] and labels [N]."""

    inputs: Tensor
    labels: Tensor


def run(task, params, outputs) -> None:
    """Attack the memory of the task's variant draw by draw, and write what is left of it and which bits were flipped.

    The attacker has validation images, in another order in each draw; what is left is judged on test images. A draw
    has the same images, and the same classes to aim at, for every network of a dataset and every attack.
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
        images_seed = seed_of(variant.dataset, f"images of attacks on memory, draw {draw}")
        seeds = images_seed, seed_of(task.job.item, f"draw {draw}")
        rows, bits = attacked(plugin, judge, attacker, evaluation.flips, knobs, checksums, seeds)
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
        return predictions(self.logits(self.test.inputs))

    def logits(self, inputs: Tensor) -> Tensor:
        """The network's logits [N, K] now."""
        with torch.no_grad():
            return torch.cat([self.network(batch) for batch in inputs.split(BATCH_SIZE)])

    @cached_property
    def clean(self) -> Tensor:
        """The predictions before any flip, which the first call has to be made before."""
        return self.predictions()


def attacked(
    plugin: ModuleType,
    judge: Judge,
    attacker: Images,
    counts: list[int],
    knobs: dict[str, Any],
    checksums: Checksums | None,
    seeds: tuple[int, int],
) -> tuple[list[dict], list[dict]]:
    """One draw of an attack: rows of what is left before any flip and after each of `counts`, and rows of the bits.

    There are further rows at the numbers of flips of random rates. Every row says after how many flips the draw's goals
    were reached, which is looked for after every step at which the attacker's own images give reason to. A search
    without a target ends where the network guesses on the test images, one with a target where nearly all images aimed
    at are the target's; what is left then holds for all larger counts. Bits of random flips are not listed, being as
    good as any others. The network is as before then.

    seeds: of the attacker's images and classes, and of whatever else is drawn.
    """
    shared, generator = (torch.Generator().manual_seed(seed) for seed in seeds)
    order = torch.randperm(len(attacker.labels), generator=shared).to(attacker.labels.device)
    own = Images(attacker.inputs[order], attacker.labels[order])
    given = {}
    if hasattr(plugin, "classes"):  # of a targeted attack
        given["goal"] = plugin.classes(judge.num_classes, shared, **knobs)
    default = inspect.signature(plugin.attack).parameters["region"].default
    draw = _Draw(judge, Memory(judge.network, knobs.get("region", default)), checksums, given.get("goal"))
    draw.judge(0)
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
            logits = judge.logits(own.inputs[:LOOKED_AT]) if step.logits is None else step.logits
            if len(draw.made) not in draw.rows and draw.is_near(predictions(logits), own.labels):
                draw.look()
            if draw.is_over or len(draw.made) >= max(counts):
                break
        for count in counts:
            if count > len(draw.made):
                draw.judge(count)
    finally:
        draw.memory.flip(draw.made)
    return [row | draw.reached for row in draw.rows.values()], draw.bits


class _Draw:
    """One draw: the bits flipped so far, the rows about them, and after how many each goal was reached."""

    def __init__(self, judge: Judge, memory: Memory, checksums: Checksums | None, goal: tuple | None):
        self._judge, self.memory, self._checksums = judge, memory, checksums
        self._labels, self._target, self._source = judge.test.labels, *(goal or (None, None))
        clean = (judge.clean == self._labels).double().mean().item()
        self._chance, self._half = guessing(judge.num_classes), halfway(clean, judge.num_classes)
        self.made: list[int] = []
        self.rows: dict[int, dict[str, Any]] = {}  # by number of flips
        self.bits: list[dict[str, Any]] = []
        self.reached: dict[str, int | None] = dict.fromkeys(GOALS)
        self.is_over = False

    def judge(self, count: int) -> None:
        """Adds the row of `count` flips, or of all where there are fewer."""
        if count not in self.rows:
            beyond = self.made[count:]
            self.memory.flip(beyond)
            self.rows[count] = self._judged(self.made[:count]) | {"flips": count}
            self.memory.flip(beyond)

    def is_near(self, found: Tensor, labels: Tensor) -> bool:
        """Whether predictions of the attacker's own images, of these labels, say that a goal may have been reached."""
        if self._target is not None:
            return (found == self._target).double().mean().item() > NEAR_TARGET
        left = (found == labels[: len(found)]).double().mean().item()
        return left <= (self._half if self.reached[TO_HALF] is None else self._chance) + NEAR

    def look(self) -> None:
        """Notes which goals are reached now."""
        self._note(self._judge.predictions(), len(self.made))

    def _note(self, found: Tensor, count: int) -> None:
        left = (found == self._labels).double().mean().item()
        if self._target is None:
            reached = {TO_HALF: left <= self._half, TO_CHANCE: left <= self._chance}
            self.is_over |= reached[TO_CHANCE]
        else:
            taken = (found == self._target)[self._aimed].double().mean().item()
            reached = {TO_TARGET: taken >= AIMED}
            self.is_over |= taken >= TAKEN
        for goal, is_reached in reached.items():
            if is_reached and self.reached[goal] is None:
                self.reached[goal] = count

    @property
    def _aimed(self) -> Tensor:
        """Of which test images the target class is wanted: bool [N]."""
        return self._labels != self._target if self._source is None else self._labels == self._source

    def _judged(self, made: list[int]) -> dict[str, Any]:
        known = next((row for row in self.rows.values() if row["made"] == len(made)), None)
        if known is not None:
            return known
        labels, found = self._labels, self._judge.predictions() if made else self._judge.clean
        self._note(found, len(made))
        row = {
            "memory_bits": self.memory.size,
            "made": len(made),
            "n": len(labels),
            "correct": int((found == labels).sum()),
            "unpredicted": int((found < 0).sum()),
        }
        if self._target is not None:
            aimed = self._aimed
            row |= {"target": self._target, "aimed": int(aimed.sum()), "hit": int((found[aimed] == self._target).sum())}
            row |= {} if self._source is None else {"source": self._source}
        if self._checksums is not None:
            row |= {"seen": self._checksums.seen(self.memory, made), "checksum_bytes": self._checksums.overhead}
            with self._checksums.recovered() as is_any:
                row["recovered"] = int((self._judge.predictions() == labels).sum()) if is_any else row["correct"]
        return row

    def list(self, step: Step) -> None:
        """Adds the rows of a step's bits."""
        for flip, address in enumerate(step.flips, len(self.made) - len(step.flips) + 1):
            stored, bit = self.memory.located(address)
            code = stored.codes()[bit.index : bit.index + 1]
            values = {"before": stored.decoded(code ^ (1 << bit.bit)).item(), "after": stored.decoded(code).item()}
            where = {"place": self.memory.place(address)[0], **bit._asdict(), "kind": stored.kind, "width": stored.bits}
            self.bits.append({"flip": flip} | where | values | {"loss": step.loss})
