"""The stage that attacks the memory of networks: what it writes, twice the same, and that the network survives."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from stages import bitflip
from stages.artifacts.datasets import save_dataset
from stages.artifacts.faults import FAULTS, FLIPPED
from stages.artifacts.network_files import describe, save_network
from stages.artifacts.networks import build
from stages.datasets.arrays import Dataset, Split
from stages.faults import bit_flip_attack, random_flips, sign_flips, targeted_bit_flip
from stages.faults.goals import GOALS, TO_CHANCE, TO_HALF, TO_TARGET
from stages.faults.memory import Memory
from stages.params import load_params
from stages.plan import Variant, tasks
from stages.quantization.formats import Format
from stages.quantization.frozen_layers import FrozenBatchNorm, FrozenLayers, FrozenQuantizer, FrozenWeights
from tests.faults.networks import CLASSES, frozen, images, same, state

ROOT = Path(__file__).parents[1]
SHAPE = (1, 8, 8)
NAME = "fashion_mnist-tiny_cnn-int8-none-s0"


class Outputs:
    def path(self, product: str) -> Path:
        path = Path(product)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of two networks that were never trained, on images of random levels, under every attack on memory."""
    written = yaml.safe_load((ROOT / "studies/smoke/params.yaml").read_text())
    written["grid"] |= {"models": ["tiny_cnn"], "schemes": ["fp32", "int8"], "defenses": ["none"], "also": []}
    written["faults"] = {
        "bit_flip_attack": {"region": "weights", "batch_size": 16, "draws": 2},
        "everywhere": {"attack": "bit_flip_attack", "batch_size": 16, "draws": 1, "tries": 4},
        "targeted_bit_flip": {"region": "weights", "mode": "one_to_one", "batch_size": 8, "draws": 2},
        "random_flips": {"rates": [0.001], "draws": 3},
        "sign_flips": {"most": 3, "draws": 2},
    }
    written["evaluation"] |= {"samples": 20, "flips": [1, 2, 5], "checksums": {"group_size": 16}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(written))
    monkeypatch.chdir(tmp_path)
    params = load_params()
    drawn = np.random.default_rng(0).integers(0, 256, (60, *SHAPE)).astype(np.uint8)
    split = Split(drawn, np.arange(60) % CLASSES)
    dataset = Dataset(
        "fashion_mnist", SHAPE, tuple("abcd"), (0.0,), 0.5, split, split, split, np.arange(8, dtype=np.int64)
    )
    Path("data/prepared").mkdir(parents=True)
    save_dataset(Path("data/prepared/fashion_mnist.safetensors"), dataset)
    for scheme, format in (("fp32", None), ("int8", Format(8, 8))):
        variant = Variant("fashion_mnist", "tiny_cnn", scheme, "none", 0)
        description = describe(variant, dataset, format)
        torch.manual_seed(0)
        network = build(description).eval()
        for layer in network.modules():
            if isinstance(layer, FrozenWeights):
                layer.weight.copy_((torch.randn(layer.weight.shape) * 40).round().clamp(-127, 127))
                layer.weight_scale.fill_(1 / 40 / layer.weight[0].numel() ** 0.5)
            elif isinstance(layer, FrozenQuantizer):
                layer.scale.fill_(0.02)
            elif isinstance(layer, FrozenBatchNorm):
                layer.bias.fill_(0.1)
        save_network(Outputs(), variant.network, network, description)
    return params, {task.job.item: task for task in tasks(params) if task.job.rule == "bitflip"}


def run(study, item):
    params, planned = study
    task = planned[item]
    bitflip.run(task, params, Outputs())
    faults, flipped = (pd.read_parquet(path) for path in task.job.outputs)
    return faults, flipped


def test_each_attack_writes_what_is_left_and_which_bits_it_flipped(study):
    _, planned = study
    for item in planned:
        faults, flipped = run(study, item)
        assert list(faults) == FAULTS.names and list(flipped) == FLIPPED.names
        assert set(faults["n"]) == {20}
        assert (faults["correct"] <= faults["n"]).all() and (
            faults["unpredicted"] <= faults["n"] - faults["correct"]
        ).all()
        assert not faults.duplicated(["draw", "flips"]).any()
        for _, rows in faults.groupby("draw"):
            assert {0, 1, 2, 5} <= set(rows["flips"])
            assert rows["made"].min() == 0 and (rows[list(GOALS)].nunique() <= 1).all()
            assert (rows["made"] <= rows["flips"]).all()
        assert flipped.empty == ("random_flips" in item)
        ints = flipped[~flipped["width"].eq(32)]
        change = (ints["after"] - ints["before"]).abs()
        assert (change == 2.0 ** ints["bit"]).all()
        assert faults["seen"].notna().all() and faults["recovered"].notna().all()
        assert (faults["seen"] <= faults["made"]).all()


def test_a_job_run_twice_gives_the_same_bytes(study):
    _, planned = study
    for item in (f"{NAME}-bit_flip_attack", f"{NAME}-targeted_bit_flip", f"{NAME}-random_flips"):
        run(study, item)
        first = [Path(path).read_bytes() for path in planned[item].job.outputs]
        run(study, item)
        assert [Path(path).read_bytes() for path in planned[item].job.outputs] == first


def test_draws_have_batches_targets_and_flips_of_their_own(study):
    faults, _ = run(study, f"{NAME}-targeted_bit_flip")
    assert faults["target"].notna().all() and faults["source"].notna().all()
    assert (faults["target"] != faults["source"]).all()
    assert (faults["hit"] <= faults["aimed"]).all() and (faults["aimed"] == 5).all()
    random, _ = run(study, f"{NAME}-random_flips")
    assert set(random["draw"]) == {0, 1, 2}
    assert round(random["memory_bits"].iloc[0] * 0.001) in set(random["flips"])


def judge(network):
    inputs, labels = images(network, 40)
    return bitflip.Judge(network, bitflip.Images(inputs, labels), CLASSES, SHAPE), bitflip.Images(
        *images(network, 40, seed=3)
    )


@pytest.mark.parametrize(
    ("plugin", "knobs"),
    [
        (bit_flip_attack, {"region": "weights", "batch_size": 24}),
        (targeted_bit_flip, {"region": "weights", "batch_size": 10}),
        (random_flips, {"rates": [0.01]}),
    ],
)
def test_a_network_is_what_it_was_after_a_draw(plugin, knobs):
    network = frozen(8)
    before = state(network)
    rows, _ = bitflip.attacked(plugin, *judge(network), [1, 4, 30], knobs, None, seeds=(1, 2))
    assert same(state(network), before)
    assert {0, 1, 4, 30} <= {row["flips"] for row in rows}


def test_an_untargeted_search_ends_where_the_network_guesses_and_stays_there():
    network = frozen(8)
    rows, bits = bitflip.attacked(
        bit_flip_attack,
        *judge(network),
        [1, 2, 200],
        {"region": "weights", "batch_size": 24, "each": 5},
        None,
        seeds=(1, 2),
    )
    rows = sorted(rows, key=lambda row: row["flips"])
    assert rows[-1]["correct"] <= 1.1 / CLASSES * 40
    assert rows[-1]["flips"] == 200 and rows[-1]["made"] == len(bits) < 200
    assert [bit["flip"] for bit in bits] == list(range(1, len(bits) + 1))
    assert rows[0]["flips"] == 0 and rows[0]["correct"] > 30
    assert rows[-1][TO_CHANCE] == len(bits) >= rows[-1][TO_HALF] and rows[-1][TO_TARGET] is None


def test_goals_are_told_at_the_very_flip_that_reaches_them():
    network = frozen(8)
    judged, own = judge(network)
    clean = (judged.predictions() == judged.test.labels).double().mean().item()
    knobs = {"region": "weights", "batch_size": 24}
    rows, bits = bitflip.attacked(bit_flip_attack, judged, own, [100], knobs, None, seeds=(1, 2))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    steps = bit_flip_attack.attack(
        network, own.inputs[order], own.labels[order], flips=[], generator=torch.Generator().manual_seed(2), **knobs
    )
    left, made = {}, 0
    for step in steps:
        made += len(step.flips)
        left[made] = (judged.predictions() == judged.test.labels).double().mean().item()
        if made == len(bits):
            break
    reached = {goal: rows[0][goal] for goal in (TO_HALF, TO_CHANCE)}
    limits = {TO_HALF: (clean + 1 / CLASSES) / 2, TO_CHANCE: 1.1 / CLASSES}
    assert reached == {goal: next(made for made in left if left[made] <= limit) for goal, limit in limits.items()}


def test_a_search_that_gives_up_says_how_many_flips_it_made():
    network = frozen(8)
    rows, bits = bitflip.attacked(
        bit_flip_attack, *judge(network), [1, 50], {"region": "weights", "spare": 8}, None, seeds=(1, 2)
    )
    assert bits == [] and {row["flips"]: row["made"] for row in rows} == {0: 0, 1: 0, 50: 0}
    assert all(row[goal] is None for row in rows for goal in GOALS)


def test_a_targeted_search_goes_on_until_the_test_images_are_the_targets():
    network = frozen(8, seed=1)
    judged, own = judge(network)
    rows, bits = bitflip.attacked(
        targeted_bit_flip, judged, own, [1, 100], {"region": "weights", "batch_size": 4}, None, seeds=(1, 2)
    )
    last = max(rows, key=lambda row: row["flips"])
    assert last["hit"] >= 0.95 * last["aimed"] and last["made"] == len(bits) < 100
    assert 0 < last[TO_TARGET] <= len(bits) and last[TO_CHANCE] is None


def test_networks_share_the_classes_of_a_draw(study):
    found = {}
    for scheme in ("fp32", "int8"):
        name = NAME.replace("int8", scheme)
        targeted, _ = run(study, f"{name}-targeted_bit_flip")
        found[scheme] = targeted.groupby("draw")[["target", "source"]].first()
    assert found["fp32"].equals(found["int8"])


def test_sign_flips_end_with_the_flip_that_makes_the_network_guess():
    network = frozen(8)
    judged, own = judge(network)
    rows, bits = bitflip.attacked(
        sign_flips, judged, own, [1, 200], {"layers": 4, "region": "weights"}, None, seeds=(1, 2)
    )
    generator = torch.Generator().manual_seed(2)
    knobs = {"layers": 4, "most": len(bits), "region": "weights"}
    steps = sign_flips.attack(network, *own, flips=[], generator=generator, **knobs)
    *before, last = [(judged.predictions() == judged.test.labels).sum().item() for _ in steps]
    assert last <= 1.1 / CLASSES * 40 < min(before)
    assert {row["flips"]: row["made"] for row in rows} == {0: 0, 1: 1, 200: len(bits)}


class Wide(torch.nn.Module):
    """One layer: with the largest weights float32 does not hold the sums of 640 8-bit codes, but those of digits."""

    def __init__(self, features):
        super().__init__()
        layers = FrozenLayers((0.0,) * 10, 0.5, Format(8, 8))
        self.input, self.flatten = layers.input(), layers.flatten()
        self.classifier = layers.linear(features, CLASSES)

    def forward(self, inputs):
        return self.classifier(self.flatten(self.input(inputs)))


def judge_of_largest_weights(side):
    network = Wide(10 * side**2).eval()
    inputs = torch.rand(8, 10, side, side)
    judged = bitflip.Judge(network, bitflip.Images(inputs, torch.zeros(8)), CLASSES, inputs.shape[1:])
    judged.predictions()
    memory = Memory(network, "weights")
    memory.flip(range(7, memory.size, 8))
    return judged


def test_flips_may_make_sums_larger_than_float32_holds():
    assert len(judge_of_largest_weights(8).predictions()) == 8


def test_sums_that_flips_make_inexact_are_refused():
    judged = judge_of_largest_weights(29)
    with pytest.raises(ValueError, match="a sum can reach 17223680"):
        judged.predictions()
