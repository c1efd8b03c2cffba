import base64
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from stages.reporting.examples import ShownSet, chart, choose, png, strip
from stages.reporting.figures import svg

EPSILON = 8 / 255
CLASSES = ["cat", "dog"]


@pytest.fixture
def images():
    return np.full((6, 1, 4, 4), 100, dtype=np.uint8)


@pytest.fixture
def labels():
    return np.array([0, 0, 1, 1, 0, 1])


def shown_set(images, scheme="int8"):
    """Samples 1 to 5, each 8 steps brighter."""
    samples = np.arange(1, 6)
    inputs = (images[samples] / 255 + EPSILON).astype(np.float32)
    return ShownSet(scheme, "none", "pgd", "linf", EPSILON, samples, inputs)


def scores(labels, clean_mistakes=(), attack_failures=(), scheme="int8"):
    rows = []
    for sample, label in enumerate(labels):
        clean = sample not in clean_mistakes
        rows.append((scheme, "none", "clean", "clean", 0.0, sample, label if clean else 1 - label, clean))
        robust = sample in attack_failures
        rows.append((scheme, "none", "white_box", "pgd", EPSILON, sample, label if robust else 1 - label, robust))
        rows.append((scheme, "none", "transfer", "pgd", EPSILON, sample, label, True))
    columns = ["scheme", "defense", "threat", "attack", "epsilon", "sample", "prediction", "correct"]
    return pd.DataFrame(rows, columns=columns)


def pixels(uri):
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)))


def test_png_keeps_pixels():
    gray = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    colour = np.arange(18, dtype=np.uint8).reshape(3, 2, 3)
    np.testing.assert_array_equal(pixels(png(gray)), gray[0])
    np.testing.assert_array_equal(pixels(png(colour)), colour.transpose(1, 2, 0))
    two_channels = np.stack([np.full((2, 2), 10), np.full((2, 2), 20)]).astype(np.uint8)
    assert (pixels(png(two_channels)) == 15).all()


def test_the_first_correct_image_of_each_class_comes_first(images, labels):
    sets = [shown_set(images)]
    assert choose(sets, labels, scores(labels), 2) == [1, 2]
    assert choose(sets, labels, scores(labels, clean_mistakes=[1]), 2) == [2, 4]
    assert choose(sets, labels, scores(labels), 3) == [1, 2, 3]
    assert choose(sets, labels, scores(labels), 99) == [1, 2, 3, 4, 5]


def test_whether_the_attack_succeeded_has_no_say_in_the_choice(images, labels):
    assert choose([shown_set(images)], labels, scores(labels, attack_failures=[1, 2]), 2) == [1, 2]


def test_an_image_that_one_network_misreads_is_not_shown(images, labels):
    both = pd.concat([scores(labels), scores(labels, clean_mistakes=[2, 3], scheme="w4a4")])
    assert choose([shown_set(images), shown_set(images, "w4a4")], labels, both, 2) == [1, 5]


def test_rows_show_true_labels_white_box_predictions_and_magnified_differences(images, labels):
    original, attacked, difference = strip([shown_set(images)], images, labels, CLASSES, scores(labels, (), [2]), 2)
    assert [picture.text for picture in original.pictures] == ["cat", "dog"]
    assert [(picture.text, picture.correct) for picture in attacked.pictures] == [("dog", False), ("dog", True)]
    assert (pixels(attacked.pictures[0].uri) == 108).all()
    assert (pixels(difference.pictures[0].uri) == 255).all()  # a change by the whole epsilon is white
    assert difference.detail == "magnified 16 times"
    assert attacked.detail == "epsilon 8/255, predicted label"


@pytest.mark.parametrize(("norm", "epsilon", "told"), [("l2", 0.5, "L2 epsilon 0.5"), ("l0", 9, "L0 epsilon 9 values")])
def test_outside_linf_differences_are_magnified_by_the_largest_change(images, labels, norm, epsilon, told):
    samples = np.arange(6)
    inputs = (images / 255).astype(np.float32)
    inputs[1] += 0.125
    inputs[2] -= 0.25
    inputs[3] += 0.5  # not among the two that are shown
    crafted = ShownSet("int8", "none", "pgd", norm, epsilon, samples, inputs)
    table = scores(labels, clean_mistakes=[0]).replace({"epsilon": {EPSILON: epsilon}})
    _, attacked, difference = strip([crafted], images, labels, CLASSES, table, 2)
    assert attacked.detail == f"{told}, predicted label"
    assert difference.detail == "magnified 2 times"
    assert [int(pixels(picture.uri)[0, 0]) for picture in difference.pictures] == [191, 0]


def test_a_change_of_the_whole_range_is_scaled_down(images, labels):
    inputs = (images / 255).astype(np.float32)
    inputs[:, :, 0, 0] = 0
    black = ShownSet("int8", "none", "pgd", "l0", 1, np.arange(6), inputs)
    table = scores(labels).replace({"epsilon": {EPSILON: 1}})
    assert strip([black], np.full_like(images, 255), labels, CLASSES, table, 1)[2].detail == "scaled by 0.5"


def test_no_change_is_middle_gray(images, labels):
    unchanged = ShownSet("int8", "none", "pgd", "linf", 0.0, np.arange(6), (images / 255).astype(np.float32))
    no_attack = scores(labels).replace({"epsilon": {EPSILON: 0.0}})
    assert (pixels(strip([unchanged], images, labels, CLASSES, no_attack, 1)[2].pictures[0].uri) == 128).all()


def test_without_sets_or_common_correct_images_there_is_no_strip(images, labels):
    assert strip([], images, labels, CLASSES, scores(labels), 2) == []
    assert strip([shown_set(images)], images, labels, CLASSES, scores(labels, range(6)), 2) == []
    assert chart([]) is None


def test_the_file_holds_every_picture_and_label(images, labels):
    rows = strip([shown_set(images)], images, labels, CLASSES, scores(labels), 2)
    drawn = svg([("", chart(rows))], "Nothing.")
    assert drawn.count("<image ") == 6
    assert drawn.count(">cat<") == 2
    assert drawn == svg([("", chart(rows))], "Nothing.")
