"""Core ML ``.mlpackage``, a MIL program for iOS 17."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import torch

from edge_dp.bundle.manifest import Kernels
from edge_dp.converters.base import Converter, Source
from edge_dp.runtime.engines.coreml import load_function

_ARITHMETIC = frozenset({"conv", "conv_transpose", "linear", "matmul", "add", "sub", "mul", "upsample_bilinear"})


class CoreMLConverter(Converter):
    """W8A8 from the folded PT2E graph, fp16 from the float module; both compute in half where they do not in int8."""

    format = "coreml"
    suffix = ".mlpackage"
    precisions: ClassVar = ("w8a8", "fp16")

    def _convert(self, source: Source, precision: str, path: Path) -> None:
        import coremltools

        module = source.folded if precision == "w8a8" else source.module
        # Core ML refuses the training dialect that torch.export gives; the empty table of decompositions turns it into ATen.
        program = torch.export.export(module, source.example, strict=True).run_decompositions({})
        model = coremltools.convert(
            program,
            outputs=[coremltools.TensorType(name=name) for name in source.output_names],
            minimum_deployment_target=coremltools.target.iOS17,
            compute_precision=coremltools.precision.FLOAT16,
        )
        model.save(str(path))

    def _kernels(self, path: Path) -> Kernels:
        """An operation can run in int8 where all its data comes from ``dequantize`` and all of it goes to ``quantize``.

        Whether the Neural Engine takes that offer is not known here. The program can only be read for what it offers.
        """
        integer: Counter[str] = Counter()
        floating: Counter[str] = Counter()
        for operation in load_function(path).operations:
            if operation.op_type not in _ARITHMETIC:
                continue
            quantised = all(_from_integers(operation.inputs.get(name)) for name in ("x", "y", "weight"))
            (integer if quantised and _to_integers(operation) else floating)[operation.op_type] += 1
        return Kernels(dict(integer), dict(floating))


def _from_integers(value: Any) -> bool:
    return value is None or (value.op is not None and value.op.op_type in ("dequantize", "constexpr_affine_dequantize"))


def _to_integers(operation: Any) -> bool:
    users = operation.outputs[0].child_ops
    return all(user.op_type == "quantize" or (user.op_type == "relu" and _to_integers(user)) for user in users)
