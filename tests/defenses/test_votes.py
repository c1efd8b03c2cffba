"""Votes and uncertainty on numbers that are known by hand."""

from math import log

import pytest
import torch

from stages.defenses.votes import majority, mean_probabilities, mutual_information, predictive_entropy

# Two passes over two inputs: they agree on the first and disagree on the second.
PROBABILITIES = torch.tensor([[[0.8, 0.1, 0.1], [1.0, 1e-12, 1e-12]], [[0.8, 0.1, 0.1], [1e-12, 1.0, 1e-12]]])
LOGITS = PROBABILITIES.log()


def test_probabilities_are_averaged():
    probabilities = mean_probabilities(LOGITS).exp()
    torch.testing.assert_close(probabilities, torch.tensor([[0.8, 0.1, 0.1], [0.5, 0.5, 0.0]]))


@pytest.mark.parametrize("vote", [mean_probabilities, majority])
def test_one_pass_needs_no_vote(vote):
    logits = torch.randn(1, 5, 3)
    assert vote(logits) is not logits and torch.equal(vote(logits), logits[0])


@pytest.mark.parametrize("vote", [mean_probabilities, majority])
def test_votes_are_probabilities(vote):
    logits = 50 * torch.randn(7, 20, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        vote(logits).double().exp().sum(1), torch.ones(20, dtype=torch.float64), atol=1e-5, rtol=0
    )
    assert vote(logits).isfinite().all()


def test_most_passes_win_against_one_that_is_sure():
    passes = torch.tensor([[0.51, 0.49], [0.51, 0.49], [0.0001, 0.9999]]).log()[:, None]
    assert majority(passes).argmax(1).item() == 0
    assert mean_probabilities(passes).argmax(1).item() == 1
    torch.testing.assert_close(majority(passes).exp()[0], torch.tensor([2 + 0.34003, 1 + 0.65997]) / 4)


def test_of_as_many_votes_the_more_probable_class_wins():
    passes = torch.tensor([[0.6, 0.4, 0.0], [0.1, 0.9, 0.0]]).log()[:, None]
    assert majority(passes).argmax(1).item() == 1


def test_all_uncertainty_is_the_entropy_and_disagreement_a_part_of_it():
    certain = -0.8 * log(0.8) - 0.2 * log(0.1)
    torch.testing.assert_close(predictive_entropy(LOGITS), torch.tensor([certain, log(2)]))
    torch.testing.assert_close(mutual_information(LOGITS), torch.tensor([0.0, log(2)]), atol=1e-6, rtol=0)


def test_uncertainty_is_a_number_where_probabilities_vanish():
    logits = torch.tensor([[[1e5, 0.0]], [[0.0, 1e5]]])
    assert predictive_entropy(logits).item() == pytest.approx(log(2))
    assert mutual_information(logits).item() == pytest.approx(log(2))
    assert predictive_entropy(torch.tensor([[[torch.inf, 0.0]]]).nan_to_num(posinf=1e30)).item() == 0
