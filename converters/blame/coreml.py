"""Taps of a ``.mlpackage``: what its quantise operations give, or in a float program every operation, as more outputs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from edge_dp.converters.blame.taps import Tap, Tapped
from edge_dp.converters.coreml_program import is_unsigned
from edge_dp.quiet import quiet
from edge_dp.runtime.engines.base import Signature
from edge_dp.runtime.engines.coreml import MODEL, load_function

_UNSIGNED = 128
_FLOATS = ("fp16", "fp32")


def tap(artifact: Path, path: Path, signature: Signature) -> Tapped:
    """Write ``artifact`` to ``path`` with every activation as an output; Core ML's evaluator alone runs that.

    Raises:
        EngineError: the package is damaged.
    """
    from coremltools.converters.mil.mil import types
    from coremltools.proto import Model_pb2

    taps: list[Tap] = []
    operations = [operation for operation in load_function(artifact).operations if operation.op_type != "const"]
    quantise = [operation for operation in operations if operation.op_type == "quantize"]
    outputs = {name for name, _ in signature.outputs}
    for operation in quantise or operations:
        value = operation.outputs[0]
        if value.name in outputs or value.val is not None or (not quantise and not _is_float(value, types)):
            continue
        scale, zero_point, offset = None, 0, 0
        if quantise:
            offset = _UNSIGNED if is_unsigned(value) else 0
            stored = operation.zero_point
            scale, zero_point = float(operation.scale.val), (0 if stored is None else int(stored.val)) - offset
        taps.append(Tap(value.name, value.name, tuple(map(int, value.shape)), scale, zero_point, offset))
    shutil.copytree(artifact, path)
    with quiet():
        spec = Model_pb2.Model()
        spec.ParseFromString((path / MODEL).read_bytes())
        (block,) = spec.mlProgram.functions["main"].block_specializations.values()
        block.outputs.extend(tap.output for tap in taps)
        for entry in taps:
            feature = spec.description.output.add(name=entry.output)
            feature.type.multiArrayType.shape.extend(entry.shape)
            feature.type.multiArrayType.dataType = feature.type.multiArrayType.FLOAT32
        (path / MODEL).write_bytes(spec.SerializeToString())
    return Tapped.of(signature, taps)


def _is_float(value: Any, types: Any) -> bool:
    return types.builtin_to_string(value.dtype) in _FLOATS
