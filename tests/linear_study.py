"""A study whose networks are linear and whose images are tiny, for the stages that attack and score."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import yaml

from stages import attack, probe, score
from stages.artifacts.datasets import save_dataset
from stages.datasets.arrays import Dataset, Split
from stages.datasets.tensors import as_input
from stages.params import load_params
from stages.plan import tasks
from stages.quantization.frozen_layers import FrozenInput
from tests.attacks.linear import linear_classifier

ROOT = Path(__file__).parents[1]
SHAPE = (1, 4, 4)
NUM_CLASSES = 3
TEST_IMAGES = 30
CLEAN_MISTAKES = 4  # of the float network, all among the first test images
L2_EPSILONS = [0, 0.05, 0.1]
HEADLINES = {"linf": "8/255", "l2": 0.05}
SEEDS = {"fp32": 0, "int8": 1}


class LinearStudy:
    """The working directory of a study of one float and one int8 variant of each defense under several attacks."""

    def __init__(self, folder: Path, monkeypatch, defenses: tuple[str, ...] = ("none",), **evaluation) -> None:
        written = yaml.safe_load((ROOT / "studies/smoke/params.yaml").read_text())
        written["grid"] |= {"schemes": ["fp32", "int8"], "defenses": list(defenses), "also": []}
        written["attacks"] = {
            "noise": {},
            "fgsm": {},
            "pgd": {"steps": 3},
            "square": {"queries": 20},
            "deepfool": {},  # of minimal norm
            "pgd_twice": {"attack": "pgd", "steps": 6},
        }
        budgets = {"epsilons": written["evaluation"]["epsilons"] | {"l2": L2_EPSILONS}, "headline_epsilon": HEADLINES}
        written["evaluation"] |= {"samples": 20, "transfer": ["pgd", "deepfool"]} | budgets | evaluation
        (folder / "params.yaml").write_text(yaml.safe_dump(written))
        monkeypatch.chdir(folder)
        for stage in (attack, probe, score):
            monkeypatch.setattr(stage, "load_classifier", self.classifier)
        self.logits_scale = 1.0
        self.params = load_params(folder / "params.yaml")
        self.tasks = {(task.job.rule, task.job.item): task for task in tasks(self.params)}
        self.test = self._prepare()

    def classifier(self, path: Path, device="cpu"):
        """The linear network that stands for the one at a path such as `data/trained/...-fp32-none-s0`."""
        (scheme,) = (scheme for scheme in SEEDS if f"-{scheme}-" in path.name)
        classifier = linear_classifier(NUM_CLASSES, SHAPE, SEEDS[scheme])
        last = classifier.network.last
        last.weight.data *= self.logits_scale
        last.bias.data *= self.logits_scale
        if scheme == "int8":
            classifier.input = FrozenInput((0.0,), 1.0)  # only says on which grid the quantized network has its inputs
        return classifier

    def run(self, rule: str, item: str) -> None:
        """Run one job in place."""
        task = self.tasks[rule, item]
        for product in task.job.products:
            Path(product).parent.mkdir(parents=True, exist_ok=True)
        {"attack": attack, "probe": probe, "score": score}[rule].run(task, self.params, SimpleNamespace(path=Path))

    def _prepare(self) -> Split:
        levels = np.random.default_rng(0).integers(90, 166, (TEST_IMAGES, *SHAPE), dtype=np.uint8)
        network = self.classifier(Path("x-fp32-none-s0"))
        labels = network(as_input(torch.from_numpy(levels))).argmax(1).numpy()
        labels[:CLEAN_MISTAKES] = (labels[:CLEAN_MISTAKES] + 1) % NUM_CLASSES
        test = Split(levels, labels)
        path = Path("data/prepared/fashion_mnist.safetensors")
        path.parent.mkdir(parents=True)
        dataset = Dataset("fashion_mnist", SHAPE, ("a", "b", "c"), (0.5,), 0.5, test, test, test, np.arange(3))
        save_dataset(path, dataset)
        return test
