"""The strip of clean and adversarial images, or clips of sound, with their labels and predictions."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt
import numpy as np
import pandas as pd
from PIL import Image

from stages.datasets.arrays import fractions
from stages.datasets.levels import LEVELS, SOUND_LEVELS, levels_of
from stages.metrics.results import at_epsilon
from stages.reporting.figures import LETTER, variant_label
from stages.reporting.sizes import budget_label
from stages.reporting.sound import wav

FILE_IMAGE_SIZE = 64  # pixels, in the file; the page has its own
WRONG = "#b3261e"  # the colour of a wrong prediction


@dataclass(frozen=True)
class ShownSet:
    """What one attack made of the test inputs `samples` [N] at one epsilon: `inputs` [N, C, H, W] in [0,1]."""

    scheme: str
    defense: str
    attack: str
    norm: str
    epsilon: float
    samples: np.ndarray
    inputs: np.ndarray


@dataclass(frozen=True)
class Picture:
    """One image of the strip: a PNG as data URI, its text, and whether that is a right prediction (None: is none).

    A clip of sound is a WAV file instead, with the same beside it.
    """

    uri: str
    text: str
    correct: bool | None

    @property
    def is_sound(self) -> bool:
        return self.uri.startswith("data:audio/")


@dataclass(frozen=True)
class Row:
    """One row of the strip, a picture a sample."""

    title: str
    detail: str
    pictures: list[Picture]


def strip(
    sets: list[ShownSet],
    images: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    scores: pd.DataFrame,
    count: int,
) -> list[Row]:
    """Rows of originals, then for each set its adversarial images and their differences from the originals.

    `images` are the test inputs, uint8 or int16 [N, C, H, W], `labels` [N] their classes, `scores` those of the sets'
    dataset, model and seed. Empty without sets, and where the networks classify no common image correctly.
    """
    if not sets:
        return []
    shown = choose(sets, labels, scores, count)
    if not shown:
        return []
    rows = [
        Row(
            "Original",
            "true label",
            [Picture(encoded(fractions(images[sample])), classes[labels[sample]], None) for sample in shown],
        )
    ]
    for adversarial in sets:
        rows += _rows_of(adversarial, shown, images, classes, scores)
    return rows


def choose(sets: list[ShownSet], labels: np.ndarray, scores: pd.DataFrame, count: int) -> list[int]:
    """The test images shown: in their order, of each class the first that all networks classify correctly when clean.

    More follow in the same way where there are fewer classes than `count`. Whether an attack succeeded has no say.
    """
    clean = scores[(scores["threat"] == "clean") & scores["correct"]]
    common = set.intersection(*(set(adversarial.samples.tolist()) for adversarial in sets))
    for adversarial in sets:
        common &= set(_of(clean, adversarial)["sample"])
    samples = pd.Series(sorted(common), dtype=int)
    turn = samples.groupby(labels[samples]).cumcount()
    return sorted(samples[turn.sort_values(kind="stable").index[:count]].tolist())


def _rows_of(adversarial, shown, images, classes, scores) -> list[Row]:
    scores = _of(scores, adversarial)
    replayed_elsewhere = scores["threat"] == "transfer"
    attacked = at_epsilon(scores[(scores["attack"] == adversarial.attack) & ~replayed_elsewhere], adversarial.epsilon)
    attacked = attacked.set_index("sample")
    position = {sample: index for index, sample in enumerate(adversarial.samples.tolist())}
    inputs = adversarial.inputs[[position[sample] for sample in shown]]
    changes = inputs - fractions(images[shown])
    # Only in Linf does epsilon say how large the change of a value can be.
    largest = adversarial.epsilon if adversarial.norm == "linf" else np.abs(changes).max()
    # Where nothing changed there is still a difference to show: none.
    span = 2 * max(largest, 1 / levels_of(images.shape[1:]))
    outcomes = attacked.loc[shown]
    made = [
        Picture(encoded(crafted), classes[prediction], bool(correct))
        for crafted, prediction, correct in zip(inputs, outcomes["prediction"], outcomes["correct"], strict=True)
    ]
    differences = [Picture(encoded(0.5 + change / span), "", None) for change in changes]
    name = variant_label(adversarial.scheme, adversarial.defense)
    budget = budget_label(adversarial.epsilon, adversarial.norm)
    return [
        Row(f"{adversarial.attack} on {name}", f"{budget}, predicted label", made),
        Row(f"Difference on {name}", _magnification(1 / span), differences),
    ]


def _magnification(factor: float) -> str:
    return f"magnified {factor:.0f} times" if factor >= 1.5 else f"scaled by {factor:.2g}"


def _of(scores: pd.DataFrame, adversarial: ShownSet) -> pd.DataFrame:
    return scores[(scores["scheme"] == adversarial.scheme) & (scores["defense"] == adversarial.defense)]


def encoded(inputs: np.ndarray) -> str:
    """A data URI of one input [C, H, W] in [0,1], which is an image or sound."""
    values = np.clip(inputs, 0, 1)
    if levels_of(inputs.shape) == SOUND_LEVELS:
        return wav((np.round(SOUND_LEVELS * values) - 2**15).ravel().astype(np.int16))
    return png(np.round(LEVELS * values).astype(np.uint8))


def png(image: np.ndarray) -> str:
    """A data URI of an image, uint8 [C, H, W]; other than three channels are averaged to gray."""
    pixels = image.transpose(1, 2, 0) if len(image) == 3 else image.mean(axis=0).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def chart(rows: list[Row]) -> alt.LayerChart | None:
    """The strip as a chart, for the file; None without rows, and of sound, which only a page can play."""
    if not rows or any(picture.is_sound for row in rows for picture in row.pictures):
        return None
    titles = [f"{row.title}\n{row.detail}" for row in rows]
    cells = [
        {"row": title, "column": column, "uri": picture.uri, "text": picture.text, "wrong": picture.correct is False}
        for title, row in zip(titles, rows, strict=True)
        for column, picture in enumerate(row.pictures)
    ]
    # The longest line has room in a font that is wider than the one that it is measured in.
    widest = LETTER * max(len(line) for title in titles for line in title.split("\n"))
    lines = alt.Axis(labelExpr="split(datum.value, '\\n')", labelLimit=320, minExtent=widest, domain=False, ticks=False)
    base = alt.Chart().encode(x=alt.X("column:O", axis=None), y=alt.Y("row:N", sort=titles, title=None, axis=lines))
    labels = base.mark_text(dy=FILE_IMAGE_SIZE / 2 + 11).encode(
        text="text:N",
        color=alt.condition("datum.wrong", alt.value(WRONG), alt.value(alt.ExprRef("ink"))),
    )
    images = base.mark_image(width=FILE_IMAGE_SIZE, height=FILE_IMAGE_SIZE).encode(url="uri:N")
    step = alt.Step(FILE_IMAGE_SIZE + 26)
    return alt.layer(images, labels, data=alt.Data(values=cells)).properties(width=step, height=step)
