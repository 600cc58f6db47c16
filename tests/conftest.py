"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest
from filelock import FileLock
from hypothesis import settings

import edge_dp
from edge_dp.bundle.manifest import MANIFEST, Bundle, read_bundle
from edge_dp.data import data_root as find_data_root

# A loaded machine is slow, not wrong; and CI tries the same examples each time, so that a change is judged by itself.
settings.register_profile("edge_dp", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("edge_dp")


def missing(reason: str) -> NoReturn:
    """Skip because a part is missing on this machine; fail where EDGE_DP_NO_SKIP=1 forbids that, as CI does."""
    if os.environ.get("EDGE_DP_NO_SKIP") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real captures."""
    root = find_data_root()
    if root is None:
        missing("real captures are absent: EDGE_DP_DATA is unset and ../shared/data is not beside the checkout")
    return root


@pytest.fixture(scope="session")
def chromedriver() -> str:
    """Path of chromedriver, which opens pages in Chromium."""
    if absent := [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]:
        missing(f"no browser to open the page in: {' and '.join(absent)} not found (.ci/apt-packages.txt)")
    return str(shutil.which("chromedriver"))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The shipped student's bundle with every artifact, exported once for all test processes. Do not write into it."""
    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent
    folder = shared / "shipped_bundle"
    with FileLock(shared / "shipped_bundle.lock"):
        if not (folder / MANIFEST).is_file():
            edge_dp.export_checkpoint("dp_disparity_s", folder)
    return read_bundle(folder)
