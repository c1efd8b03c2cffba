"""Sizes of perturbations, and projection onto the ball."""

import torch

from stages.attacks.distances import l0, l2, linf, project_linf


def test_known_sizes():
    originals = torch.full((2, 1, 2, 2), 0.5)
    adversarial = originals.clone()
    adversarial[1] = torch.tensor([[0.5, 0.75], [0.0, 0.5]])
    assert l0(adversarial, originals).tolist() == [0, 2]
    assert l2(adversarial, originals).tolist() == [0, 0.3125**0.5]
    assert linf(adversarial, originals).tolist() == [0, 0.5]


def test_the_smallest_change_counts():
    originals = torch.full((1, 3), 0.3)
    adversarial = torch.nextafter(originals, torch.tensor(1.0))
    assert l0(adversarial, originals).item() == 3
    assert linf(adversarial, originals).item() == 2**-25


def test_projection_keeps_what_is_inside_and_never_exceeds_epsilon():
    generator = torch.Generator().manual_seed(0)
    originals = torch.rand(100_000, 1, generator=generator)
    wanted = originals + torch.randn(100_000, 1, generator=generator) * 0.05
    epsilon = torch.full((100_000,), 8 / 255, dtype=torch.float64)
    projected = project_linf(wanted, originals, epsilon)
    assert (linf(projected, originals) <= epsilon).all()
    assert ((projected >= 0) & (projected <= 1)).all()
    inside = ((linf(wanted, originals) <= epsilon)[:, None]) & (wanted >= 0) & (wanted <= 1)
    assert torch.equal(projected[inside], wanted[inside])
    at_the_border = linf(projected, originals) > epsilon - 2**-23
    at_the_border |= (projected[:, 0] == 0) | (projected[:, 0] == 1)
    assert at_the_border[~inside[:, 0]].all()


def test_each_sample_is_projected_onto_its_own_ball():
    originals, wanted = torch.full((2, 3), 0.5), torch.ones(2, 3)
    projected = project_linf(wanted, originals, torch.tensor([0.125, 0.25], dtype=torch.float64))
    assert projected.tolist() == [[0.625] * 3, [0.75] * 3]
