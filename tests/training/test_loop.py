"""The training loop: it learns, it repeats itself to the byte, it goes on after a kill, it stops on a collapse."""

import pytest
import torch

from stages.defenses import none
from stages.training.checkpoint import Checkpoint
from stages.training.loop import Samples, accuracy, train


def fit(network, samples, schedule, folder, loss=none.loss, **options):
    checkpoint = Checkpoint(folder / "checkpoint.safetensors")
    return train(
        network, loss, samples, samples, schedule, seed=3, dtype=torch.float32, checkpoint=checkpoint, **options
    )


def equal(first, second):
    return all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())


def test_it_learns_a_separable_problem(make_network, bright_or_dark, schedule, tmp_path):
    network = make_network()
    history = fit(network, bright_or_dark, schedule, tmp_path)
    assert len(history) == schedule.epochs
    assert accuracy(network, bright_or_dark) > 0.95
    assert history[-1]["loss"] < history[0]["loss"]
    assert not network.training


def test_the_same_seed_gives_the_same_network(make_network, bright_or_dark, schedule, tmp_path):
    first, second = make_network(), make_network()
    fit(first, bright_or_dark, schedule, tmp_path)
    fit(second, bright_or_dark, schedule, tmp_path)
    assert equal(first, second)


class Killed(Exception):
    pass


@pytest.mark.parametrize("killed_at", [1, 11, 25, 39])
def test_a_killed_training_goes_on_to_the_same_bytes(make_network, bright_or_dark, schedule, tmp_path, killed_at):
    undisturbed = make_network()
    history = fit(undisturbed, bright_or_dark, schedule, tmp_path / "undisturbed")

    calls = 0

    def deadly(network, inputs, labels, *, generator):
        nonlocal calls
        calls += 1
        if calls == killed_at:
            raise Killed
        return none.loss(network, inputs, labels, generator=generator)

    with pytest.raises(Killed):
        fit(make_network(), bright_or_dark, schedule, tmp_path, loss=deadly)
    resumed = make_network()
    assert fit(resumed, bright_or_dark, schedule, tmp_path) == history
    assert equal(resumed, undisturbed)


def test_a_checkpoint_comes_back_whole_and_a_damaged_one_is_told(tmp_path, capsys):
    checkpoint = Checkpoint(tmp_path / "folder/checkpoint.safetensors")
    assert checkpoint.load() is None
    checkpoint.save({"tensor": torch.zeros(3)}, {"history": []})
    checkpoint.save({"tensor": torch.ones(2, 2).T}, {"history": [{"epoch": 1}]})
    tensors, state = checkpoint.load()
    assert torch.equal(tensors["tensor"], torch.ones(2, 2))
    assert state == {"history": [{"epoch": 1}]}
    assert [file.name for file in checkpoint.path.parent.iterdir()] == ["checkpoint.safetensors"]
    whole = checkpoint.path.read_bytes()
    checkpoint.path.write_bytes(whole[: len(whole) // 2])
    assert checkpoint.load() is None
    assert "is damaged" in capsys.readouterr().err


def test_a_collapse_of_robustness_stops_training_and_returns_the_best_epoch(
    make_network, bright_or_dark, schedule, tmp_path
):
    robust = iter([0.1, 0.5, 0.8, 0.3, 0.9])
    states = []

    def robustness(network, inputs, labels, *, generator):
        states.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return next(robust)

    network = make_network()
    history = fit(network, bright_or_dark, schedule, tmp_path, robustness=robustness)
    assert [entry["robust_validation"] for entry in history] == [0.5, 0.8, 0.3]
    assert "epoch 2" in history[-1]["stopped"]
    assert all(torch.equal(tensor, states[2][name]) for name, tensor in network.state_dict().items())


def test_a_collapse_in_the_first_epoch_leaves_the_network_that_came_in(
    make_network, bright_or_dark, schedule, tmp_path
):
    robust = iter([0.8, 0.3])
    network = make_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    history = fit(network, bright_or_dark, schedule, tmp_path, robustness=lambda *_, **__: next(robust))
    assert len(history) == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_robustness_is_measured_on_samples_of_all_classes(make_network, bright_or_dark, schedule, tmp_path):
    order = bright_or_dark.labels.repeat(3).argsort(stable=True)
    inputs, labels = bright_or_dark.inputs.repeat(3, 1, 1, 1), bright_or_dark.labels.repeat(3)
    by_class = Samples(inputs[order], labels[order])
    seen = []

    def robustness(network, inputs, labels, *, generator):
        seen.append(labels)
        return 0.5

    fit(make_network(), by_class, schedule, tmp_path, robustness=robustness)
    assert all(torch.equal(labels, seen[0]) for labels in seen)
    assert len(seen[0]) == 200
    assert 60 < seen[0].sum() < 140


def test_without_a_collapse_the_last_epoch_is_kept(make_network, bright_or_dark, schedule, tmp_path):
    robust = iter([0.1, 0.5, 0.8, 0.41, 0.6])
    history = fit(make_network(), bright_or_dark, schedule, tmp_path, robustness=lambda *_, **__: next(robust))
    assert len(history) == 4
    assert "stopped" not in history[-1]


def test_a_loss_that_is_no_number_is_refused(make_network, bright_or_dark, schedule, tmp_path):
    def broken(network, inputs, labels, *, generator):
        return none.loss(network, inputs, labels, generator=generator) * float("nan")

    with pytest.raises(ValueError, match="loss became nan in epoch 1"):
        fit(make_network(), bright_or_dark, schedule, tmp_path, loss=broken)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero(schedule):
    rates = [schedule.learning_rate_at(step, 100) for step in range(100)]
    peak = rates.index(max(rates))
    assert peak == 20
    assert rates[peak] == pytest.approx(schedule.learning_rate)
    assert rates[:21] == sorted(rates[:21]) and rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] < 0.01 * schedule.learning_rate
