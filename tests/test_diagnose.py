"""The diagnose stage: what quantization did to a network, one row a number of a sample."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from stages import diagnose
from stages.artifacts.datasets import save_dataset
from stages.artifacts.network_files import describe
from stages.classifier import Classifier
from stages.datasets.arrays import Dataset, Split, evaluation_samples
from stages.datasets.tensors import as_input
from stages.params import load_params
from stages.plan import Variant
from stages.schemes import w1a1
from tests.attacks.linear import linear_classifier
from tests.plans import plan
from tests.quantization.small_networks import MEAN, SHAPE, STD, images, quantized_case

FLOAT = Variant("fashion_mnist", "tiny_cnn", "fp32", "none", 0)
BINARY = Variant("fashion_mnist", "tiny_cnn", "w1a1", "none", 0)
SAMPLES = 30
HEADLINE = 4 / 255
QUANTIZED_PARTS = {"input", "weights", "activations", "all"}
STEPS = {"gradient_step", "random_step"}
OF_EVERY_PART = {"gradient_norm", "clean_correct", "robust_correct", "replayed_correct", *STEPS}
DISTANCES = {"distance_l2", "distance_linf"}
SHIFTS = {"logit_shift", "prediction_change"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A study's working directory with one float and one binary network, and prepared images."""
    folder = tmp_path_factory.mktemp("study")
    case = quantized_case("tiny_cnn", "w1a1")
    inputs, labels = images("test", 60)
    split = Split((inputs * 255).round().to(torch.uint8).contiguous().numpy(), labels.numpy())
    names = tuple(str(number) for number in range(10))
    dataset = Dataset("fashion_mnist", SHAPE, names, MEAN, STD, split, split, split, np.arange(40))
    for name in ("prepared", "trained", "quantized", "data/diagnostics"):
        (folder / "data" / Path(name).name).mkdir(parents=True)
    save_dataset(folder / f"{FLOAT.prepared}.safetensors", dataset)
    for variant, network, number_format in ((FLOAT, case.network, None), (BINARY, case.frozen, w1a1.FORMAT)):
        tensors = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
        save_file(tensors, folder / f"{variant.network}.safetensors")
        description = pd.Series(describe(variant, dataset, number_format)).to_json()
        (folder / f"{variant.network}.json").write_text(description)
    return folder


def run(folder, monkeypatch, variant, headlines=None):
    monkeypatch.chdir(folder)
    evaluation = {"diagnose": SAMPLES, "headline_epsilon": {"linf": HEADLINE} if headlines is None else headlines}
    values = {"device": "cpu", "threads": 1, "evaluation": evaluation}
    params = SimpleNamespace(values=values)
    output = f"{variant.diagnostics}.parquet"
    diagnose.run(
        SimpleNamespace(variant=variant, job=SimpleNamespace(outputs=(output,))), params, SimpleNamespace(path=Path)
    )
    return Path(output)


@pytest.fixture
def rows(folder, monkeypatch):
    """The rows of each variant; made once."""
    for variant in (FLOAT, BINARY):
        if not (folder / f"{variant.diagnostics}.parquet").exists():
            run(folder, monkeypatch, variant)
    return {variant: pd.read_parquet(folder / f"{variant.diagnostics}.parquet") for variant in (FLOAT, BINARY)}


def values(rows, diagnostic, part, magnitude=None):
    chosen = rows[(rows["diagnostic"] == diagnostic) & (rows["part"] == part)]
    return (chosen if magnitude is None else chosen[chosen["magnitude"] == magnitude])["value"].to_numpy()


def test_rows_name_the_variant_and_hold_every_evaluated_sample_once(rows, folder):
    labels = images("test", 60)[1].numpy()
    evaluated = evaluation_samples(labels, SAMPLES).tolist()
    for variant, found in rows.items():
        assert (found[list(variant.parts)] == pd.Series(variant.parts)).all(axis=None)
        for _, group in found.groupby(["diagnostic", "part", "magnitude"]):
            assert group["sample"].tolist() == evaluated


def test_a_quantized_network_has_every_diagnostic_of_every_part(rows):
    found = {(row.diagnostic, row.part) for row in rows[BINARY].itertuples()}
    every_part = {(name, part) for name in OF_EVERY_PART for part in {"none", *QUANTIZED_PARTS}}
    quantized = {(name, part) for name in {"gradient_cosine", *SHIFTS} for part in QUANTIZED_PARTS}
    of_both = {(name, part) for name in DISTANCES for part in ("none", "all")}
    assert found == every_part | quantized | of_both | {("gradient_norm_of_codes", "all")}
    assert {row.magnitude for row in rows[BINARY].itertuples() if row.diagnostic in SHIFTS} == set(diagnose.NOISE)


def test_a_float_network_has_the_rows_that_its_quantized_variants_have_of_it(rows):
    assert set(rows[FLOAT]["diagnostic"]) == OF_EVERY_PART | DISTANCES and set(rows[FLOAT]["part"]) == {"none"}
    of_float = rows[BINARY][rows[BINARY]["part"] == "none"]
    columns = ["diagnostic", "part", "magnitude", "sample", "value"]
    assert rows[FLOAT][columns].values.tolist() == of_float[columns].values.tolist()


def test_accuracies_are_those_of_the_networks_themselves(rows):
    case = quantized_case("tiny_cnn", "w1a1")
    inputs, labels = images("test", 60)
    evaluated = torch.from_numpy(evaluation_samples(labels.numpy(), SAMPLES))
    for part, network in (("none", case.network), ("all", case.frozen)):
        with torch.no_grad():
            right = network(inputs[evaluated]).argmax(1) == labels[evaluated]
        clean, robust = values(rows[BINARY], "clean_correct", part), values(rows[BINARY], "robust_correct", part)
        assert clean.tolist() == right.double().tolist() and 0 < clean.mean() < 1
        assert (robust <= clean).all() and robust.sum() < clean.sum()
        assert values(rows[BINARY], "robust_correct", part, HEADLINE).tolist() == robust.tolist()
        assert set(robust) <= {0, 1}


def test_distances_are_0_for_clean_mistakes_and_agree_with_accuracy_under_attack(rows):
    for part in ("none", "all"):
        clean, robust = values(rows[BINARY], "clean_correct", part), values(rows[BINARY], "robust_correct", part)
        for diagnostic in DISTANCES:
            distance = values(rows[BINARY], diagnostic, part)
            assert ((distance == 0) == (clean == 0)).all()
            assert np.isfinite(distance).all()
        # Whichever attack is the weaker, it may miss a few that the other breaks.
        disagreeing = (values(rows[BINARY], "distance_linf", part) > HEADLINE) != (robust == 1)
        assert disagreeing.mean() <= 0.2


def test_without_noise_no_class_and_no_logit_is_changed_by_rounding_images_on_the_grid(rows):
    assert not values(rows[BINARY], "prediction_change", "input", 0).any()
    assert (values(rows[BINARY], "logit_shift", "input", 0) < 1e-5).all()
    assert (values(rows[BINARY], "gradient_cosine", "input") > 1 - 1e-6).all()
    assert (values(rows[BINARY], "logit_shift", "input", 8 / 255) > 1e-4).mean() > 0.9
    assert (values(rows[BINARY], "logit_shift", "all", 0) > 1e-2).all()


def test_what_is_replayed_is_rounded_away_by_an_input_that_is_quantized(rows):
    """At a quarter of a level all of it, at three quarters each full step becomes a level: more than was crafted."""
    clean = values(rows[BINARY], "clean_correct", "input")
    quarter, after, before, farther = (
        values(rows[BINARY], "replayed_correct", "input", magnitude) for magnitude in diagnose.REPLAYED
    )
    assert quarter.tolist() == clean.tolist()
    assert after.mean() < clean.mean() and before.tolist() == after.tolist() and farther.mean() < before.mean()


def test_gradients_of_the_float_network_raise_its_loss_more_than_chance(rows):
    gradient, chance = values(rows[FLOAT], "gradient_step", "none"), values(rows[FLOAT], "random_step", "none")
    assert (gradient > 0).mean() > 0.9
    assert np.median(gradient) > 2 * np.median(np.abs(chance))


def test_without_a_headline_epsilon_in_linf_nothing_is_attacked_with_a_budget(folder, monkeypatch, rows):
    written = run(folder, monkeypatch, FLOAT, headlines={"l2": 0.5})
    without = pd.read_parquet(written)
    written.unlink()
    expected = rows[FLOAT][rows[FLOAT]["diagnostic"] != "robust_correct"]
    assert without.values.tolist() == expected.values.tolist()


def test_the_same_job_writes_the_same_bytes_whatever_was_drawn_before(folder, monkeypatch, rows):
    torch.manual_seed(5)
    before = (folder / f"{BINARY.diagnostics}.parquet").read_bytes()
    assert run(folder, monkeypatch, BINARY).read_bytes() == before


def measured(scale=1.0, **given):
    """The diagnostics of a linear network (`none`) and of one whose logits are scaled (`all`)."""
    first = linear_classifier(3, (1, 4, 4), 0)
    second = linear_classifier(3, (1, 4, 4), 0)
    second.network.last.weight.data *= scale
    second.network.last.bias.data *= scale
    inputs = as_input(torch.from_numpy(np.random.default_rng(0).integers(90, 166, (12, 1, 4, 4), dtype=np.uint8)))
    labels = first(inputs).argmax(1)
    found = diagnose.diagnostics({"none": first, "all": second}, inputs, labels, epsilon=None, name="x", **given)
    return {(name, part, magnitude): numbers for name, part, magnitude, numbers in found}, first, inputs, labels


def test_of_scaled_logits_the_shift_is_the_scale_and_classes_stay():
    found, *_ = measured(scale=1.25)
    for magnitude in diagnose.NOISE:
        np.testing.assert_allclose(found["logit_shift", "all", magnitude], 0.25, rtol=1e-4)
        assert not found["prediction_change", "all", magnitude].any()


def test_gradients_that_vanish_are_zero_and_have_no_cosine():
    found, *_ = measured(scale=1e6)
    assert not found["gradient_norm", "all", 0.0].any() and (found["gradient_norm", "none", 0.0] > 0).all()
    assert np.isnan(found["gradient_cosine", "all", 0.0]).all()
    assert not found["gradient_step", "all", 1 / 255].any()


def test_logits_left_as_codes_saturate_the_softmax():
    found, *_ = measured()  # of logits within a few units: codes are many times as large
    dequantized, of_codes = found["gradient_norm", "all", 0.0], found["gradient_norm_of_codes", "all", 0.0]
    assert (of_codes != dequantized).all() and of_codes.min() / of_codes.max() < dequantized.min() / dequantized.max()


@pytest.mark.parametrize(("norm", "order"), [("l2", 2), ("linf", 1)])
def test_distances_to_a_linear_boundary(norm, order):
    found, classifier, inputs, labels = measured()
    logits, weight = classifier(inputs).detach(), classifier.network.last.weight.detach()
    gaps = logits.gather(1, labels[:, None]) - logits
    steepness = (weight[labels][:, None] - weight[None]).norm(order, dim=2)
    nearest = (gaps / steepness).masked_fill(gaps == 0, torch.inf).amin(1).numpy()
    distance = found[f"distance_{norm}", "none", 0.0]
    assert (distance >= nearest * (1 - 1e-4)).all()
    # The unit box may be in the way of the nearest point, of none of these images.
    assert (distance <= nearest * 1.05).all()


def test_bisection_finds_distances_where_nothing_was_reached_before():
    _, classifier, inputs, labels = measured()
    nothing = torch.full((12,), torch.inf, dtype=torch.float64)
    attack = diagnose.DISTANCES["distance_linf"][1]
    found = diagnose.bisected(attack, classifier, inputs, labels, nothing, "x")
    assert nothing.isinf().all()
    assert (found < 1).all()
    better = diagnose.bisected(attack, classifier, inputs, labels, found, "x")
    assert (better <= found).all() and (better < found).any()


def test_cosines():
    gradients = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    others = torch.tensor([[-2.0, 0.0], [0.0, 3.0], [1.0, 0.0]], dtype=torch.float64)
    found = diagnose.cosines(gradients, others)
    assert found[:2].tolist() == pytest.approx([-1, 0.5**0.5]) and found[2].isnan()


def test_a_common_offset_of_the_logits_is_no_shift():
    reference = torch.tensor([[1.0, 2.0, 6.0]])
    assert diagnose.relative_shift(reference + 5, reference).item() == pytest.approx(0, abs=1e-12)
    assert diagnose.relative_shift(-reference, reference).item() == pytest.approx(2)


def planned(**evaluation):
    """The diagnose jobs of the default study with another evaluation, by item."""
    params = load_params(Path(__file__).parents[1] / "params.yaml")
    changed = params.evaluation.model_copy(update=evaluation)
    jobs = plan(params.model_copy(update={"evaluation": changed}))
    return {job.item: job for job in jobs if job.rule == "diagnose"}


def test_each_variant_is_diagnosed_beside_its_float_network_where_the_study_says_so():
    assert not planned(diagnose=0)
    jobs = planned(diagnose=20)
    assert len(jobs) == 10
    name = "fashion_mnist-resnet8-w4a4-fast_at-s0"
    stems = ["prepared/fashion_mnist", f"defended/{name.replace('w4a4', 'fp32')}", f"quantized/{name}"]
    files = [f"data/{stem}.{suffix}" for stem in stems for suffix in ("json", "safetensors")]
    assert sorted(jobs[name].inputs) == sorted(files)
    assert jobs[name].outputs == (f"data/diagnostics/{name}.parquet",)
    assert jobs[name].params == ("device", "threads", "evaluation.diagnose", "evaluation.headline_epsilon.linf")
    assert jobs[name].modules == ("stages/diagnose.py", "stages/models/resnet8.py")
    assert len(jobs["fashion_mnist-resnet8-fp32-none-s0"].inputs) == 4


def test_without_a_headline_epsilon_in_linf_no_job_depends_on_one():
    jobs = planned(diagnose=20, headline_epsilon={"l2": 0.5})
    assert {job.params for job in jobs.values()} == {("device", "threads", "evaluation.diagnose")}


def test_networks_are_classifiers_with_frozen_parameters(folder, monkeypatch):
    monkeypatch.chdir(folder)
    dataset = diagnose.load_dataset(Path(f"{FLOAT.prepared}.safetensors"))
    made = diagnose.classifiers(BINARY, dataset, torch.device("cpu"))
    assert set(made) == {"none", *QUANTIZED_PARTS}
    for classifier in made.values():
        assert isinstance(classifier, Classifier) and (classifier.input_shape, classifier.num_classes) == (SHAPE, 10)
        assert not classifier.training or not classifier.network.training
        assert not any(parameter.requires_grad for parameter in classifier.parameters())
