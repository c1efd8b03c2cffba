"""Adversarial sets as safetensors and JSON: the same bytes for the same content."""

import json
from dataclasses import dataclass, replace
from math import isinf
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from stages.norms import EPSILON_TOLERANCE, no_bound

ADVERSARIAL_ARRAYS = {
    "inputs": np.float32,
    "labels": np.int64,
    "samples": np.int64,
    "distance": np.float32,
    "queries": np.int64,
    "success": np.bool_,
}
ADVERSARIAL_FACTS = (
    *("variant", "attack", "norm", "minimal_norm", "threat", "eot_samples", "grid"),
    *("epsilons", "forwards", "backwards"),
)


@dataclass(frozen=True, eq=False)
class AdversarialSet:
    """The adversarial inputs of N test samples at E epsilons, crafted on one variant by one attack.

    Attributes:
        variant: the five parts of the variant that was attacked.
        attack: its name in the study. norm: of its distances and epsilons.
        minimal_norm: whether it looked for the nearest adversarial inputs, for no epsilon in particular.
        threat: what its attacker saw. eot_samples: how many draws of a random network each gradient averages.
        grid: `digital` where the inputs are multiples of 1/255 (sound: of 1/65535), else `pre_quantizer`.
        epsilons: `[E]`, in input units, or dB of an SNR; infinite where there was no bound (in JSON: null).
        forwards, backwards: `[E]`, mean samples passed through the network per attacked sample.
        inputs: float32 `[E, N, C, H, W]` in [0, 1].
        labels, samples: int64 `[N]`, classes and indices into the test split.
        distance: float32 `[E, N]`, in the attack's norm (of an SNR: in L2). queries: int64 `[E, N]`.
        success: bool `[E, N]`.
    """

    variant: dict[str, str | int]
    attack: str
    norm: str
    minimal_norm: bool
    threat: str
    eot_samples: int
    grid: str
    epsilons: list[float]
    forwards: list[float]
    backwards: list[float]
    inputs: np.ndarray
    labels: np.ndarray
    samples: np.ndarray
    distance: np.ndarray
    queries: np.ndarray
    success: np.ndarray

    def within(self, epsilon: float, originals: np.ndarray) -> np.ndarray:
        """What a minimal-norm attack has for an attacker of this budget, float32 `[N, C, H, W]`.

        Its inputs where they are near enough, and elsewhere the originals `[N, C, H, W]`.
        """
        near = self.distance[0] <= epsilon + EPSILON_TOLERANCE
        return np.where(near[:, None, None, None], self.inputs[0], originals)

    def first(self, count: int | None) -> "AdversarialSet":
        """The same of its first `count` samples; without a count, all of it."""
        per_sample = {name: getattr(self, name)[:count] for name in ("labels", "samples")}
        rest = [name for name in ADVERSARIAL_ARRAYS if name not in per_sample]
        return replace(self, **per_sample, **{name: getattr(self, name)[:, :count] for name in rest})

    def __post_init__(self):
        per_sample, per_epsilon = self.labels.shape, (len(self.epsilons), *self.labels.shape)
        for name, dtype in ADVERSARIAL_ARRAYS.items():
            array = getattr(self, name)
            shape = per_sample if name in ("labels", "samples") else per_epsilon
            if array.dtype != dtype or array.shape[: len(shape)] != shape:
                found = f"{array.dtype} {list(array.shape)}"
                raise ValueError(f"{name} are {found}, expected {np.dtype(dtype)} starting with {list(shape)}")


def save_adversarial_set(path: Path, adversarial_set: AdversarialSet, description: Path | None = None) -> None:
    """Writes an adversarial set: its arrays to the safetensors file `path`, the rest to the JSON file `description`.

    Args:
        description: by default beside `path` with the same stem.
    """
    arrays = {name: np.ascontiguousarray(getattr(adversarial_set, name)) for name in ADVERSARIAL_ARRAYS}
    save_file(arrays, path)
    facts = {name: getattr(adversarial_set, name) for name in ADVERSARIAL_FACTS}
    facts["epsilons"] = [None if isinf(epsilon) else epsilon for epsilon in adversarial_set.epsilons]
    (description or path.with_suffix(".json")).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def load_adversarial_set(path: Path) -> AdversarialSet:
    """Reads an adversarial set from its safetensors file and the JSON file beside it.

    Raises:
        FileNotFoundError: one of the two is not there.
        ValueError: one of them is damaged, or they do not fit each other.
    """
    description = path.with_suffix(".json")
    for file in (path, description):
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file, expected an adversarial set")
    try:
        facts = json.loads(description.read_text(encoding="utf-8"))
        bound = no_bound(facts["norm"])
        facts["epsilons"] = [bound if epsilon is None else epsilon for epsilon in facts["epsilons"]]
        return AdversarialSet(**load_file(path), **facts)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not the adversarial set that {description.name} describes: {error}") from error
