"""What all tests share: the order of their files, and the state that random numbers start from."""

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of few but long tests go first: at the end one process would run them, and the others would be idle."""

    def is_long(item: pytest.Item) -> bool:
        return item.get_closest_marker("workflow") is not None or item.path.name == "test_imagenet_study.py"

    items.sort(key=is_long, reverse=True)  # a stable sort, which keeps a file's tests together


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Random numbers without a generator of their own do not depend on which tests ran before."""
    torch.manual_seed(1234)  # no seed of the tests' generators, whose draws would be the same numbers
