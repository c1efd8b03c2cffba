"""The attack that goes for confident errors."""

import torch

from stages.attacks import pgd, pgd_evading
from stages.attacks.attacked import Attacked
from stages.attacks.pgd_evading import confidence_in_an_error
from stages.defenses import shield
from stages.defenses.shielded import Shielded
from stages.defenses.votes import predictive_entropy
from tests.attacks.linear import centred_inputs, linear_classifier
from tests.quantization.small_networks import SHAPE, images, quantized_case


def run(plugin, classifier, inputs, labels, epsilon, **knobs):
    generator = torch.Generator().manual_seed(0)
    epsilons = torch.tensor([epsilon], dtype=torch.float64)
    return plugin.attack(classifier, inputs, labels, epsilons=epsilons, generator=generator, **knobs)


def test_what_is_raised_is_the_probability_of_the_likeliest_error():
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.05, 0.05, 0.9]])
    found = confidence_in_an_error(probabilities.log() + 3, torch.tensor([0, 2]))
    torch.testing.assert_close(found, torch.tensor([0.2, 0.05]).log())


def test_two_classes_and_a_linear_network_leave_one_best_corner():
    classifier = linear_classifier(2)
    inputs = centred_inputs(20)
    labels = classifier(inputs).argmax(1)
    weights = classifier.network.last.weight.detach()
    away = (weights[1 - labels] - weights[labels]).sign().reshape(inputs.shape)
    result = run(pgd_evading, classifier, inputs, labels, 0.05)
    torch.testing.assert_close(result.inputs[0], inputs + 0.05 * away)
    assert result.queries.unique().tolist() == [21] and result.backwards.unique().tolist() == [20]


def test_errors_are_surer_than_those_of_pgd_and_more_of_them_pass_the_detector():
    network = quantized_case("tiny_cnn", "int8").frozen
    settings = {"layers": ["activation3"], "rate": 0.2, "passes": 8}
    classifier = Shielded(network, shield.filter(SHAPE, **settings), SHAPE, 10).requires_grad_(False).eval()
    attacked = Attacked(classifier, digital=True, eot_samples=2)
    inputs, labels = images("test", 100)
    found = {}
    for name, plugin in {"pgd": pgd, "evading": pgd_evading}.items():
        classifier.reseed(1)
        result = run(plugin, attacked, inputs, labels, 24 / 255, steps=20, step_size=0.1)
        classifier.reseed(2)
        logits = classifier._logits(result.inputs[0])
        wrong = logits.softmax(2).mean(0).argmax(1) != labels
        found[name] = predictive_entropy(logits)[wrong].median().item(), wrong.float().mean().item()
    assert found["evading"][0] < 0.8 * found["pgd"][0]
    assert found["evading"][1] > 0.9 * found["pgd"][1]
