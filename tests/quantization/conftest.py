"""Networks quantized once a session."""

import pytest

from tests.quantization.small_networks import quantized_case


@pytest.fixture(scope="session")
def cases():
    """`cases(model, scheme)`: a small network quantized and frozen, made once each."""
    made = {}

    def case(model, scheme):
        if (model, scheme) not in made:
            made[model, scheme] = quantized_case(model, scheme)
        return made[model, scheme]

    return case
