"""The Core ML package within a program's payload."""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory

from executorch.backends.apple.coreml import executorchcoreml

from edge_dp.converters.cards import CARD_KEY
from edge_dp.converters.coreml_package import save_package

_ROOT = "lowered_module"
_PACKAGE = "model.mlpackage"
_BORDER = "metadata.json"
"""Names of inputs and outputs, and the identifier under which a device keeps the compiled model."""


def unpack(payload: bytes, folder: Path) -> Path:
    """Write the package into ``folder``; where it lies."""
    executorchcoreml.unflatten_directory_contents(payload, str(folder))
    return folder / _ROOT / _PACKAGE


def settle_package(payload: bytes, card: str) -> bytes:
    """The same package with the card in its metadata, and without dates, random names and tables for debuggers.

    Its identifier follows from its content: a device keeps what it compiled under that name, so different models need
    different ones, and the same model none but its own.
    """
    import coremltools as ct

    with TemporaryDirectory() as before, TemporaryDirectory() as after:
        package = unpack(payload, Path(before))
        root = Path(after) / _ROOT
        root.mkdir()
        save_package(ct.models.MLModel(str(package), skip_model_load=True), root / _PACKAGE, {CARD_KEY: card})
        content = hashlib.sha256()
        for file in sorted(path for path in root.rglob("*") if path.is_file()):
            content.update(file.read_bytes())
        border = json.loads((package.parent / _BORDER).read_text(encoding="utf-8"))
        border["identifier"] = f"executorch_{uuid.uuid5(uuid.NAMESPACE_OID, content.hexdigest())}"
        (root / _BORDER).write_text(json.dumps(border), encoding="utf-8")
        return bytes(executorchcoreml.flatten_directory_contents(str(root)))
