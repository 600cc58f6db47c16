"""edge_dp: distil, quantise, convert and prove dual-pixel networks for phones.

Importing this package is cheap on purpose: it needs neither torch nor any engine. ``export``, ``export_checkpoint``
and ``load`` are found on first use.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_dp._version import VERSION

if TYPE_CHECKING:
    from edge_dp.converters.export import export, export_checkpoint
    from edge_dp.runtime.predictor import load

__version__ = VERSION
__all__ = ["__version__", "export", "export_checkpoint", "load"]

# In a checkout the folders training/, converters/ and runtime/ stand beside this one. Adding their parent lets a machine
# that has only torch, numpy and OpenCV run the checkout as it stands; an installed package has them inside already.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "training" / "__init__.py").is_file():
    __path__.append(str(_checkout))

_LAZY = {
    "export": "edge_dp.converters.export",
    "export_checkpoint": "edge_dp.converters.export",
    "load": "edge_dp.runtime.predictor",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'edge_dp' has no attribute {name!r}")
