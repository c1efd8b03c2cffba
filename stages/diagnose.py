"""Diagnoses a network: what quantization did to its gradients, its logits and its distance to the decision boundary."""

from collections.abc import Iterator
from math import inf
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from stages.artifacts.datasets import load_dataset
from stages.artifacts.diagnostics import save_diagnostics
from stages.artifacts.networks import load_network
from stages.attack import craft
from stages.attacks import ddn, fmn_linf, pgd, pgd_l2
from stages.classifier import Classifier, evaluating
from stages.datasets.arrays import Dataset, evaluation_samples
from stages.datasets.tensors import LEVELS, as_input
from stages.quantization.attribution import parts
from stages.runtime import configure
from stages.seeds import seed_of

BATCH_SIZE = 100
CALIBRATION = 500  # images at most, from which the batch norm of partly quantized networks is corrected
NOISE = tuple(levels / LEVELS for levels in (0, 1, 2, 4, 8, 16))  # magnitudes at which the shift is measured
# Budgets of what is crafted on the float network and replayed, around where 8-bit inputs round to another level.
REPLAYED = tuple(levels / LEVELS for levels in (0.25, 0.75, 1.25, 1.75))
PGD_STEPS = 10
DISTANCE_STEPS = 50
BISECTIONS = 6  # each of PGD_STEPS steps
# The attack that looks for the nearest error, and the one with a budget that then goes on inside what it found.
DISTANCES = {"distance_l2": (ddn, pgd_l2), "distance_linf": (fmn_linf, pgd)}

# What was measured: its name, the quantized part, the size of the perturbation, and one number a sample [N].
Measured = tuple[str, str, float, np.ndarray]


def run(task, params, outputs) -> None:
    """Diagnose the task's variant on some of the test samples, beside the float network that it was made from.

    Attacked accuracy needs a budget: where the study has no headline epsilon in linf, there are no such rows.
    """
    device = configure(params)
    variant, evaluation = task.variant, params.values["evaluation"]
    dataset = load_dataset(Path(f"{variant.prepared}.safetensors"))
    samples = evaluation_samples(dataset.test.labels, evaluation["diagnose"])
    measured = diagnostics(
        classifiers(variant, dataset, device),
        as_input(torch.from_numpy(dataset.test.inputs[samples]).to(device)),
        torch.from_numpy(dataset.test.labels[samples]).to(device),
        epsilon=evaluation["headline_epsilon"].get("linf"),
        # Noise and random starts are those of the float network, so that all that is made from it can be compared.
        name=variant.float_variant.name,
    )
    frames = [
        pd.DataFrame({"diagnostic": name, "part": part, "magnitude": magnitude, "sample": samples, "value": values})
        for name, part, magnitude, values in measured
    ]
    rows = pd.concat(frames, ignore_index=True).assign(**variant.parts)
    save_diagnostics(outputs.path(task.job.outputs[0]), rows)


def classifiers(variant, dataset: Dataset, device: torch.device) -> dict[str, Classifier]:
    """By the part that is quantized, networks with all else as in the float network; of a float variant only `none`."""
    float_network, description = load_network(Path(f"{variant.float_variant.network}.safetensors"))
    networks = {"none": float_network}
    if not variant.is_float:
        frozen, _ = load_network(Path(f"{variant.network}.safetensors"))
        calibration = torch.from_numpy(dataset.train.inputs[dataset.calibration[:CALIBRATION]])
        networks = parts(frozen, float_network, as_input(calibration))
    shape, classes = tuple(description["input_shape"]), len(description["classes"])
    return {
        part: Classifier(network.requires_grad_(False).to(device, memory_format=torch.channels_last), shape, classes)
        for part, network in networks.items()
    }


def diagnostics(
    networks: dict[str, Classifier], inputs: Tensor, labels: Tensor, *, epsilon: float | None, name: str
) -> Iterator[Measured]:
    """All diagnostics of the networks, by quantized part (`none` among them), on inputs [N, C, H, W] in [0, 1].

    gradient_norm: L2 norm of the cross-entropy's gradient with respect to the input; 0 means that all of it is zero.
    gradient_cosine: between that gradient and the float network's; missing where one of them is zero.
    gradient_step, random_step: change of the cross-entropy, in nats, by a step of 1/255 in every value, along the
    gradient's sign and with random signs. Gradients that mislead raise it rarely, or by less than chance moves it.
    gradient_norm_of_codes: that of a network whose logits are left as codes of 8 bits, as some published diagnostics
    took it; of the wholly quantized network.
    clean_correct, robust_correct: 1 where the class is right, on the input and after PGD in linf at `epsilon`.
    replayed_correct: 1 where the class is right on what PGD in linf at the magnitude crafted on the float network.
    distance_l2, distance_linf: to the nearest error that `distances` finds, in input units, 0 for a clean mistake and
    infinite where it finds none; of the float and of the wholly quantized network.
    logit_shift: L2 length of the change from the float network's logits, relative to theirs, on uniform noise of the
    magnitude; both are centred first, as a common offset of logits changes no class.
    prediction_change: 1 where the class is not the float network's, on the same noise.
    Perturbations are real-valued on any study's grid, so that what rounding inputs does can be seen.
    """
    of_float = input_gradients(networks["none"], inputs, labels, name)
    signs = _unit_draw(inputs, seed_of(name, "random step")).sign()
    for part, classifier in networks.items():
        gradients = of_float if part == "none" else input_gradients(classifier, inputs, labels, name)
        yield "gradient_norm", part, 0.0, _numbers(torch.linalg.vector_norm(gradients, dim=1))
        if part == "all":
            of_codes = input_gradients(classifier, inputs, labels, name, unit=logit_unit(classifier, inputs))
            yield "gradient_norm_of_codes", part, 0.0, _numbers(torch.linalg.vector_norm(of_codes, dim=1))
        if part != "none":
            yield "gradient_cosine", part, 0.0, _numbers(cosines(gradients, of_float))
        for step, direction in {"gradient_step": gradients.reshape(inputs.shape).sign(), "random_step": signs}.items():
            stepped = (inputs + direction.float() / LEVELS).clamp(0, 1)
            change = losses(classifier, stepped, labels) - losses(classifier, inputs, labels)
            yield step, part, 1 / LEVELS, _numbers(change)
    for part, classifier in networks.items():
        clean_correct = logits(classifier, inputs).argmax(1) == labels
        yield "clean_correct", part, 0.0, _numbers(clean_correct)
        if epsilon is not None:
            attacked = craft(
                pgd,
                classifier,
                inputs,
                labels,
                epsilons=[epsilon],
                knobs={"steps": PGD_STEPS},
                digital=False,
                name=f"{name} robust_correct",
            )
            yield "robust_correct", part, epsilon, _numbers(clean_correct & ~attacked.success[0])
    yield from replays(networks, inputs, labels, name)
    for part in [part for part in ("none", "all") if part in networks]:
        yield from distances(part, networks[part], inputs, labels, name)
    yield from shifts(networks, inputs, name)


def distances(part: str, classifier: Classifier, inputs: Tensor, labels: Tensor, name: str) -> Iterator[Measured]:
    """How far the nearest errors are that two attacks find, the second one inside the distance of the first.

    DDN in L2 and FMN in linf, then PGD in balls whose radii are bisected. Straight-through gradients of few bits lead
    the first ones astray: alone, in as many steps, they tell distances of a one-bit network half as long again.
    """
    for diagnostic, (nearest, within) in DISTANCES.items():
        found = craft(
            nearest,
            classifier,
            inputs,
            labels,
            epsilons=[inf],
            knobs={"steps": DISTANCE_STEPS},
            digital=False,
            name=f"{name} {diagnostic}",
        )
        reached = found.distance[0].double().masked_fill(~found.success[0], inf)
        yield diagnostic, part, 0.0, _numbers(bisected(within, classifier, inputs, labels, reached, name))


def bisected(
    attack: ModuleType, classifier: Classifier, inputs: Tensor, labels: Tensor, reached: Tensor, name: str
) -> Tensor:
    """Distances, float64 [N], of errors nearer than `reached`, float64 [N], that PGD finds with ever other budgets.

    Where nothing was reached, the first ball is half of what holds any input.
    """
    reached = reached.clone()
    widest = torch.full_like(reached, 1.0 if attack.NORM == "linf" else inputs[0].numel() ** 0.5)
    missed = torch.zeros_like(reached)
    for step in range(BISECTIONS):
        radii = (missed + torch.minimum(reached, widest)) / 2
        for chosen in torch.arange(len(inputs), device=inputs.device).split(BATCH_SIZE):
            generator = torch.Generator().manual_seed(seed_of(name, f"bisection {step} from sample {chosen[0]}"))
            result = attack.attack(
                classifier,
                inputs[chosen],
                labels[chosen],
                epsilons=radii[None, chosen],
                generator=generator,
                steps=PGD_STEPS,
            )
            errs, distance = result.success[0], result.distance[0].double()
            reached[chosen] = torch.where(errs, torch.minimum(reached[chosen], distance), reached[chosen])
            missed[chosen] = torch.where(errs, missed[chosen], radii[chosen])
    return reached


def replays(networks: dict[str, Classifier], inputs: Tensor, labels: Tensor, name: str) -> Iterator[Measured]:
    """What is right under perturbations that were crafted on the float network without knowing of any rounding."""
    attacked = craft(
        pgd,
        networks["none"],
        inputs,
        labels,
        epsilons=REPLAYED,
        knobs={"steps": PGD_STEPS},
        digital=False,
        name=f"{name} replayed_correct",
    )
    for part, classifier in networks.items():
        for epsilon, crafted in zip(REPLAYED, attacked.inputs, strict=True):
            yield "replayed_correct", part, epsilon, _numbers(logits(classifier, crafted).argmax(1) == labels)


def shifts(networks: dict[str, Classifier], inputs: Tensor, name: str) -> Iterator[Measured]:
    """How far quantization moves logits and classes on noisy inputs: one draw from the unit ball, scaled."""
    noise = _unit_draw(inputs, seed_of(name, "noise of the shift"))
    for magnitude in NOISE:
        noisy = (inputs + magnitude * noise).clamp(0, 1)
        of_float = logits(networks["none"], noisy)
        for part in [part for part in networks if part != "none"]:
            found = logits(networks[part], noisy)
            yield "logit_shift", part, magnitude, _numbers(relative_shift(found, of_float))
            yield "prediction_change", part, magnitude, _numbers(found.argmax(1) != of_float.argmax(1))


def logits(classifier: Classifier, inputs: Tensor) -> Tensor:
    """Logits [N, K] without a gradient."""
    with evaluating(classifier), torch.no_grad():
        return torch.cat([classifier(batch) for batch in inputs.split(BATCH_SIZE)])


def losses(classifier: Classifier, inputs: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of each input, in nats, float64 [N]."""
    return cross_entropy(logits(classifier, inputs).double(), labels, reduction="none")


def logit_unit(classifier: Classifier, inputs: Tensor) -> float:
    """The scale that codes of 8 bits would have in which all logits of the inputs lie."""
    found = logits(classifier, inputs)
    return max((found.max() - found.min()).item() / LEVELS, torch.finfo(torch.float32).tiny)


def input_gradients(classifier: Classifier, inputs: Tensor, labels: Tensor, name: str, *, unit: float = 1.0) -> Tensor:
    """Gradients of the cross-entropy with respect to each input, through the gradient view, float64 [N, D].

    unit: that logits are counted in, other than 1 to leave them as codes.
    In float64, since squares of small float32 gradients underflow, and a norm of 0 has to mean an all-zero gradient.
    """
    view = classifier.gradient_view(torch.Generator().manual_seed(seed_of(name, "gradient view")))
    gradients = []
    with evaluating(classifier):
        for batch, targets in zip(inputs.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True):
            leaf = batch.detach().requires_grad_()
            loss = cross_entropy(view(leaf) / unit, targets, reduction="sum")
            gradients.append(torch.autograd.grad(loss, leaf)[0].double().flatten(1))
    return torch.cat(gradients)


def cosines(gradients: Tensor, others: Tensor) -> Tensor:
    """Cosines of the angles between gradients [N, D] and others [N, D]; NaN where one of them is zero."""
    lengths = torch.linalg.vector_norm(gradients, dim=1) * torch.linalg.vector_norm(others, dim=1)
    return (gradients * others).sum(1) / lengths


def relative_shift(changed: Tensor, reference: Tensor) -> Tensor:
    """L2 length of the change of centred logits [N, K] relative to the reference's, [N]."""
    centred, of_reference = (values.double() - values.double().mean(1, keepdim=True) for values in (changed, reference))
    change = torch.linalg.vector_norm(centred - of_reference, dim=1)
    return change / torch.linalg.vector_norm(of_reference, dim=1)


def _unit_draw(inputs: Tensor, seed: int) -> Tensor:
    """One uniform draw from [-1, 1] for each value."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(inputs.shape, generator=generator).to(inputs.device) * 2 - 1


def _numbers(values: Tensor) -> np.ndarray:
    return values.double().cpu().numpy()
