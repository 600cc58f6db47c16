"""Readers of the card that an artifact carries in its metadata, by format. A toolchain is imported when its card is read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from edge_dp.bundle.check import CardReader
from edge_dp.errors import EdgeDpError, InputError, MissingExtraError
from edge_dp.quiet import quiet

CARD_KEY = "edge_dp"
"""Under which artifacts carry their card."""


def card_readers() -> dict[str, CardReader]:
    """Readers by format, for ``check_bundle``."""
    return {name: partial(_read, name) for name in _READERS}


def _read(format_name: str, path: Path) -> str | None:
    try:
        with quiet():
            return _READERS[format_name](path)
    except EdgeDpError:
        raise
    except ImportError as error:
        raise MissingExtraError(f"{error}: pip install 'edge-dp[{format_name}]'") from error
    except Exception as error:  # a toolchain's parser raises anything
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path}: card: expected a readable {format_name} artifact, found: {words}") from error


def _coreml(path: Path) -> str | None:
    from edge_dp.runtime.engines.coreml import read_metadata

    return read_metadata(path).get(CARD_KEY)


def _onnx(path: Path) -> str | None:
    import onnx

    model = onnx.load(path, load_external_data=False)
    return next((entry.value for entry in model.metadata_props if entry.key == CARD_KEY), None)


def _tflite(path: Path) -> str | None:
    from edge_dp.converters.tflite_file import read_metadata

    return read_metadata(path, CARD_KEY)


def _executorch(path: Path) -> str | None:
    from edge_dp.converters.executorch_program import read_card

    return read_card(path)


_READERS: dict[str, Callable[[Path], str | None]] = {
    "coreml": _coreml,
    "executorch": _executorch,
    "onnx": _onnx,
    "tflite": _tflite,
}
