"""Attacks by queries beside those of ART and torchattacks, on a trained network and no more queries than theirs."""

import numpy as np
import pytest
import torch
import torchattacks

from stages.attacks import boundary, geoda, hop_skip_jump, square_l2, zoo
from tests.attacks.peers import of_art, of_torchattacks, outcome
from tests.attacks.trained import trained_problem

pytestmark = pytest.mark.slow


def art_attack(name, **settings):
    def make(estimator):
        from art.attacks import evasion

        return getattr(evasion, name)(estimator, verbose=False, **settings)

    return of_art(make)


PAIRS = {
    "hop_skip_jump": (
        art_attack("HopSkipJump", norm=2, max_iter=10),
        lambda *given, **kind: hop_skip_jump.attack(*given, iterations=8, **kind),
    ),
    "geoda": (
        # Its defaults, meant for larger images, reach a seventh of this.
        art_attack("GeoDA", norm=2, max_iter=2000, sub_dim=10, bin_search_tol=1e-3, sigma=0.02),
        lambda *given, **kind: geoda.attack(*given, queries=1000, iterations=8, **kind),
    ),
    "boundary": (
        art_attack("BoundaryAttack", targeted=False, max_iter=100),
        lambda *given, **kind: boundary.attack(*given, iterations=430, **kind),
    ),
    "zoo": (
        art_attack("ZooAttack", max_iter=10, binary_search_steps=5, use_resize=False, use_importance=False),
        lambda *given, **kind: zoo.attack(*given, search_steps=4, **kind),  # ART stops early
    ),
}

# The closer the two are, the more samples it takes to compare medians.
SAMPLES = {"hop_skip_jump": 20, "geoda": 5, "boundary": 40, "zoo": 5}


@pytest.mark.parametrize("name", PAIRS)
def test_no_weaker_than_art_with_no_more_queries(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where ART's GeoDA leaves a file
    monkeypatch.setattr(np, "mat", np.asmatrix, raising=False)  # which ART's GeoDA still asks NumPy for
    peer, attack = PAIRS[name]
    problem = trained_problem(SAMPLES[name])
    theirs = outcome(peer, *problem)
    ours = attack(*problem, generator=torch.Generator().manual_seed(0))
    lengths = (theirs.inputs - problem.inputs).flatten(1).norm(dim=1)
    reached = torch.where(theirs.success, lengths, torch.inf)
    assert ours.queries.float().mean() <= 1.05 * theirs.forwards
    assert ours.success.float().mean() >= theirs.success.float().mean() - 0.01
    assert torch.where(ours.success, ours.distance, torch.inf).median() <= 1.05 * reached.median()


@pytest.mark.parametrize("epsilon", [0.5, 1.0])
def test_square_l2_is_no_weaker_than_that_of_torchattacks(epsilon):
    classifier, inputs, labels = trained_problem(60)

    def peer_attack(network):
        return torchattacks.Square(network, norm="L2", eps=epsilon, n_queries=500, p_init=0.3)

    theirs = outcome(of_torchattacks(peer_attack), classifier, inputs.contiguous(), labels)
    successes = [
        square_l2.attack(
            classifier,
            inputs,
            labels,
            epsilons=torch.tensor([epsilon]),
            generator=torch.Generator().manual_seed(seed),
            queries=500,
            initial_fraction=0.3,
        ).success
        for seed in range(3)
    ]
    assert 0.05 < theirs.success.float().mean() < 0.95  # neither out of reach nor all broken
    assert torch.stack(successes).float().mean() >= theirs.success.float().mean() - 0.01
