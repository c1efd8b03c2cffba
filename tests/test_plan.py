from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from stages.params import Export, load_params
from stages.plan import Variant, dvc_plots, networks, surrogates, tasks, variants
from stages.seeds import seed_of
from tests.plans import plan, task_of

ROOT = Path(__file__).parents[1]


@pytest.fixture
def params():
    """The default study."""
    return load_params(ROOT / "params.yaml")


def changed(params, **grid):
    return params.model_copy(update={"grid": params.grid.model_copy(update=grid)})


def job(params, rule, item):
    (found,) = [job for job in plan(params) if (job.rule, job.item) == (rule, item)]
    return found


def test_a_variant_names_its_network_by_the_rule_that_makes_it():
    variant = Variant("d", "m", "fp32", "none", 3)
    assert (variant.name, variant.rule, variant.network) == (
        "d-m-fp32-none-s3",
        "train",
        "data/trained/d-m-fp32-none-s3",
    )
    defended = replace(variant, defense="fast_at")
    assert (defended.rule, defended.network) == ("defend", "data/defended/d-m-fp32-fast_at-s3")
    quantized = replace(defended, scheme="w4")
    assert (quantized.rule, quantized.network) == ("quantize", "data/quantized/d-m-w4-fast_at-s3")
    assert quantized.float_variant == defended
    filtered = replace(quantized, defense="feature_squeezing")
    assert (filtered.rule, filtered.network) == ("filter", "data/filtered/d-m-w4-feature_squeezing-s3")
    assert Variant(**quantized.parts) == quantized


def test_the_default_study(params):
    rules = [job.rule for job in plan(params)]
    assert {rule: rules.count(rule) for rule in rules} == {
        "prepare": 1,
        "train": 1,
        "defend": 2,
        "quantize": 7,
        "score": 10 + 60,
        "attack": 60,
        "report": 1,
    }


@pytest.mark.parametrize("file", [ROOT / "params.yaml", *ROOT.glob("studies/*/params.yaml")], ids=str)
def test_jobs_come_after_those_that_make_their_inputs_and_no_file_is_made_twice(file):
    made = []
    for job in plan(load_params(file)):
        assert set(job.inputs) <= set(made)
        made += job.products
    assert len(made) == len(set(made))


def test_every_key_that_a_job_names_is_written_in_the_file(params):
    for job in plan(params):
        for dotted in job.params:
            section = params.written
            for key in dotted.split("."):
                section = section[key]


def test_every_module_is_named_from_the_repository_and_code_names_modules(params):
    by_code = {}
    for job in plan(params):
        assert job.modules[0] == f"stages/{job.rule}.py"
        assert all((ROOT / module).is_file() for module in job.modules[1:])
        assert by_code.setdefault(job.code, job.modules) == job.modules
    assert len(set(by_code.values())) == len(by_code)


def test_training_depends_on_its_own_settings_and_plugins_alone(params):
    name = "fashion_mnist-resnet8-fp32-fast_at-s0"
    defend = job(params, "defend", name)
    assert defend.inputs == ("data/prepared/fashion_mnist.json", "data/prepared/fashion_mnist.safetensors")
    assert defend.params == ("device", "precision", "threads", "training", "defenses.fast_at")
    assert defend.modules == ("stages/defend.py", "stages/models/resnet8.py", "stages/defenses/fast_at.py")
    assert defend.outputs == (f"data/defended/{name}.json", f"data/defended/{name}.safetensors")


def test_a_quantized_network_is_made_from_the_float_network_of_the_same_defense(params):
    quantize = job(params, "quantize", "fashion_mnist-resnet8-w4a4-jacobian-s0")
    assert "data/defended/fashion_mnist-resnet8-fp32-jacobian-s0.safetensors" in quantize.inputs
    assert quantize.params == ("device", "precision", "threads", "training", "defenses.jacobian", "schemes.w4a4")
    assert set(quantize.modules[1:]) == {
        "stages/models/resnet8.py",
        "stages/defenses/jacobian.py",
        "stages/schemes/w4a4.py",
    }


def test_settings_that_the_file_leaves_out_are_no_keys_of_a_job(params):
    without = params.model_copy(update={"schemes": {}, "defenses": {}})
    quantize = job(without, "quantize", "fashion_mnist-resnet8-w4a4-jacobian-s0")
    assert quantize.params == ("device", "precision", "threads", "training")


def test_a_float_network_is_made_but_not_attacked_where_only_its_quantized_variant_is_asked_for(params):
    quantized = changed(params, schemes=["int8"], defenses=["fast_at"], also=[])
    assert [variant.scheme for variant in variants(quantized)] == ["int8"]
    assert [variant.scheme for variant in networks(quantized)] == ["fp32", "int8"]
    rules = [job.rule for job in plan(quantized)]
    assert rules == ["prepare", "defend", "quantize", "score", *["attack"] * 6, *["score"] * 6, "report"]


def test_transfer_sets_are_those_of_the_other_variants_of_the_same_dataset_model_and_seed(params):
    params = changed(params, models=["resnet8", "tiny_cnn"], seeds=[0, 1])
    target = Variant("fashion_mnist", "resnet8", "int8", "none", 1)
    others = surrogates(params, target)
    assert len(others) == 9
    assert all((other.dataset, other.model, other.seed) == ("fashion_mnist", "resnet8", 1) for other in others)
    assert target not in others

    score = job(params, "score", f"{target.name}-pgd")
    crafted = {path for path in score.inputs if path.startswith("data/adversarial/") and path.endswith(".safetensors")}
    assert crafted == {variant.adversarial("pgd") + ".safetensors" for variant in (target, *others)}
    assert task_of(score, params).crafted_on == (target, *sorted(others, key=lambda other: other.name))

    own = job(params, "score", f"{target.name}-fgsm")
    assert [path for path in own.inputs if path.startswith("data/adversarial/")] == [
        f"data/adversarial/{target.name}-fgsm.json",
        f"data/adversarial/{target.name}-fgsm.safetensors",
    ]
    assert task_of(own, params).crafted_on == (target,)


@pytest.mark.parametrize("axis, value", [("seeds", [0, 1]), ("models", ["resnet8", "tiny_cnn"])])
def test_a_new_seed_or_model_changes_no_job_but_the_report(params, axis, value):
    before, after = set(plan(params)), set(plan(changed(params, **{axis: value})))
    assert {job.rule for job in before - after} == {"report"}


def test_an_attack_depends_on_its_network_and_settings(params):
    name = "fashion_mnist-resnet8-w1a1-none-s0"
    attack = job(params, "attack", f"{name}-pgd")
    assert attack.inputs[2:] == (f"data/quantized/{name}.json", f"data/quantized/{name}.safetensors")
    evaluation = ("samples", "grid", "eot_samples", "epsilons.linf")
    assert attack.params == ("device", "threads", *(f"evaluation.{key}" for key in evaluation), "attacks.pgd")
    assert set(attack.modules[1:]) == {"stages/models/resnet8.py", "stages/attacks/pgd.py"}


def test_tasks_say_what_a_job_is_about(params):
    variant = Variant("fashion_mnist", "resnet8", "fp32", "none", 0)
    attack = task_of(job(params, "attack", f"{variant.name}-fgsm"), params)
    assert (attack.dataset, attack.variant, attack.attack, attack.crafted_on) == ("fashion_mnist", variant, "fgsm", ())
    clean = task_of(job(params, "score", f"{variant.name}-clean"), params)
    assert (clean.variant, clean.attack) == (variant, "clean")
    assert task_of(job(params, "train", variant.name), params).variant == variant
    assert task_of(job(params, "prepare", "fashion_mnist"), params).dataset == "fashion_mnist"
    assert task_of(plan(params)[-1], params).dataset is None
    with pytest.raises(KeyError):
        task_of(replace(attack.job, item="another"), params)


def test_the_report_reads_all_scores_and_shows_one_attack_on_the_undefended_variants(params):
    report = plan(params)[-1]
    scores = [output for task in tasks(params) if task.job.rule == "score" for output in task.job.outputs]
    assert [path for path in report.inputs if path.endswith(".parquet")] == scores
    networks_read = [
        path for path in report.inputs if path.startswith(("data/trained", "data/defended", "data/quantized"))
    ]
    assert networks_read == [variant.network + ".json" for variant in variants(params)]
    shown = {path for path in report.inputs if path.startswith("data/adversarial") and path.endswith(".json")}
    undefended = [variant for variant in variants(params) if variant.defense == "none"]
    assert shown == {variant.adversarial("pgd") + ".json" for variant in undefended}
    assert "data/results/report.html" in report.outputs
    assert report.metrics == ("data/results/metrics.json",)
    assert "data/results/results.csv" in report.tracked


@pytest.mark.parametrize(
    ("attacks", "shown"),
    [
        (["noise", "square", "fgsm", "pgd"], "pgd"),
        (["noise", "square", "fgsm"], "fgsm"),
        (["noise", "square"], "square"),
        (["noise"], "noise"),
    ],
)
def test_the_report_shows_the_attack_that_sees_most(params, attacks, shown):
    report = plan(params.model_copy(update={"attacks": {name: {} for name in attacks}}))[-1]
    sets = [path for path in report.inputs if path.startswith("data/adversarial") and path.endswith(".json")]
    assert sets and all(path.endswith(f"-{shown}.json") for path in sets)


def test_where_data_and_results_come_from_is_no_setting_of_any_job(params):
    keys = {key for job in plan(params) for key in job.params}
    assert keys & {"data", "data.mirror", "ledger", "ledger.remote"} == set()


def test_dvc_plots_draw_one_line_a_variant(params):
    (plot,) = dvc_plots(params)
    columns = plot["worst_case"]["y"]["data/results/worst_case.csv"]
    assert columns == [variant.name for variant in variants(params)]
    assert plot["worst_case"]["x"] == {"data/results/worst_case.csv": "epsilon"}
    assert "data/results/worst_case.csv" in plan(params)[-1].tracked


def test_seeds_depend_on_name_and_purpose_alone():
    assert seed_of("fashion_mnist-resnet8-fp32-none-s0", "attack") == 4852366749624048189  # of sha256sum, by hand
    seeds = [seed_of(name, purpose) for name in ("a", "ab", "b") for purpose in ("", "b", "initialisation")]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_what_a_job_asks_of_a_cluster_is_no_setting_of_any_job(params):
    keys = {key for job in plan(params) for key in job.params}
    assert "resources" not in {key.partition(".")[0] for key in keys}


def test_every_rule_of_the_plan_may_ask_for_its_own_resources(params):
    everything = params.evaluation.model_copy(update={"extended": True, "diagnose": 20})
    extended = params.model_copy(update={"evaluation": everything})
    extended = changed(extended, defenses=["none", "fast_at", "feature_squeezing"])
    extended = extended.model_copy(update={"faults": {"bit_flip_attack": {}}, "export": Export(onnx=True)})
    assert {job.rule for job in plan(extended)} == set(type(params.resources.rules).model_fields)


def test_an_extended_evaluation_probes_what_has_a_budget_or_gradients(params):
    assert not [job for job in plan(params) if job.rule == "probe"]
    extended = params.model_copy(update={"evaluation": params.evaluation.model_copy(update={"extended": True})})
    jobs = plan(extended)
    probes = [job for job in jobs if job.rule == "probe"]
    name = "fashion_mnist-resnet8-w1a1-none-s0"
    assert {job.item for job in probes if name in job.item} == {
        f"{name}-{attack}" for attack in ("ddn", "fgsm", "pgd", "square")
    }
    assert len(probes) == 40
    probe = job(extended, "probe", f"{name}-pgd")
    assert probe.inputs == job(extended, "attack", f"{name}-pgd").inputs
    evaluation = ("samples", "grid", "eot_samples", "headline_epsilon.linf")
    assert probe.params == ("device", "threads", *(f"evaluation.{key}" for key in evaluation), "attacks.pgd")
    assert set(probe.modules) == {"stages/probe.py", "stages/models/resnet8.py", "stages/attacks/pgd.py"}
    assert probe.outputs == (f"data/probes/{name}-pgd.parquet",)
    assert {path for job in probes for path in job.outputs} <= set(jobs[-1].inputs)
    # Nothing else than the report changes where a study asks for it.
    assert {job.rule for job in set(plan(params)) - set(jobs)} == {"report"}


def test_a_filter_stands_before_the_undefended_network_of_the_same_number_format(params):
    params = changed(params, schemes=["int8"], defenses=["feature_squeezing"], also=[])
    name = "fashion_mnist-resnet8-{}-feature_squeezing-s0"
    assert [variant.name for variant in networks(params)] == [
        "fashion_mnist-resnet8-fp32-none-s0",
        name.format("fp32"),
        "fashion_mnist-resnet8-int8-none-s0",
        name.format("int8"),
    ]
    filtered = job(params, "filter", name.format("int8"))
    assert {Path(path).stem for path in filtered.inputs} == {
        "fashion_mnist",
        "fashion_mnist-resnet8-int8-none-s0",
        name.format("fp32"),  # what it has learned
    }
    assert filtered.params == ("device", "precision", "threads")
    assert filtered.outputs[0] == f"data/filtered/{name.format('int8')}.json"
    attack = job(params, "attack", f"{name.format('int8')}-pgd")
    assert attack.inputs[2] == filtered.outputs[0]
    assert "stages/defenses/feature_squeezing.py" in attack.modules


def test_a_filter_is_not_diagnosed_since_its_network_was_quantized_without_it(params):
    evaluation = params.evaluation.model_copy(update={"diagnose": 20})
    params = changed(params, defenses=["none", "feature_squeezing"], also=[])
    params = params.model_copy(update={"evaluation": evaluation})
    diagnosed = [job.item for job in plan(params) if job.rule == "diagnose"]
    assert diagnosed == [f"fashion_mnist-resnet8-{scheme}-none-s0" for scheme in ("fp32", "int8", "w4a4")]


def test_a_defense_with_a_teacher_has_the_choice_among_the_undefended_networks_of_all_seeds(params):
    params = changed(params, schemes=["int8"], defenses=["none", "distillation"], seeds=[1, 0], also=[])
    student = Variant("fashion_mnist", "resnet8", "fp32", "distillation", 1)
    defend = job(params, "defend", student.name)
    teachers = [replace(student, defense="none", seed=seed) for seed in (0, 1)]
    assert task_of(defend, params).teachers == tuple(teachers)
    assert {f"{teacher.network}.safetensors" for teacher in teachers} <= set(defend.inputs)
    # Quantization-aware training has the same loss.
    assert task_of(job(params, "quantize", replace(student, scheme="int8").name), params).teachers == tuple(teachers)


def test_a_defense_that_attacks_other_models_gets_undefended_networks_of_them(params):
    params = params.model_copy(update={"defenses": {"ensemble_at": {"models": ["tiny_cnn"]}}})
    params = changed(params, schemes=["fp32"], defenses=["ensemble_at"], also=[])
    assert [variant.model for variant in networks(params)] == ["tiny_cnn", "resnet8"]
    assert [variant.model for variant in variants(params)] == ["resnet8"]
    defend = job(params, "defend", "fashion_mnist-resnet8-fp32-ensemble_at-s0")
    assert "data/trained/fashion_mnist-tiny_cnn-fp32-none-s0.safetensors" in defend.inputs
    assert "stages/models/tiny_cnn.py" in defend.modules


def test_a_network_that_is_to_be_as_large_as_another_waits_for_it(params):
    schemes = {"wide": {"scheme": "qat", "weights": 1, "activations": 1, "as_large_as": "early_growth"}}
    params = changed(params.model_copy(update={"schemes": schemes}), schemes=["wide"], defenses=["none"], also=[])
    wide = Variant("fashion_mnist", "resnet8", "wide", "none", 0)
    grown = replace(wide, scheme="early_growth")
    assert networks(params) == [wide.float_variant, grown, wide] and variants(params) == [wide]
    quantize = job(params, "quantize", wide.name)
    assert task_of(quantize, params).reference == grown and f"{grown.network}.json" in quantize.inputs
    assert task_of(job(params, "quantize", grown.name), params).reference is None


def test_a_defense_may_start_from_the_undefended_network(params):
    starts = {"fast_at": {"training": {"start": "undefended", "epochs": 2}}}
    params = changed(params.model_copy(update={"defenses": starts}), schemes=["int8"], defenses=["fast_at"], also=[])
    assert [variant.defense for variant in networks(params)] == ["none", "fast_at", "fast_at"]
    assert task_of(job(params, "defend", "fashion_mnist-resnet8-fp32-fast_at-s0"), params).teachers == (
        Variant("fashion_mnist", "resnet8", "fp32", "none", 0),
    )
    assert task_of(job(params, "quantize", "fashion_mnist-resnet8-int8-fast_at-s0"), params).teachers == ()


def test_related_surrogates_share_the_number_format_or_the_defense(params):
    evaluation = params.evaluation.model_copy(update={"surrogates": "related"})
    params = params.model_copy(update={"evaluation": evaluation})
    target = Variant("fashion_mnist", "resnet8", "int8", "jacobian", 0)
    assert {(other.scheme, other.defense) for other in surrogates(params, target)} == {
        *(("int8", defense) for defense in ("none", "fast_at")),
        *((scheme, "jacobian") for scheme in ("fp32", "w4a4")),
    }


def limited(params, **limits):
    evaluation = {**params.values["evaluation"], "limits": limits}
    return type(params).model_validate({**params.values, "evaluation": evaluation})


def test_what_is_limited_is_attacked_less_and_replayed_on_nothing(params):
    limits = {"samples": 20, "attacks": ["fgsm"], "epsilons": {"linf": [8 / 255]}}
    asked_less = {"samples": 50, "epsilons": [0, 8 / 255]}
    params = limited(params, defenses={"jacobian": limits}, attacks={"square": asked_less})
    assert params.samples("none", "pgd") == 200 and params.samples("none", "square") == 50
    assert params.samples("jacobian", "square") == 20 and params.epsilons("jacobian", "pgd") == [8 / 255]
    assert params.epsilons("none", "square") == [0, 8 / 255] and len(params.epsilons("none", "pgd")) == 6
    name = "fashion_mnist-resnet8-int8-jacobian-s0"
    mine = [job for job in plan(params) if job.item.startswith(name)]
    assert [job.item.removeprefix(f"{name}-") for job in mine if job.rule == "attack"] == ["fgsm"]
    # PGD is replayed on it, from networks that are not limited.
    replay = task_of(job(params, "score", f"{name}-pgd"), params)
    assert {variant.defense for variant in replay.crafted_on} == {"none", "fast_at"}
    assert "evaluation.limits.defenses.jacobian.samples" in replay.job.params
    # What the limits decide depends on nothing that holds for the others.
    fgsm = job(params, "attack", f"{name}-fgsm")
    assert "evaluation.samples" not in fgsm.params and "evaluation.epsilons.linf" not in fgsm.params
    of_defense = "evaluation.limits.defenses.jacobian"
    assert {f"{of_defense}.samples", f"{of_defense}.epsilons.linf"} <= set(fgsm.params)
    other = job(params, "score", "fashion_mnist-resnet8-int8-none-s0-pgd")
    assert not any("jacobian" in path for path in other.inputs)
    asked = job(params, "attack", "fashion_mnist-resnet8-int8-none-s0-square")
    of_attack = "evaluation.limits.attacks.square"
    assert {f"{of_attack}.samples", f"{of_attack}.epsilons"} <= set(asked.params)
    assert not any("limits" in key for key in job(params, "attack", "fashion_mnist-resnet8-int8-none-s0-pgd").params)


def test_an_attack_may_keep_to_some_schemes_and_seeds(params):
    grid = params.grid.model_copy(update={"seeds": [0, 1]})
    slow = {"schemes": ["fp32", "int8"], "seeds": [0]}
    params = limited(params.model_copy(update={"grid": grid}), attacks={"square": slow})
    attacked = {job.item for job in plan(params) if job.rule == "attack" and job.item.endswith("-square")}
    assert {item.split("-")[2] for item in attacked} == {"fp32", "int8"}
    assert {item.split("-")[4] for item in attacked} == {"s0"}
    # What is not attacked has no scores, and what is depends on no limit of others.
    scored = {job.item for job in plan(params) if job.rule == "score" and job.item.endswith("-square")}
    assert scored == attacked
    assert not any("limits" in key for item in attacked for key in job(params, "attack", item).params)


def test_a_study_that_judges_claims_has_a_table_of_them_and_their_code_in_its_report(params):
    judging = params.model_copy(update={"report": params.report.model_copy(update={"claims": "deep_edge"})})
    (report,) = set(plan(judging)) - set(plan(params))
    assert set(report.tracked) - set(plan(params)[-1].tracked) == {"data/results/claims.csv"}
    assert (report.code, report.modules) == ("report-deep_edge", ("stages/report.py", "stages/claims/deep_edge.py"))
    assert plan(params)[-1].code == "report"


def test_the_images_shown_are_those_of_an_attack_that_was_run_at_the_headline(params):
    def shown(params):
        return {Path(path).stem.rsplit("-", 1)[1] for path in plan(params)[-1].inputs if "adversarial/" in path}

    assert shown(params) == {"pgd"}
    assert shown(limited(params, defenses={"none": {"attacks": ["fgsm"]}})) == {"fgsm"}
    assert shown(limited(params, attacks={"pgd": {"epsilons": [16 / 255]}})) == {"fgsm"}
    assert shown(limited(params, defenses={"none": {"attacks": ["noise"]}, "jacobian": {"samples": 5}})) == {"noise"}


def test_jobs_depend_on_what_an_extended_evaluation_replaces_for_them(tmp_path):
    written = yaml.safe_load((ROOT / "params.yaml").read_text())
    written["evaluation"]["extended"] = True
    written["extended"] = {"attacks": {"pgd": {"steps": 99}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(written))
    params = load_params(tmp_path / "params.yaml")
    name = "fashion_mnist-resnet8-int8-none-s0"
    attack = job(params, "attack", f"{name}-pgd")
    assert {"attacks.pgd", "extended.attacks.pgd"} <= set(attack.params)
    fgsm = job(params, "attack", f"{name}-fgsm")
    assert not [key for key in fgsm.params if key.startswith("extended")]


def test_a_number_format_with_a_name_of_its_own_runs_the_file_that_it_names(params):
    named = changed(params, schemes=["fp32", "w2a2"]).model_copy(
        update={"schemes": {"w2a2": {"scheme": "qat", "weights": 2, "activations": 2}}}
    )
    name = "fashion_mnist-resnet8-w2a2-none-s0"
    found = job(named, "quantize", name)
    assert found.outputs == (f"data/quantized/{name}.json", f"data/quantized/{name}.safetensors")
    assert "stages/schemes/qat.py" in found.modules and found.code == "quantize-resnet8-none-qat"
    assert "schemes.w2a2" in found.params
    assert task_of(found, named).plugin == "qat"
    assert task_of(job(params, "quantize", "fashion_mnist-resnet8-w4a4-none-s0"), params).plugin == "w4a4"
