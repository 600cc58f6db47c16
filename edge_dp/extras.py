"""Optional dependencies: whether they are here, without importing them."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec


def needs(*modules: str) -> Callable[[], str | None]:
    """A function that says in words which of ``modules`` are not installed, or None where all are."""

    def why_not() -> str | None:
        missing = [module for module in modules if find_spec(module) is None]
        return f"{', '.join(missing)} not installed" if missing else None

    return why_not
