"""The one loop for everything that trains: float networks, defended ones, quantization-aware ones."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from stages.classifier import evaluating
from stages.datasets.tensors import as_input
from stages.training.augmentation import crop_and_flip
from stages.training.checkpoint import Checkpoint, momentum_of, restore_momentum, with_prefix, without_prefix
from stages.training.sound_augmentation import shift_and_mix

Loss = Callable[..., Tensor]  # loss(network, inputs, labels, *, generator) -> mean over the batch
Validate = Callable[[nn.Module, "Samples", torch.dtype], float]  # what the history says of each epoch
Robustness = Callable[..., float]  # robustness(network, inputs, labels, *, generator) -> accuracy in [0,1]

COLLAPSE = 0.5  # robust accuracy on validation data below this share of its best so far stops the training
ROBUSTNESS_SAMPLES = 200  # of the validation data, drawn once


@dataclass(frozen=True)
class Schedule:
    """SGD with Nesterov momentum on a one-cycle learning rate (Smith & Topin 2019, arXiv 1708.07120)."""

    epochs: int
    batch_size: int
    learning_rate: float  # at the peak
    momentum: float
    weight_decay: float
    crop_padding: int
    horizontal_flip: bool
    time_shift: int = 0  # of sound, in ms
    background_noise: float = 0.0  # of sound, the loudest as a share of the noise's own loudness
    warm_up: float = 0.2  # share of the steps before the peak

    def learning_rate_at(self, step: int, steps: int) -> float:
        """Linear to the peak, then a cosine to zero."""
        peak = self.warm_up * steps
        if step < peak:
            return self.learning_rate * (step + 1) / (peak + 1)
        return self.learning_rate * (1 + math.cos(math.pi * (step - peak) / max(steps - peak, 1))) / 2


@dataclass(frozen=True)
class Samples:
    """uint8 inputs `[N,C,H,W]`, or int16 sound `[N,1,1,T]`, and int64 labels `[N]` on the training device."""

    inputs: Tensor
    labels: Tensor
    noise: Tensor | None = None  # int16 `[M,1,1,T]`, what is heard behind sound


@torch.no_grad()
def accuracy(network: nn.Module, samples: Samples, dtype: torch.dtype = torch.float32, batch_size: int = 500) -> float:
    """The share of samples that the network, in evaluation mode, classifies as labelled."""
    correct = 0
    with evaluating(network), _autocast(samples.labels.device, dtype):
        for inputs, labels in zip(samples.inputs.split(batch_size), samples.labels.split(batch_size), strict=True):
            correct += int((network(as_input(inputs)).argmax(1) == labels).sum())
    return correct / len(samples.labels)


def train(
    network: nn.Module,
    loss: Loss,
    train_samples: Samples,
    validation_samples: Samples,
    schedule: Schedule,
    *,
    seed: int,
    dtype: torch.dtype,
    checkpoint: Checkpoint,
    validate: Validate = accuracy,
    robustness: Robustness | None = None,
    label: str = "train",
) -> list[dict]:
    """Trains `network` in place and returns its history, one dict an epoch.

    `dtype` is what convolutions compute in (autocast). After each epoch the checkpoint is replaced, and a training
    that finds one goes on from it to the same bytes; removing it is the caller's, once the result is safe. `validate`
    is what is measured on validation data after each epoch. Where the loss comes with a `robustness` measure (fast
    adversarial training), it is taken on validation data before the first and after each epoch; if it collapses,
    training stops and the most robust network so far comes back.
    """
    device = train_samples.labels.device
    generator = torch.Generator().manual_seed(seed)
    history: list[dict] = []
    robust: list[float] = []  # before the first epoch and after each
    best: dict[str, Tensor] = {}
    saved = checkpoint.load()
    if saved:
        tensors, state = saved
        network.load_state_dict(without_prefix("network", tensors))
        best = without_prefix("best", tensors)
        generator.set_state(tensors["generator"])
        history, robust = state["history"], state["robust"]
    # After loading, which replaces parameters of Brevitas.
    network.to(device, memory_format=torch.channels_last)
    optimizer = _optimizer(network, schedule)
    if saved:
        restore_momentum(network, optimizer, without_prefix("momentum", tensors))

    def note_robustness() -> None:
        robust.append(_robust(network, robustness, validation_samples, seed, dtype))
        if robust[-1] == max(robust):
            best.update({name: tensor.detach().clone() for name, tensor in network.state_dict().items()})

    if robustness and not robust:
        note_robustness()
    steps_an_epoch = len(train_samples.labels) // schedule.batch_size
    progress = tqdm(
        total=schedule.epochs * steps_an_epoch,
        initial=len(history) * steps_an_epoch,
        desc=label,
        unit="step",
        mininterval=0.5 if sys.stderr.isatty() else 20,
    )
    with progress:
        while len(history) < schedule.epochs and not _collapsed(robust):
            epoch = len(history)
            mean_loss = _epoch(network, loss, train_samples, schedule, epoch, optimizer, generator, dtype, progress)
            entry = {"epoch": epoch + 1, "loss": mean_loss, "validation": validate(network, validation_samples, dtype)}
            if robustness:
                note_robustness()
                entry["robust_validation"] = robust[-1]
            history.append(entry)
            progress.set_postfix(loss=f"{mean_loss:.3f}", validation=f"{entry['validation']:.3f}")
            checkpoint.save(
                {
                    **with_prefix("network", network.state_dict()),
                    **with_prefix("momentum", momentum_of(network, optimizer)),
                    **with_prefix("best", best),
                    "generator": generator.get_state(),
                },
                {"history": history, "robust": robust},
            )
    if _collapsed(robust):
        kept = max(range(len(robust)), key=lambda epoch: (robust[epoch], epoch))
        network.load_state_dict(best)
        history[-1]["stopped"] = (
            f"robust accuracy collapsed to {robust[-1]:.1%}: the network is that after epoch {kept}"
        )
        print(f"{label}: {history[-1]['stopped']}", file=sys.stderr)
    network.eval()
    return history


def _optimizer(network: nn.Module, schedule: Schedule) -> torch.optim.SGD:
    """SGD that decays weights, but neither biases nor the numbers of batch norms and quantizers."""
    weights = [parameter for parameter in network.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in network.parameters() if parameter.dim() <= 1]
    groups = [{"params": weights, "weight_decay": schedule.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(
        groups, lr=schedule.learning_rate, momentum=schedule.momentum, nesterov=schedule.momentum > 0
    )


def _epoch(network, loss, samples, schedule, epoch, optimizer, generator, dtype, progress) -> float:
    """One pass over the shuffled samples (a last partial batch is left out); returns the mean loss."""
    network.train()
    device = samples.labels.device
    steps = len(samples.labels) // schedule.batch_size
    order = torch.randperm(len(samples.labels), generator=generator).to(device)
    total = torch.zeros((), device=device)
    for step, chosen in enumerate(order[: steps * schedule.batch_size].split(schedule.batch_size)):
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate_at(epoch * steps + step, schedule.epochs * steps)
        inputs = crop_and_flip(
            samples.inputs[chosen],
            crop_padding=schedule.crop_padding,
            horizontal_flip=schedule.horizontal_flip,
            generator=generator,
        )
        inputs = shift_and_mix(
            inputs,
            time_shift=schedule.time_shift,
            background_noise=schedule.background_noise,
            noise=samples.noise,
            generator=generator,
        )
        with _autocast(device, dtype):
            value = loss(network, as_input(inputs), samples.labels[chosen], generator=generator)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        total += value.detach()
        progress.update()
    mean = float(total) / steps
    if not math.isfinite(mean):
        raise ValueError(
            f"training: the loss became {mean} in epoch {epoch + 1}; expected a finite number (lower learning_rate?)"
        )
    return mean


def _robust(network, robustness, samples: Samples, seed: int, dtype) -> float:
    """The robustness measure on the same samples with the same random start each time, so that epochs compare."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(samples.labels), generator=generator)[:ROBUSTNESS_SAMPLES].to(samples.labels.device)
    with evaluating(network), _autocast(samples.labels.device, dtype):
        return robustness(network, as_input(samples.inputs[chosen]), samples.labels[chosen], generator=generator)


def _collapsed(robust: list[float]) -> bool:
    return len(robust) > 1 and robust[-1] < COLLAPSE * max(robust)


def _autocast(device: torch.device, dtype: torch.dtype):
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
