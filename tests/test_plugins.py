import inspect
from importlib import import_module

import made_up_plugins
import pytest
from pydantic import ValidationError

from stages import plugins
from stages.metrics import results


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    return made_up_plugins.install(tmp_path, monkeypatch)


def fault(kind, name, given):
    with pytest.raises(ValidationError) as caught:
        plugins.settings(kind, name, given)
    (error,) = caught.value.errors()
    return error["type"], error["loc"]


def test_plugins_are_the_files_that_define_the_folders_function(made_up):
    assert plugins.names("attacks") == ["ask", "climb", "near", "noise"]
    assert plugins.names("models") == ["small", "tall"]
    assert plugins.names("schemes") == ["w4", "w8"]
    assert plugins.names("claims") == ["paper"]


def test_source_is_relative_to_the_repository():
    assert plugins.source("attacks", "pgd").as_posix() == "stages/attacks/pgd.py"


def test_constants_are_literals_and_arithmetic_on_them(made_up):
    assert plugins.constant("datasets", "digits", "INPUT_SHAPE") == (1, 16, 12)
    assert plugins.constant("datasets", "digits", "MEAN") == (73 / 255,)
    assert plugins.constant("attacks", "climb", "STEPS") == 10
    assert plugins.constants("models", "small") == {"MIN_SIZE": (8, 8)}


@pytest.mark.parametrize(
    "source, value",
    [
        ("NAME = [-2 ** 3, 'a' + 'b']", [-8, "ab"]),
        ("NAME: tuple[int, ...] = (1 - 2,)", (-1,)),
        ("OTHER = 3\nNAME = {'a': OTHER}", {"a": 3}),
    ],
)
def test_constant_expressions(made_up, source, value):
    made_up_plugins.write(made_up / "attacks" / "odd.py", source + "\ndef attack(): ...")
    assert plugins.constant("attacks", "odd", "NAME") == value


@pytest.mark.parametrize("source", ["", "NAME: int", "NAME = open('x')", "name = 1", "def f():\n    NAME = 1"])
def test_what_is_no_literal_constant_is_refused_by_name(made_up, source):
    made_up_plugins.write(made_up / "attacks" / "odd.py", source + "\ndef attack(): ...")
    with pytest.raises(plugins.PluginError, match=r"stages/attacks/odd.py: NAME is missing"):
        plugins.constant("attacks", "odd", "NAME")


def test_the_threat_of_an_attack_is_one_of_those_that_are_reported(made_up):
    threats = {"ask": "black_box", "climb": "white_box", "near": "white_box", "noise": "noise"}
    assert {name: plugins.threat(name) for name in plugins.names("attacks")} == threats
    assert {plugins.threat(name) for name in plugins.names("attacks")} == set(plugins.THREATS) < set(results.THREATS)
    made_up_plugins.write(made_up / "attacks" / "odd.py", "THREAT = 'blackbox'\ndef attack(): ...")
    with pytest.raises(
        plugins.PluginError,
        match=r"^stages/attacks/odd.py: THREAT is 'blackbox', expected one of white_box, black_box, noise.$",
    ):
        plugins.threat("odd")


def test_the_norm_of_an_attack_is_one_that_has_budgets(made_up):
    assert [plugins.norm(name) for name in ("climb", "near")] == ["linf", "l2"]
    made_up_plugins.write(made_up / "attacks" / "odd.py", "NORM = 'l3'\ndef attack(): ...")
    with pytest.raises(
        plugins.PluginError, match=r"^stages/attacks/odd.py: NORM is 'l3', expected one of linf, l2, l1, l0, snr.$"
    ):
        plugins.norm("odd")


def test_an_attack_without_epsilons_looks_for_the_minimal_norm(made_up):
    assert [name for name in plugins.names("attacks") if plugins.is_minimal_norm(name)] == ["near"]


def test_knobs_are_the_keyword_only_parameters_beside_the_contract(made_up):
    fields = plugins.knobs("attacks", "climb").model_fields
    assert {name: field.default for name, field in fields.items()} == {
        "steps": 10,
        "restart": True,
        "stop_when_broken": False,
        "rate": -0.25,
        "norm": "linf",
    }
    assert plugins.knobs("schemes", "w8").model_fields == {}


def test_only_given_settings_come_back_and_epsilons_are_numbers(made_up):
    assert plugins.settings("attacks", "climb", {}) == {}
    assert plugins.settings("attacks", "climb", {"steps": 3, "rate": 1}) == {"steps": 3, "rate": 1.0}
    assert plugins.settings("defenses", "hard", {"epsilon": "8/255"}) == {"epsilon": 8 / 255}
    assert plugins.settings("defenses", "hard", {"epsilon": 1}) == {"epsilon": 1.0}


@pytest.mark.parametrize("steps", ["10", True, 10.0, None, [10]])
def test_what_is_no_integer_is_refused(made_up, steps):
    assert fault("attacks", "climb", {"steps": steps}) == ("int_type", ("steps",))


def test_impossible_and_unknown_and_missing_settings_are_refused(made_up):
    assert fault("attacks", "climb", {"steps": 0}) == ("greater_than_equal", ("steps",))
    assert fault("attacks", "climb", {"stepz": 1}) == ("extra_forbidden", ("stepz",))
    assert fault("attacks", "climb", {"restart": 1}) == ("bool_type", ("restart",))
    assert fault("attacks", "climb", {"norm": "l1"}) == ("literal_error", ("norm",))
    assert fault("attacks", "climb", {"rate": float("inf")}) == ("finite_number", ("rate",))
    assert fault("attacks", "climb", {"epsilons": [0.1]}) == ("extra_forbidden", ("epsilons",))
    assert fault("defenses", "hard", {}) == ("missing", ("epsilon",))


@pytest.mark.parametrize("epsilon", ["9/8", "8/0", "-1/255", "eight", -0.1, 1.5, float("nan"), True])
def test_impossible_epsilons_are_refused(made_up, epsilon):
    with pytest.raises(ValidationError):
        plugins.settings("defenses", "hard", {"epsilon": epsilon})


@pytest.mark.parametrize(
    "parameter, sentence",
    [
        ("steps", "steps is annotated with nothing, expected one of bool, .*Count"),
        ("steps: Cuont = 1", "steps is annotated with Cuont, expected one of bool, .*Count"),
        ("steps: Count = len('a')", r"the default of steps is len\('a'\), expected a literal"),
    ],
)
def test_a_bad_signature_is_refused_by_name(made_up, parameter, sentence):
    made_up_plugins.write(made_up / "attacks" / "odd.py", f"def attack(*, generator, {parameter}): ...")
    with pytest.raises(plugins.PluginError, match=f"stages/attacks/odd.py: {sentence}"):
        plugins.knobs("attacks", "odd")


def test_a_file_that_is_no_python_is_refused_with_its_line(made_up):
    made_up_plugins.write(made_up / "attacks" / "odd.py", "THREAT = 'noise'\ndef attack(:")
    with pytest.raises(plugins.PluginError, match=r"stages/attacks/odd.py: line 2: "):
        plugins.names("attacks")


def test_an_unknown_plugin_is_refused_with_those_that_there_are(made_up):
    with pytest.raises(
        plugins.PluginError, match=r"stages/attacks/result.py: is no plugin, expected one of ask, climb, near, noise"
    ):
        plugins.knobs("attacks", "result")


@pytest.mark.parametrize("kind", plugins.CONTRACTS)
def test_every_plugin_of_the_project_keeps_its_contract(kind):
    assert plugins.names(kind)
    for name in plugins.names(kind):
        module = import_module(f"stages.{kind}.{name}")
        (function,) = [getattr(module, each) for each in plugins.CONTRACTS[kind].functions if hasattr(module, each)]
        fields = plugins.knobs(kind, name).model_fields
        parameters = inspect.signature(function).parameters
        given = {field: info.default for field, info in fields.items() if not info.is_required()}
        assert given == {field: parameters[field].default for field in given}
        assert all(parameters[field].default is inspect.Parameter.empty for field in fields.keys() - given.keys())
        if len(given) == len(fields):
            assert plugins.settings(kind, name, given) == given


def test_a_budget_is_made_of_settings(made_up):
    made_up_plugins.write(made_up / "attacks" / "odd.py", "BUDGET = ('stepz',)\ndef attack(*, steps: int = 1): ...")
    with pytest.raises(plugins.PluginError, match=r"^stages/attacks/odd.py: BUDGET names 'stepz', expected one of its"):
        plugins.budget("odd")
    assert plugins.budget("climb") == ()
