"""Layers that only some models have."""

import torch

from stages.models.layers import Dropout


def test_dropout_sets_its_share_to_zero_and_keeps_the_mean():
    torch.manual_seed(0)
    outputs = Dropout(0.2).train()(torch.ones(100, 100))
    assert set(outputs.unique().tolist()) == {0, 1.25}
    assert 0.18 < (outputs == 0).float().mean() < 0.22


def test_dropout_does_nothing_in_evaluation():
    layer, inputs = Dropout(0.5).eval(), torch.randn(3, 4)
    assert torch.equal(layer(inputs), inputs)
    assert layer.masks == 0


def test_masks_differ_from_call_to_call_and_from_layer_to_layer():
    torch.manual_seed(0)
    first, second = Dropout(0.5).train(), Dropout(0.5).train()
    inputs = torch.ones(1000)
    masks = [first(inputs), first(inputs), second(inputs), second(inputs)]
    for one in range(4):
        for other in range(one):
            assert 0.4 < (masks[one] == masks[other]).float().mean() < 0.6


def test_a_layer_that_is_loaded_goes_on_with_the_masks_of_the_one_that_was_saved():
    def made():
        torch.manual_seed(0)
        return Dropout(0.5).train()

    inputs, whole = torch.ones(1000), made()
    whole(inputs)
    saved = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    resumed = made()
    resumed.load_state_dict(saved)
    torch.rand(5)  # the global state of random numbers plays no part
    expected = whole(inputs)
    assert torch.equal(resumed(inputs), expected)
    assert not torch.equal(made()(inputs), expected)
