"""Tables of what quantized networks were exported to, and of each sample on which the two differ."""

from collections.abc import Iterable

import pandas as pd

from stages.metrics.cells import VARIANT

AGREEMENT = 0.999  # the least share of test samples of which an exported network has to predict the same class
FACTS = ["opset", "bytes", "n", "agreement"]
DISAGREEMENT = ["sample", "frozen", "exported", "frozen_margin", "exported_margin"]


def exports_table(exports: Iterable[dict]) -> pd.DataFrame:
    """One row an exported network, from the JSON files of exports.

    `opset` is the version of ONNX's operators, `bytes` the file's size, `agreement` the share in [0,1] of `n` test
    samples of which both networks predict the same class, `agrees` whether that is enough.
    """
    rows = [
        export["variant"]
        | {fact: export[fact] for fact in FACTS}
        | {"disagreements": len(export["disagreements"]), "agrees": export["agreement"] >= AGREEMENT}
        for export in exports
    ]
    columns = [*VARIANT, *FACTS, "disagreements", "agrees"]
    return pd.DataFrame(rows, columns=columns).sort_values(VARIANT, ignore_index=True)


def disagreements_table(exports: Iterable[dict]) -> pd.DataFrame:
    """One row a test sample of which an exported network predicts another class than the frozen one.

    `sample` is its index into the test samples, `frozen` and `exported` are the classes' numbers, and margins the
    differences of the two largest logits.
    """
    rows = [export["variant"] | row for export in exports for row in export["disagreements"]]
    return pd.DataFrame(rows, columns=[*VARIANT, *DISAGREEMENT]).sort_values([*VARIANT, "sample"], ignore_index=True)
