"""Where the captures lie that tests, benchmarks and readers use. None of them comes with edge_dp."""

from __future__ import annotations

import os
from pathlib import Path

from edge_dp.errors import InputError


def data_root() -> Path | None:
    """The folder named by ``EDGE_DP_DATA``, else ``../shared/data`` beside the checkout, else None.

    Raises:
        InputError: ``EDGE_DP_DATA`` names no folder.
    """
    named = os.environ.get("EDGE_DP_DATA")
    if named:
        if not Path(named).is_dir():
            raise InputError(f"EDGE_DP_DATA: expected a folder, found none at {named}. Correct or unset the variable.")
        return Path(named)
    checkout = Path(__file__).resolve().parents[2]
    beside = checkout.parent / "shared" / "data"
    return beside if (checkout / "pyproject.toml").is_file() and beside.is_dir() else None
