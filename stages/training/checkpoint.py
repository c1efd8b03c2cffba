"""Where a killed training goes on: the state after the last whole epoch, random generator included."""

import json
import os
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


class Checkpoint:
    """One file that is replaced whole after each epoch.

    Its path belongs to one training: whoever names it puts all that the training depends on into the name.
    """

    def __init__(self, path: Path):
        self.path = path

    def save(self, tensors: dict[str, Tensor], state: dict) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f".{os.getpid()}-{self.path.name}")  # an orphaned job may still write its own
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, partial, {"state": json.dumps(state)})
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        partial.replace(self.path)

    def load(self) -> tuple[dict[str, Tensor], dict] | None:
        """The tensors and the state last saved, or None if there is nothing to go on from."""
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return tensors, json.loads(file.metadata()["state"])
        except SafetensorError as error:
            print(f"{self.path}: is damaged ({error}), so training starts anew", file=sys.stderr)
            return None


def with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under `prefix.name`, copied, so that several sets fit in one file."""
    return {f"{prefix}.{name}": tensor.detach().clone() for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `with_prefix`: the tensors of one set."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def momentum_of(network: torch.nn.Module, optimizer: torch.optim.SGD) -> dict[str, Tensor]:
    """The optimizer's momentum by parameter name."""
    buffers = {name: optimizer.state[p].get("momentum_buffer") for name, p in network.named_parameters()}
    return {name: buffer for name, buffer in buffers.items() if buffer is not None}


def restore_momentum(network: torch.nn.Module, optimizer: torch.optim.SGD, momentum: dict[str, Tensor]) -> None:
    """The inverse of `momentum_of`."""
    for name, parameter in network.named_parameters():
        if name in momentum:
            optimizer.state[parameter]["momentum_buffer"] = momentum[name].to(parameter.device)
