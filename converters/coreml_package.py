"""How a converted model becomes a ``.mlpackage``: reproducible, and without what belongs to the machine that wrote it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_dp.runtime.engines.coreml import METADATA_OF_TOOL, MODEL

_MANIFEST = "Manifest.json"
_DEBUG = "executorch_debug_handle_mapping.json"
_CONVERSION_DATE = f"{METADATA_OF_TOOL}.conversion_date"


def save_package(model: Any, path: Path, metadata: Mapping[str, str]) -> None:
    """Write coremltools' ``model`` to ``path``: the same model gives the same bytes.

    coremltools adds a date, random identifiers of the package's items, and beside them a table from operations to nodes of
    the exported graph, which ExecuTorch's debugger reads from its own programs and nobody from a package. None of it is
    kept.

    Args:
        metadata: texts by key, for the model's user-defined metadata.
    """
    model.save(str(path))
    (path / _DEBUG).unlink(missing_ok=True)
    spec = model.get_spec()
    texts = spec.description.metadata.userDefined
    texts.pop(_CONVERSION_DATE, None)
    texts.update(metadata)
    place = path / MODEL
    place.unlink()  # coremltools makes it readable by its owner alone
    place.write_bytes(spec.SerializeToString(deterministic=True))
    _name_items(path / _MANIFEST)


def _name_items(path: Path) -> None:
    """Replace the random identifiers of a package's items by ones that follow from the items' paths."""
    manifest = json.loads(path.read_text(encoding="utf-8"))
    items = manifest["itemInfoEntries"]
    names = {old: str(uuid.uuid5(uuid.NAMESPACE_URL, item["path"])) for old, item in items.items()}
    manifest["itemInfoEntries"] = {names[old]: item for old, item in items.items()}
    manifest["rootModelIdentifier"] = names[manifest["rootModelIdentifier"]]
    path.write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n", encoding="utf-8")
