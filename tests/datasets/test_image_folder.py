import importlib.util
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from stages import prepare
from stages.artifacts.datasets import load_dataset
from stages.datasets import coffee_beans, imagenet
from stages.datasets.arrays import SourceError, digests
from stages.datasets.describe import describe, mean_and_std, shape_of
from stages.datasets.image_folder import read_folder, read_mirror

SHAPE = (3, 4, 5)
CLASSES = ("ripe", "unripe")
COUNTS = {"train": 12, "test": 6}
RNG = np.random.default_rng(0)
IMAGES = {
    f"{split}/{class_name}/{number}.png": RNG.integers(0, 256, (4, 5, 3), np.uint8)
    for split, count in COUNTS.items()
    for class_name in CLASSES
    for number in range(count // 2, 0, -1)
}


@pytest.fixture
def mirror(tmp_path):
    """A mirror with the folder `beans`, whose files are written in another order than the canonical one."""
    for name, image in IMAGES.items():
        path = tmp_path / "mirror" / "beans" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return tmp_path / "mirror"


@pytest.fixture
def folder(mirror):
    return mirror / "beans"


def refusal(folder):
    with pytest.raises(SourceError) as error:
        read_folder(folder, SHAPE, CLASSES)
    message = str(error.value)
    assert "expected" in message
    assert "\n" not in message
    return message


def assert_canonical(splits):
    assert list(splits) == ["train", "test"]
    for split, content in splits.items():
        names = sorted(name for name in IMAGES if name.startswith(split))
        assert content.labels.tolist() == [CLASSES.index(name.split("/")[1]) for name in names]
        assert (content.inputs == np.stack([IMAGES[name] for name in names]).transpose(0, 3, 1, 2)).all()


def test_images_are_read_in_canonical_order(folder):
    assert_canonical(read_folder(folder, SHAPE, CLASSES))


def test_labels_are_indices_into_the_classes_as_given(folder):
    split = read_folder(folder, SHAPE, CLASSES[::-1])["test"]
    assert split.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert (split.inputs[0].transpose(1, 2, 0) == IMAGES["test/unripe/1.png"]).all()


def test_hidden_files_and_other_folders_are_left_alone(folder):
    for name in (".DS_Store", "train/.DS_Store", "train/ripe/._1.png", "README.txt", "valid/ripe/1.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("no image")
    assert_canonical(read_folder(folder, SHAPE, CLASSES))


def test_missing_mirror_folder_split_and_class(mirror, folder):
    with pytest.raises(SourceError, match=r"^beans: cannot be downloaded, expected a folder in data\.mirror"):
        read_mirror(None, "beans", SHAPE, CLASSES, COUNTS)
    with pytest.raises(SourceError, match=f"^{mirror}/nuts/train: no such folder, expected a folder with one folder a"):
        read_mirror(mirror, "nuts", SHAPE, CLASSES, COUNTS)
    (folder / "test" / "ripe").rename(folder / "elsewhere")
    assert refusal(folder).startswith(f"{folder}/test/ripe: no such folder")


def test_empty_class(folder):
    (folder / "train" / "sour").mkdir()
    with pytest.raises(SourceError, match=f"^{folder}/train/sour: holds no images"):
        read_folder(folder, SHAPE, (*CLASSES, "sour"))


def test_unknown_class(folder):
    (folder / "train" / "sour").mkdir()
    assert refusal(folder) == f"{folder}/train/sour: is none of the classes, expected folders named ripe, unripe"


@pytest.mark.parametrize("name", ["notes.txt", "1.png.bak", "4.gif"])
def test_file_that_is_no_image(folder, name):
    (folder / "train" / "ripe" / name).write_text("no image")
    assert refusal(folder).startswith(f"{folder}/train/ripe/{name}: is no image file")


def test_folder_in_the_place_of_an_image(folder):
    (folder / "train" / "ripe" / "more.png").mkdir()
    assert refusal(folder).startswith(f"{folder}/train/ripe/more.png: is no image file")


@pytest.mark.parametrize("kept", [0, 20, -40])
def test_unreadable_image(folder, kept):
    path = folder / "test" / "unripe" / "2.png"
    path.write_bytes(path.read_bytes()[:kept])
    assert refusal(folder).startswith(f"{path}: the image cannot be decoded")


def test_nothing_is_resized(folder):
    path = folder / "test" / "unripe" / "2.png"
    Image.fromarray(IMAGES["test/ripe/1.png"][:, :4]).save(path)
    assert refusal(folder) == f"{path}: the image is RGB of 4 x 4 pixels, expected RGB of 5 x 4"


def test_counts_are_proven(mirror):
    with pytest.raises(SourceError, match=f"^{mirror}/beans/test: 6 images, expected 7$"):
        read_mirror(mirror, "beans", SHAPE, CLASSES, COUNTS | {"test": 7})


def test_digests_are_proven(mirror, folder, capsys):
    expected = {split: digests(content) for split, content in read_folder(folder, SHAPE, CLASSES).items()}
    assert_canonical(read_mirror(mirror, "beans", SHAPE, CLASSES, COUNTS, expected))
    assert capsys.readouterr().err == ""
    swapped = folder / "test" / "ripe" / "1.png"
    swapped.rename(folder / "test" / "ripe" / "9.png")
    with pytest.raises(SourceError, match=f"^{folder}/test: the images, .* expected {expected['test']}$"):
        read_mirror(mirror, "beans", SHAPE, CLASSES, COUNTS, expected)


def test_without_digests_it_is_said_which_they_are(mirror, capsys):
    splits = read_mirror(mirror, "beans", SHAPE, CLASSES, COUNTS)
    assert_canonical(splits)
    assert digests(splits["test"])["pixels"] in capsys.readouterr().err


def test_coffee_beans(tmp_path, monkeypatch):
    monkeypatch.setattr(coffee_beans, "COUNTS", {"train": 8, "test": 4})
    for split, count in (("train", 2), ("test", 1)):
        for label, class_name in enumerate(coffee_beans.CLASSES):
            folder = tmp_path / "coffee_beans" / split / class_name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (224, 224), (label, number, 0)).save(folder / f"{class_name} ({number}).png")
    splits = coffee_beans.load(tmp_path)
    assert splits["train"].inputs[:, :2, 0, 0].tolist() == [[label, number] for label in range(4) for number in (0, 1)]
    assert splits["test"].labels.tolist() == [0, 1, 2, 3]
    with pytest.raises(SourceError, match=r"^coffee_beans: cannot be downloaded"):
        coffee_beans.load()


def test_imagenet_has_any_number_of_images(tmp_path, monkeypatch, capsys):
    assert len(set(imagenet.CLASSES)) == 1000
    monkeypatch.setattr(imagenet, "CLASSES", imagenet.CLASSES[:2])
    for split, counts in (("train", (2, 1)), ("test", (1, 1))):
        for name, count in zip(imagenet.CLASSES, counts, strict=True):
            folder = tmp_path / "imagenet" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (224, 224), (number, 0, 0)).save(folder / f"{name}_{number}.png")
    splits = imagenet.load(tmp_path)
    assert (splits["train"].labels.tolist(), splits["test"].labels.tolist()) == ([0, 0, 1], [0, 1])
    assert "nothing proves that these are the images meant" in capsys.readouterr().err
    with pytest.raises(SourceError, match=r"^imagenet: cannot be downloaded"):
        imagenet.load()


def module_of(folder, tmp_path):
    """The module that `describe` writes, imported."""
    file = tmp_path / "beans.py"
    file.write_text(describe(folder))
    spec = importlib.util.spec_from_file_location("beans", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_described_folder_is_read_by_its_module(mirror, folder, tmp_path, capsys):
    module = module_of(folder, tmp_path)
    assert (module.INPUT_SHAPE, module.CLASSES, module.COUNTS) == (SHAPE, CLASSES, COUNTS)
    assert_canonical(module.load(mirror))
    assert capsys.readouterr().err == ""
    Image.fromarray(IMAGES["test/ripe/1.png"]).save(folder / "test" / "ripe" / "2.png")
    with pytest.raises(SourceError, match=f"^{folder}/test: the images"):
        module.load(mirror)


def test_mean_and_std_are_those_of_train(folder, tmp_path):
    module = module_of(folder, tmp_path)
    pixels = np.stack([image for name, image in IMAGES.items() if name.startswith("train")]).astype(float)
    assert tuple(np.round(pixels.mean(axis=(0, 1, 2))) / 255) == module.MEAN
    assert round(np.sqrt(pixels.var(axis=(0, 1, 2)).mean()) / 255, 3) == module.STD


def test_mean_and_std_of_grey_images():
    inputs = np.array([0, 255, 255, 255], np.uint8).reshape(4, 1, 1, 1)
    assert mean_and_std(inputs) == ((191,), 0.433)


def test_a_grey_folder_is_described(tmp_path):
    for split in ("train", "test"):
        folder = tmp_path / "grey_beans" / split / 'a "class"'
        folder.mkdir(parents=True)
        Image.fromarray(IMAGES["test/ripe/1.png"][..., 0]).save(folder / "1.png")
    module = module_of(tmp_path / "grey_beans", tmp_path)
    assert (module.INPUT_SHAPE, module.CLASSES) == ((1, 4, 5), ('a "class"',))
    assert len(module.load(tmp_path)["test"]) == 1


def test_images_that_cannot_be_described(folder, tmp_path):
    Image.new("RGBA", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(SourceError, match=f"^{tmp_path}/a.png: the image is RGBA, expected one of L, RGB$"):
        shape_of(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    with pytest.raises(SourceError, match=f"^{tmp_path}/b.png: the image cannot be read"):
        shape_of(tmp_path / "b.png")
    with pytest.raises(SourceError, match=r"is named 'my-Beans', expected lower-case letters"):
        describe(folder.rename(folder.with_name("my-Beans")))


def test_command(folder, tmp_path):
    command = [sys.executable, "-m", "stages.datasets.describe", str(folder)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == describe(folder)
    failed = subprocess.run([*command[:-1], str(tmp_path / "gone")], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr == f"error: {tmp_path}/gone/train: no such folder, expected a folder with one folder a class\n"


def test_a_described_folder_is_prepared(mirror, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "stages.datasets.beans", module_of(folder, tmp_path))
    params = SimpleNamespace(values={"data": {"mirror": str(mirror), "validation": 4, "calibration": 3}})
    outputs = SimpleNamespace(path=lambda product: tmp_path / product.rpartition("/")[2])
    prepare.run(SimpleNamespace(dataset="beans"), params, outputs)
    dataset = load_dataset(tmp_path / "beans.safetensors")
    assert (dataset.name, dataset.input_shape, dataset.classes) == ("beans", SHAPE, CLASSES)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 8, "val": 4, "test": 6}
    test = read_folder(folder, SHAPE, CLASSES)["test"]
    assert (dataset.test.inputs == test.inputs).all()
    assert json.loads((tmp_path / "beans.json").read_text())["digests"]["test"] == digests(test)
