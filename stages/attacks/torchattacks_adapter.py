"""Makes an attack of torchattacks (Kim, 2020, arXiv:2010.01950) look like those of this project."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torchattacks
from torch import Tensor, nn

from stages.attacks.distances import project_linf
from stages.attacks.result import AttackResult, checked_epsilons, judged
from stages.classifier import Classifier, evaluating
from stages.seeds import seed_of


def attack_each_epsilon(
    build: Callable[[nn.Module, float], torchattacks.attack.Attack],
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    epsilons: Tensor,
    generator: torch.Generator,
) -> AttackResult:
    """Run an L-infinity attack of torchattacks at every epsilon, each with its full budget for every sample.

    build: makes the attack from the module to differentiate and an epsilon, both as torchattacks understands them.
    inputs: float32 [N, ...] in [0, 1]. labels: int64 [N]. epsilons: [E] or [E, N] in [0, 1], in input units; 0 leaves
    the inputs as they are.
    generator: one draw of it and the value of an epsilon seed that epsilon's random part, so that no result depends on
    which other epsilons are asked for. Samples that share an epsilon are attacked as one batch.
    Raises ValueError if inputs or epsilons are outside [0, 1].
    """
    table = checked_epsilons(inputs, epsilons)
    draw = torch.randint(2**62, (), generator=generator).item()
    adversarial = inputs.detach().repeat(len(table), *[1] * inputs.ndim)
    queries = torch.zeros(table.shape, dtype=torch.int64, device=inputs.device)
    backwards = torch.zeros_like(queries)
    with evaluating(classifier):
        for row, row_epsilons in enumerate(table):
            for epsilon in row_epsilons[row_epsilons > 0].unique().tolist():
                batch = row_epsilons == epsilon
                seed = seed_of(epsilon.hex(), str(draw))
                view = _Counted(classifier.gradient_view(torch.Generator().manual_seed(seed)), inputs.device)
                with _seeded(seed, inputs.device), torch.enable_grad():
                    candidates = build(view, epsilon)(inputs[batch], labels[batch]).detach()
                adversarial[row, batch] = project_linf(candidates, inputs[batch], row_epsilons[batch])
                queries[row, batch] = view.forwards // len(candidates)
                backwards[row, batch] = view.backwards // len(candidates)
    return judged(classifier, adversarial, inputs, labels, queries=queries, backwards=backwards)


class _Counted(nn.Module):
    """A module that counts the samples of its forward and backward passes."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        super().__init__()
        # torchattacks takes the device from the first parameter, and a frozen quantized network has none.
        self.device_marker = nn.Parameter(torch.empty(0, device=device), requires_grad=False)
        self.module = module
        self.forwards = 0
        self.backwards = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.forwards += len(inputs)
        logits = self.module(inputs)
        if logits.requires_grad:
            logits.register_hook(self._count_backward)
        return logits

    def _count_backward(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """PyTorch's global random state of the CPU and of `device` starts from `seed` inside and comes back outside."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            torch.cuda.default_generators[device.index or 0].manual_seed(seed)
        yield
