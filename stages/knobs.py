"""Types of settings, for the signatures of plugins and for the models of params.yaml alike.

None of them converts, `true` and `"10"` are no numbers, but for an epsilon, which may be written as a fraction.
"""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

FULL_RANGE = 1.0  # the epsilon at which any input is allowed: a test of attacks, no budget of an attacker
FRACTION = re.compile(r"\s*(\d+)\s*/\s*(\d*[1-9]\d*)\s*")


def parse_fraction(value: Any) -> Any:
    """The number that a string like "8/255" stands for; anything else comes back as it is, for the type to judge."""
    match = FRACTION.fullmatch(value) if isinstance(value, str) else None
    return int(match[1]) / int(match[2]) if match else value


Count = Annotated[int, Field(ge=1, strict=True)]
NonNegativeInt = Annotated[int, Field(ge=0, strict=True)]
Positive = Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, strict=True, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, strict=True)]
Epsilon = Annotated[float, BeforeValidator(parse_fraction), Field(ge=0, le=1, strict=True)]
