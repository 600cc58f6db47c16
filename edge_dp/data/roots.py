"""Where the captures lie that tests, benchmarks and readers use. None of them comes with edge_dp."""

from __future__ import annotations

import os
from pathlib import Path

from edge_dp.errors import InputError


def data_root() -> Path | None:
    """The folder named by ``EDGE_DP_DATA``, else ``../shared/data`` beside the checkout, else None.

    The checkout is the working directory, where that is one, else the one that this module lies in.

    Raises:
        InputError: ``EDGE_DP_DATA`` names no folder.
    """
    named = os.environ.get("EDGE_DP_DATA")
    if named:
        if not Path(named).is_dir():
            raise InputError(f"EDGE_DP_DATA: expected a folder, found none at {named}. Correct or unset the variable.")
        return Path(named)
    for checkout in (Path.cwd(), Path(__file__).resolve().parents[2]):
        beside = checkout.parent / "shared" / "data"
        if (checkout / "pyproject.toml").is_file() and beside.is_dir():
            return beside
    return None
