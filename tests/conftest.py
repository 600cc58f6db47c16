"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_dp.data import data_root as find_data_root


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real captures. Without it a test skips, or fails where EDGE_DP_NO_SKIP=1 forbids that."""
    root = find_data_root()
    if root is None:
        reason = "real captures are absent: EDGE_DP_DATA is unset and ../shared/data is not beside the checkout"
        if os.environ.get("EDGE_DP_NO_SKIP") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return root
