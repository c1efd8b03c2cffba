"""Defensive distillation: its two terms one by one, and who learns from whom."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stages.defenses import distillation


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5)).eval()


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(6, 1, 3, 4, generator=generator), torch.randint(5, (6,), generator=generator)


def loss(student, teacher, problem, **knobs):
    return distillation.loss(student, *problem, generator=torch.Generator(), teacher=teacher, **knobs)


def test_a_student_that_is_its_teacher_learns_from_the_labels_alone(problem):
    inputs, labels = problem
    expected = 0.1 * F.cross_entropy(network(0)(inputs), labels)
    assert loss(network(0), network(0), problem).item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_the_soft_term_is_the_divergence_from_the_teacher(problem, temperature):
    teacher, student = ((network(seed)(problem[0]).double() / temperature).softmax(1) for seed in (0, 1))
    expected = temperature**2 * (teacher * (teacher / student).log()).sum(1).mean()
    value = loss(network(1), network(0), problem, temperature=temperature, alpha=0.0)
    assert value.item() == pytest.approx(expected.item(), rel=1e-3)


def test_at_a_high_temperature_logits_are_matched(problem):
    # Hinton et al. 2015, equation 4: half the mean over classes of the squared difference of centred logits.
    teacher, student = (network(seed)(problem[0]) for seed in (0, 1))
    difference = (teacher - teacher.mean(1, keepdim=True)) - (student - student.mean(1, keepdim=True))
    expected = difference.square().mean(1).mean() / 2
    value = loss(network(1), network(0), problem, temperature=50.0, alpha=0.0)
    assert value.item() == pytest.approx(expected.item(), rel=0.05)


def test_alpha_weighs_the_labels(problem):
    soft, hard, mixed = (loss(network(1), network(0), problem, alpha=alpha).item() for alpha in (0.0, 1.0, 0.1))
    assert hard == pytest.approx(F.cross_entropy(network(1)(problem[0]), problem[1]).item())
    assert mixed == pytest.approx(0.1 * hard + 0.9 * soft)
    assert abs(hard - soft) > 0.1


def test_only_the_student_learns(problem):
    teacher, student = network(0), network(1).train()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    loss(student, teacher, problem).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(teacher.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(parameter.grad.any() for parameter in student.parameters() if parameter.dim() > 1)
