"""A small folder of plugins that import what is not there: whoever reads them must not run them."""

from pathlib import Path

import pytest

from stages import plugins

FILES = {
    "datasets/digits.py": """
        INPUT_SHAPE = (1, 16, 12)
        MEAN = (73 / 255,)
        CLASSES = ("odd", "even")
        COUNTS = {"train": 100, "test": 40}
        def load(mirror): ...
    """,
    "datasets/towers.py": "INPUT_SHAPE = (1, 32, 12)\ndef load(mirror): ...",
    "datasets/tones.py": "INPUT_SHAPE = (49, 10)\ndef load(mirror): ...",
    "models/small.py": "MIN_SIZE = (8, 8)\ndef network(layers, input_shape, num_classes): ...",
    "models/tall.py": "MIN_SIZE = (17, 1)\ndef network(layers, input_shape, num_classes): ...",
    "models/layers.py": "class Convolution: ...",
    "schemes/w4.py": """
        from no_such_library import quantizer
        from stages.knobs import Count
        def quantize(network, calibration, fine_tune, *, epochs: Count = 4): ...
    """,
    "schemes/w8.py": "def quantize(network, calibration, fine_tune): ...",
    "defenses/none.py": "def loss(network, inputs, labels, *, generator): ...",
    "defenses/hard.py": """
        from stages.knobs import Epsilon
        def loss(network, inputs, labels, *, generator, epsilon: Epsilon, steps: "Count" = 1): ...
    """,
    "attacks/noise.py": """
        NORM = "linf"
        THREAT = "noise"
        ITERATIVE = False
        def attack(classifier, inputs, labels, *, epsilons, generator): ...
    """,
    "attacks/climb.py": """
        NORM = "linf"
        THREAT = "white_box"
        ITERATIVE = True
        STEPS = 2 * 5
        def attack(
            classifier, inputs, labels, *, epsilons, generator,
            steps: Count = STEPS, restart: bool = True, stop_when_broken: bool = False,
            rate: float = -1 / 4, norm: Literal["l2", "linf"] = "linf",
        ): ...
    """,
    "attacks/ask.py": """
        NORM = "linf"
        THREAT = "black_box"
        ITERATIVE = False
        def attack(classifier, inputs, labels, *, epsilons, generator, queries: Count = 100): ...
    """,
    "attacks/near.py": """
        NORM = "l2"
        THREAT = "white_box"
        ITERATIVE = True
        def attack(classifier, inputs, labels, *, generator, steps: Count = 10): ...
    """,
    "attacks/result.py": "def judged(classifier): ...",
    "claims/paper.py": "def claims(evidence): ...",
    "claims/claim.py": "class Claim: ...",
}


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the plugins in `folder`/stages the ones that `stages.plugins` finds."""
    stages = folder / "stages"
    for name, text in FILES.items():
        write(stages / name, text)
    monkeypatch.setattr(plugins, "STAGES", stages)
    return stages


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = text.splitlines()
    indent = "        " if lines and not lines[0] else ""
    file.write_text("\n".join(line.removeprefix(indent) for line in lines) + "\n")
