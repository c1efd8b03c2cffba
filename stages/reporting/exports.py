"""What the page says of exported networks."""

from dataclasses import dataclass

import pandas as pd

from stages.metrics.exports import AGREEMENT
from stages.metrics.results import variant_names

MOST_LISTED = 50  # disagreements on the page; the table has all of them


@dataclass(frozen=True)
class Exports:
    """The tables of `stages.metrics.exports`."""

    networks: pd.DataFrame
    disagreements: pd.DataFrame

    @property
    def agree(self) -> bool:
        """Whether all exported networks are what was evaluated."""
        return bool(self.networks["agrees"].all())

    @property
    def sentence(self) -> str:
        """That all exported networks are what was evaluated, or which are not."""
        least = f"{100 * AGREEMENT:g} %"
        if self.agree:
            return f"Each exported network predicts the same class on at least {least} of the test inputs."
        names = ", ".join(variant_names(self.networks[~self.networks["agrees"]]))
        return f"Not the networks that were evaluated, as less than {least} of the predictions are the same: {names}."

    @property
    def rows(self) -> list[dict[str, str]]:
        """What the page's table shows of each network."""
        names = variant_names(self.networks)
        return [
            {
                "file": f"data/exported/{name}.onnx",
                "bytes": f"{row.bytes:,}",
                "opset": str(row.opset),
                "n": f"{row.n:,}",
                "agreement": f"{100 * row.agreement:.2f} %",
                "agrees": row.agrees,
            }
            for name, row in zip(names, self.networks.itertuples(), strict=True)
        ]

    @property
    def listed(self) -> list[dict[str, str]]:
        """The first disagreements."""
        shown = self.disagreements.head(MOST_LISTED)
        return [
            {
                "network": name,
                "sample": str(row.sample),
                "frozen": f"{row.frozen} ({row.frozen_margin:.3g})",
                "exported": f"{row.exported} ({row.exported_margin:.3g})",
            }
            for name, row in zip(variant_names(shown), shown.itertuples(), strict=True)
        ]

    @property
    def unlisted(self) -> int:
        """How many more there are in the table alone."""
        return max(len(self.disagreements) - MOST_LISTED, 0)
