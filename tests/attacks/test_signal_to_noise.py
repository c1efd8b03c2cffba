"""Budgets of sound: an SNR in dB is an L2 ball around each clip, as large as the clip is loud."""

from math import inf, sqrt

import pytest
import torch

from stages.attacks import gaussian_noise, noise_snr, pgd_l2, pgd_snr
from stages.attacks.distances import l2
from stages.attacks.signal_to_noise import ball, radii
from stages.datasets.tensors import as_input
from tests.attacks.linear import linear_classifier

SHAPE = (1, 1, 200)


def clips(count=6):
    """From silent to loud, int16."""
    loudness = torch.tensor([0.0, 3.0, 30.0, 300.0, 3000.0, 9000.0])[:count]
    noise = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0))
    return (loudness[:, None, None, None] * noise).to(torch.int16)


def ratio(adversarial, inputs):
    """The SNR in dB, [N], in the units of samples."""
    samples, changed = (65535 * x.double().flatten(1) - 2**15 for x in (inputs, adversarial))
    return 20 * torch.log10(samples.norm(dim=1) / (changed - samples).norm(dim=1))


def test_a_radius_is_the_clips_own_length_damped():
    levels = clips()
    found = radii(as_input(levels), torch.tensor([20.0, 40.0]))
    length = levels.double().flatten(1).norm(dim=1) / 65535
    torch.testing.assert_close(found, torch.stack([length / 10, length / 100]), rtol=1e-3, atol=1e-6)
    assert found.dtype == torch.float64
    assert (found[:, 0] < 1e-6).all()  # silence has no ratio
    each = radii(as_input(levels), torch.tensor([[20.0] * 3 + [40.0] * 3]))
    torch.testing.assert_close(each[0], torch.cat([found[0, :3], found[1, 3:]]))


def test_minus_infinity_allows_any_input():
    assert (radii(as_input(clips()), torch.tensor([-inf])) == sqrt(200)).all()
    # So does what is far louder than the clip.
    assert (radii(as_input(clips()), torch.tensor([-200.0]))[0, 1:] == sqrt(200)).all()


def test_other_norms_keep_their_ball():
    inputs = as_input(clips())
    assert ball("l2", 0.5, inputs) == ("l2", 0.5)
    norm, found = ball("snr", 20, inputs)
    assert norm == "l2"
    assert torch.equal(found, radii(inputs, torch.tensor([20.0]))[0])


@pytest.mark.parametrize("attack", [pgd_snr, noise_snr])
def test_attacks_use_the_budget_of_each_clip_and_no_more(attack):
    classifier = linear_classifier(3, SHAPE)
    inputs = as_input(clips())
    labels = classifier(inputs).argmax(1)
    epsilons = torch.tensor([10.0, 30.0])
    result = attack.attack(classifier, inputs, labels, epsilons=epsilons, generator=torch.Generator().manual_seed(0))
    for row, epsilon in enumerate([10, 30]):
        found = ratio(result.inputs[row], inputs)[2:]
        assert (found >= epsilon - 0.01).all()
        assert (found < epsilon + 1).all()
        torch.testing.assert_close(result.distance[row], l2(result.inputs[row], inputs).float())
    assert torch.equal(result.inputs[:, 0], inputs[None, 0].expand(2, *SHAPE))


@pytest.mark.parametrize(("attack", "plain"), [(pgd_snr, pgd_l2), (noise_snr, gaussian_noise)])
def test_they_are_the_attacks_of_l2_with_these_radii(attack, plain):
    classifier = linear_classifier(3, SHAPE)
    inputs = as_input(clips())
    labels = classifier(inputs).argmax(1)
    results = [
        made.attack(classifier, inputs, labels, epsilons=budget, generator=torch.Generator().manual_seed(0))
        for made, budget in [
            (attack, torch.tensor([20.0])),
            (plain, radii(inputs, torch.tensor([20.0]))),
        ]
    ]
    assert torch.equal(results[0].inputs, results[1].inputs)
