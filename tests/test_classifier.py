"""The contract between networks and everything that attacks or scores them."""

import torch
from torch import nn

from stages.classifier import Classifier, evaluating


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.dropout, self.last = nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 3)

    def features(self, inputs):
        return self.dropout(self.hidden(inputs).relu())

    def forward(self, inputs):
        return self.last(self.features(inputs))


def test_it_is_its_network_with_facts():
    network = Network().eval()
    classifier = Classifier(network, [4], 3).eval()
    inputs = torch.rand(6, 4)
    assert torch.equal(classifier(inputs), network(inputs))
    assert torch.equal(network.last(classifier.features(inputs)), classifier(inputs))
    assert (classifier.input_shape, classifier.num_classes, classifier.stochastic) == ((4,), 3, False)


def test_the_gradient_views_forward_is_the_classifiers():
    classifier = Classifier(Network(), (4,), 3).eval()
    inputs = torch.rand(6, 4)
    for samples in (1, 5):
        view = classifier.gradient_view(torch.Generator().manual_seed(0), samples)
        assert torch.equal(view(inputs), classifier(inputs))


def test_evaluation_mode_is_left_as_it_was_found():
    network = Network()
    network.last.eval()
    modes = [module.training for module in network.modules()]
    try:
        with evaluating(network):
            assert not any(module.training for module in network.modules())
            raise KeyError
    except KeyError:
        pass
    assert [module.training for module in network.modules()] == modes
    assert True in modes and False in modes
