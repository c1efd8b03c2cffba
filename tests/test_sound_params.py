"""What a study of sound may ask for."""

from pathlib import Path

import pytest
import yaml

from stages.params import ParamsError, load_params
from stages.plan import tasks

ROOT = Path(__file__).parents[1]


@pytest.fixture
def load(tmp_path):
    """Load a study of sound after some changes of its sections."""

    def load(**changes):
        written = yaml.safe_load((ROOT / "studies/smoke/params.yaml").read_text())
        written["data"] |= {"validation": 300, "calibration": 100}
        written["grid"] |= {"datasets": ["speech_commands_test_split"], "models": ["dscnn"], "also": []}
        written["grid"] |= {"schemes": ["fp32", "int8"], "defenses": ["none"]}
        written["training"]["augmentation"] = {"crop_padding": 0, "horizontal_flip": False}
        written["report"]["quality_targets"] = {}
        for dotted, value in changes.items():
            *sections, key = dotted.split("__")
            section = written
            for name in sections:
                section = section[name]
            section[key] = value
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(written))
        return load_params(path)

    return load


SOUND = {"crop_padding": 0, "horizontal_flip": False, "time_shift": 100, "background_noise": 0.1}


def test_augmentation_of_sound_is_off_unless_asked_for(load):
    assert load().training.augmentation.time_shift == 0
    assert set(load().values["training"]["augmentation"]) == {"crop_padding", "horizontal_flip"}
    params = load(training__augmentation=SOUND)
    assert params.values["training"]["augmentation"] == SOUND
    assert tasks(params)


def test_validation_is_limited_by_the_datasets_own(load):
    assert load(data__validation=394)
    with pytest.raises(ParamsError, match=r"data\.validation: 395 should be at most 394, its own of 'speech"):
        load(data__validation=395)
    with pytest.raises(ParamsError, match=r"data\.calibration: 2950 should be at most 2949, the training images"):
        load(data__calibration=2950)


@pytest.mark.parametrize(
    ("dataset", "augmentation", "message"),
    [
        ("cifar10", SOUND, r"training\.augmentation\.time_shift: 100 should be 0, since 'cifar10' is no sound"),
        (
            "speech_commands_mfcc",
            SOUND,
            r"background_noise: 0\.1 should be 0, since 'speech_commands_mfcc' is no sound",
        ),
        ("speech_commands", SOUND | {"horizontal_flip": True}, r"horizontal_flip: true should be false, since 'speech"),
        ("speech_commands", SOUND | {"crop_padding": 1}, r"crop_padding: 1 should be at most 0, half the side"),
    ],
)
def test_augmentation_fits_the_dataset(load, dataset, augmentation, message):
    with pytest.raises(ParamsError, match=message):
        load(grid__datasets=[dataset], training__augmentation=augmentation)


def test_filters_of_images_do_not_filter_sound(load):
    with pytest.raises(ParamsError, match="'feature_squeezing' filters images, expected another defense on 'speech"):
        load(grid__defenses=["none", "feature_squeezing"])
    assert load(grid__defenses=["none", "feature_squeezing"], grid__datasets=["speech_commands_test_split_mfcc"])


def test_an_image_model_does_not_hear(load):
    with pytest.raises(
        ParamsError, match="'resnet8' does not fit 'speech_commands_test_split', whose inputs are 1x16000"
    ):
        load(grid__models=["resnet8"])


RATIOS = {
    "attacks": {"pgd_snr": {}, "noise_snr": {}},
    "evaluation__epsilons": {"snr": [20, 40]},
    "evaluation__headline_epsilon": {"snr": 40},
    "evaluation__transfer": ["pgd_snr"],
}


def test_budgets_of_sound_may_be_ratios(load):
    params = load(**RATIOS)
    (attack,) = [task.job for task in tasks(params) if task.job.name.endswith("dscnn-fp32-none-s0-pgd_snr")][:1]
    assert "evaluation.epsilons.snr" in attack.params


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluation__epsilons": {"snr": [0, 40]}}, r"epsilons\.snr\.0: 0 should be above 0, in dB"),
        (
            {"evaluation__epsilons": {"snr": [40, 20]}},
            r"epsilons\.snr: \[40, 20\] should be ascending",
        ),
        ({"grid__datasets": ["fashion_mnist"]}, r"epsilons\.snr: 'fashion_mnist' is no sound, whose ratio it is"),
    ],
)
def test_impossible_ratios_are_refused(load, changes, message):
    with pytest.raises(ParamsError, match=message):
        load(**(RATIOS | changes))


def test_budgets_in_linf_are_steps_of_16_bits(load):
    budgets = {"evaluation__headline_epsilon": {"linf": "8/65535"}, "attacks": {"noise": {}, "pgd": {}}}
    assert load(**budgets, evaluation__epsilons={"linf": ["8/65535", "8/255"]}, evaluation__transfer=[])
    with pytest.raises(ParamsError, match="should be a multiple of 1/65535, written like 8/65535"):
        load(**budgets, evaluation__epsilons={"linf": ["8/65535", 0.01]}, evaluation__transfer=[])
