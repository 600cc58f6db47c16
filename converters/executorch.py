"""ExecuTorch ``.pte`` for XNNPACK, the CPU kernels of phones."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import ClassVar

import torch

from edge_dp.bundle.manifest import Kernels
from edge_dp.converters.base import Converter, Source
from edge_dp.errors import ExportError


class ExecuTorchConverter(Converter):
    """int8 from the folded PT2E graph, fp32 from the float module."""

    format = "executorch"
    suffix = ".pte"
    precisions: ClassVar = ("int8", "fp32")

    def _convert(self, source: Source, precision: str, path: Path) -> None:
        from executorch.exir import to_edge_transform_and_lower

        from edge_dp.converters.xnnpack_bilinear import integer_partitioner

        module = source.folded if precision == "int8" else source.module
        program = torch.export.export(module, source.example, strict=True)
        lowered = to_edge_transform_and_lower(program, partitioner=[integer_partitioner()])
        path.write_bytes(lowered.to_executorch().buffer)

    def _kernels(self, path: Path) -> Kernels:
        """From the profile of one run.

        XNNPACK names convolutions and matrix products with their data types, additions and resizings without. The latter work
        on what the former leave, in integers, unless conversions stand between them: an integer program converts each input
        and output once and nothing else.
        """
        names, native, borders = _profile(path)
        conversions = sum(name.startswith("Convert") for name in names)
        typed_integer = any(_INTEGER.search(name) for name in names)
        integer: Counter[str] = Counter()
        floating: Counter[str] = Counter(native)
        for name in names:
            if name.startswith(_MOVES_DATA):
                continue
            untyped_integer = typed_integer and conversions <= borders and not _FLOATING.search(name)
            (integer if _INTEGER.search(name) or untyped_integer else floating)[name] += 1
        return Kernels(dict(integer), dict(floating))


_INTEGER = re.compile(r"\b(QC8|QS8|QU8|QD8)\b")
_FLOATING = re.compile(r"\bF(16|32)\b")
_MOVES_DATA = ("Convert", "Transpose", "Copy")


def _profile(path: Path) -> tuple[list[str], list[str], int]:
    """Kernels that XNNPACK ran, operations that it did not take, and how many inputs and outputs the program has."""
    import executorch.kernels.quantized  # noqa: F401  # registers the quantise operations at a program's border
    from executorch.devtools import Inspector
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(path, enable_etdump=True, debug_buffer_size=0)
    method = program.load_method("forward")
    if method is None:
        raise ExportError(f"{path}: has no method 'forward'")
    metadata = method.metadata
    method.execute([torch.zeros(metadata.input_tensor_meta(i).sizes()) for i in range(metadata.num_inputs())])
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "etdump.bin"
        program.write_etdump_result_to_file(str(trace), str(Path(folder) / "debug.bin"))
        events = [event for block in Inspector(etdump_path=str(trace)).event_blocks for event in block.events]
    delegated = [re.sub(r" #\d+$", "", event.name) for event in events if event.is_delegated_op]
    native = [event.name.removeprefix("native_call_") for event in events if event.name.startswith("native_call_")]
    return delegated, native, metadata.num_inputs() + metadata.num_outputs()
