"""Fixtures of the converters' tests."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _few_objects_to_collect() -> Iterator[None]:
    """Conversions collect garbage often; walking all that torch allocated on import would take most of the time."""
    gc.freeze()
    yield
    gc.unfreeze()
