"""How people write the sizes of perturbations."""

from math import inf

import pytest

from stages.reporting.sizes import budget_label, distance_label, epsilon_label, levels_in


@pytest.mark.parametrize(
    ("epsilon", "label"),
    [
        (0, "0"),
        (8 / 255, "8/255"),
        (0.0313725, "8/255"),
        (0.5, "0.5"),
        (1, "any"),
        (inf, "any"),
        (1 / 510, "0.00196078"),
        (2 / 65535, "2/65535"),
        (3.05180e-05, "2/65535"),
        (257 / 65535, "1/255"),
    ],
)
def test_epsilon_label_in_linf(epsilon, label):
    assert epsilon_label(epsilon, "linf") == label


@pytest.mark.parametrize("norm", ["l0", "l1", "l2"])
def test_epsilons_of_other_norms_are_plain_numbers(norm):
    labels = [epsilon_label(epsilon, norm) for epsilon in (0, 8 / 255, 0.2, 1, 20, inf)]
    assert labels == ["0", "0.0313725", "0.2", "1", "20", "any"]


def test_a_budget_names_its_norm_where_it_could_be_mistaken():
    assert budget_label(8 / 255, "linf") == "epsilon 8/255"
    assert budget_label(8 / 255, "linf", several_norms=True) == "Linf epsilon 8/255"
    assert budget_label(0.5, "l2") == "L2 epsilon 0.5"
    assert budget_label(20, "l0") == "L0 epsilon 20 values"


def test_distances_have_three_digits():
    assert distance_label(1.234 / 255, 255) == "1.23/255"
    assert distance_label(0.12345) == "0.123"
    assert distance_label(17) == "17"


def test_sizes_are_told_in_the_levels_that_a_budget_needs():
    assert levels_in("linf", 8 / 255) == levels_in("linf", 0.008) == 255
    assert levels_in("linf", 2 / 65535) == 65535
    assert levels_in("l2", 1 / 65535) == 1
