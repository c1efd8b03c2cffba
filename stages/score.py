"""Scores a network: one row a sample, for clean inputs or for the adversarial inputs of one attack."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from stages.artifacts.adversarial import AdversarialSet, load_adversarial_set
from stages.artifacts.classifiers import load_classifier
from stages.artifacts.datasets import load_dataset
from stages.artifacts.scores import save_scores
from stages.attacks.distances import DISTANCES
from stages.classifier import Classifier, evaluating
from stages.datasets.arrays import Split, evaluation_samples
from stages.datasets.tensors import as_input
from stages.defenses.filtered import Filtered
from stages.norms import FULL_RANGES
from stages.quantization.frozen_layers import FrozenInput
from stages.randomness import reseed
from stages.runtime import configure
from stages.seeds import seed_of

BATCH_SIZE = 500


def run(task, params, outputs) -> None:
    """Write the scores of clean inputs, or of an attack: its own set and those replayed from the surrogates."""
    device = configure(params)
    test = load_dataset(Path(f"{task.variant.prepared}.safetensors")).test
    classifier = load_classifier(Path(task.variant.network), device)
    # The same draws whatever the attack, so that attacks are compared by what they do and not by luck.
    draws = seed_of(task.variant.name, "judgement")
    evaluation = params.values["evaluation"]
    # Of a network that takes long, clean accuracy is that of all images that others are attacked on.
    limited = params.is_limited(task.variant.defense)
    count = params.samples(task.variant.defense)
    if task.is_clean:
        common = evaluation_samples(test.labels, evaluation["samples"])
        scored = np.sort(common) if limited else np.arange(len(test))
        view = seed_of(task.job.item, "gradient view")
        rows = clean_rows(classifier, test, scored, common[:count], device, view, draws)
    else:
        rows = attacked_rows(classifier, test, task, device, evaluation["epsilons"], draws, count if limited else None)
    scores = rows.assign(**task.variant.parts, flips=0, stochastic=classifier.stochastic)
    save_scores(outputs.path(task.job.outputs[0]), scores)


def clean_rows(
    classifier: Classifier,
    test: Split,
    scored: np.ndarray,
    evaluated: np.ndarray,
    device: torch.device,
    seed: int,
    draws: int,
) -> pd.DataFrame:
    """Scores of the test samples at the indices `scored`, ascending; of them, `evaluated` also have a gradient norm.

    seed: of the gradient view. draws: the seed of what is random when a classifier is judged.
    """
    norms = np.full(len(test), np.nan)
    labels = torch.from_numpy(test.labels[evaluated]).to(device)
    generator = torch.Generator().manual_seed(seed)
    norms[evaluated] = gradient_norms(
        classifier, as_input(torch.from_numpy(test.inputs[evaluated]).to(device)), labels, generator
    )
    facts = {
        "threat": "clean",
        "attack": "clean",
        "norm": "",
        "minimal_norm": False,
        "grid": "",
        "surrogate": "",
        "epsilon": 0.0,
    }
    effort = {"forwards": 1.0, "backwards": 0.0, "eot_samples": 0}
    unperturbed = dict.fromkeys(DISTANCES, 0.0)
    inputs = as_input(torch.from_numpy(test.inputs[scored]).to(device))
    judgement = _judgement(classifier, scored, test.labels[scored], inputs, draws)
    return pd.DataFrame(judgement | facts | effort | unperturbed | {"gradient_norm": norms[scored]})


def attacked_rows(
    classifier: Classifier,
    test: Split,
    task,
    device: torch.device,
    budgets: dict[str, list[float]],
    draws: int,
    count: int | None = None,
) -> pd.DataFrame:
    """Scores of the set crafted on the task's variant, if any, then of each set crafted on a surrogate.

    A minimal-norm attack's sets are scored as they are (epsilon infinite), and at each epsilon of their norm in
    `budgets`. draws: as of `clean_rows`. count: of each set so many samples, the first ones; without it all.
    """
    frames = []
    for crafted_on in task.crafted_on:
        crafted = load_adversarial_set(Path(f"{crafted_on.adversarial(task.attack)}.safetensors")).first(count)
        unrounded = crafted.grid == "pre_quantizer"
        seen = _seen_by(classifier) if unrounded else _as_crafted
        own = crafted_on == task.variant
        facts = {"threat": crafted.threat if own else "transfer", "surrogate": "" if own else crafted_on.name}
        # A float network has no input quantizer for a perturbation to come before.
        facts["grid"] = "" if unrounded and task.variant.is_float else crafted.grid
        frames.append(_set_rows(classifier, test, crafted, budgets, seen, device, draws, **facts))
    return pd.concat(frames, ignore_index=True).assign(gradient_norm=np.nan)


def predictions(classifier: Classifier, inputs: Tensor) -> np.ndarray:
    """The predicted classes, int64 [N], of inputs [N, C, H, W] in [0, 1]."""
    with evaluating(classifier), torch.no_grad():
        return torch.cat([classifier(batch).argmax(1) for batch in inputs.split(BATCH_SIZE)]).cpu().numpy()


def detections(classifier: Classifier, inputs: Tensor) -> np.ndarray | None:
    """What a detector takes for adversarial, bool [N], of inputs [N, C, H, W] in [0, 1]; None without a detector."""
    if not isinstance(classifier, Filtered) or not classifier.detects:
        return None
    with evaluating(classifier), torch.no_grad():
        return torch.cat([classifier.detected(batch) for batch in inputs.split(BATCH_SIZE)]).cpu().numpy()


def uncertainties(classifier: Classifier, inputs: Tensor) -> dict[str, np.ndarray]:
    """What the passes of a shielded classifier say of its predictions, float32 [N] each; of others nothing."""
    if not hasattr(classifier, "uncertainties"):
        return {}
    with evaluating(classifier), torch.no_grad():
        batches = [classifier.uncertainties(batch) for batch in inputs.split(BATCH_SIZE)]
    return {name: torch.cat([batch[name] for batch in batches]).cpu().numpy() for name in batches[0]}


def gradient_norms(classifier: Classifier, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> np.ndarray:
    """L2 norms, float64 [N], of the cross-entropy's gradient with respect to each input, through the gradient view.

    In float64, since squares of small float32 gradients underflow, and a norm of 0 has to mean an all-zero gradient.
    """
    view = classifier.gradient_view(generator)
    norms = []
    with evaluating(classifier):
        for batch, targets in zip(inputs.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True):
            leaf = batch.detach().requires_grad_()
            loss = cross_entropy(view(leaf), targets, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, leaf)
            norms.append(torch.linalg.vector_norm(gradient.double().flatten(1), dim=1))
    return torch.cat(norms).cpu().numpy()


def _set_rows(
    classifier: Classifier,
    test: Split,
    adversarial_set: AdversarialSet,
    budgets: dict[str, list[float]],
    seen: Callable[[Tensor], Tensor],
    device: torch.device,
    draws: int,
    **threat: str,
) -> pd.DataFrame:
    """Scores of one adversarial set; sizes are those of the perturbation that the classifier has `seen`."""
    samples, labels = adversarial_set.samples, adversarial_set.labels
    originals = as_input(torch.from_numpy(test.inputs[samples]).to(device))
    frames = []
    for epsilon, row, crafted in _by_epsilon(adversarial_set, budgets, originals.cpu().numpy()):
        # The full range tests a budget attack on the network that it was crafted on.
        if threat["surrogate"] and epsilon == FULL_RANGES[adversarial_set.norm] and not adversarial_set.minimal_norm:
            continue
        inputs = torch.from_numpy(crafted).to(device, memory_format=torch.channels_last)
        facts = {
            "attack": adversarial_set.attack,
            "norm": adversarial_set.norm,
            "minimal_norm": adversarial_set.minimal_norm,
            "epsilon": epsilon,
            "forwards": adversarial_set.forwards[row],
            "backwards": adversarial_set.backwards[row],
            "eot_samples": adversarial_set.eot_samples,
        }
        sizes = {norm: distance(seen(inputs), originals).cpu().numpy() for norm, distance in DISTANCES.items()}
        judgement = _judgement(classifier, samples, labels, inputs, draws)
        frames.append(pd.DataFrame(judgement | facts | sizes | threat))
    return pd.concat(frames, ignore_index=True)


def _as_crafted(inputs: Tensor) -> Tensor:
    return inputs


def _seen_by(classifier: Classifier) -> Callable[[Tensor], Tensor]:
    """What the input quantizer, if any, makes of inputs: an epsilon of .002 can become one level of 8 bits, .0039.

    A filter comes before the quantizer and meets a perturbation as it was crafted.
    """
    if isinstance(classifier, Filtered):
        return _as_crafted
    quantizers = [module for module in classifier.modules() if isinstance(module, FrozenInput)]
    return quantizers[0].rounded if quantizers else _as_crafted


def _by_epsilon(
    adversarial_set: AdversarialSet, budgets: dict[str, list[float]], originals: np.ndarray
) -> Iterator[tuple[float, int, np.ndarray]]:
    """Epsilons, the set's row for each, and the inputs [N, C, H, W] that an attacker of this budget has."""
    for row, epsilon in enumerate(adversarial_set.epsilons):
        yield epsilon, row, adversarial_set.inputs[row]
    for epsilon in budgets[adversarial_set.norm] if adversarial_set.minimal_norm else ():
        yield epsilon, 0, adversarial_set.within(epsilon, originals)


def _judgement(
    classifier: Classifier, samples: np.ndarray, labels: np.ndarray, inputs: Tensor, draws: int
) -> dict[str, Any]:
    """What the classifier makes of inputs. All of it is of the same draws, where it is random."""
    reseed(classifier, draws)
    prediction = predictions(classifier, inputs)
    judged = {"sample": samples, "label": labels, "prediction": prediction, "correct": prediction == labels}
    reseed(classifier, draws)
    judged |= {"detected": detections(classifier, inputs)}
    reseed(classifier, draws)
    return judged | uncertainties(classifier, inputs)
