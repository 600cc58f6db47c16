"""TFLite ``.tflite`` for LiteRT."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from edge_dp.bundle.manifest import Kernels
from edge_dp.converters.base import Converter, Source

_MOVES_DATA = frozenset({"RESHAPE", "TRANSPOSE", "PAD", "SLICE", "CONCATENATION", "DELEGATE", "QUANTIZE", "DEQUANTIZE"})


class _Named(nn.Module):
    """Gives inputs and outputs the model's names, which the converter writes into the file's signature."""

    def __init__(self, module: nn.Module, outputs: list[str]) -> None:
        super().__init__()
        self.module, self.outputs = module, outputs

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.outputs, self.module(*inputs.values()), strict=True))


class TFLiteConverter(Converter):
    """int8 (borders too) from the unfolded PT2E graph, fp32 from the float module."""

    format = "tflite"
    suffix = ".tflite"
    precisions: ClassVar = ("int8", "fp32")

    def _convert(self, source: Source, precision: str, path: Path) -> None:
        import litert_torch
        from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
        from litert_torch.quantize.quant_config import QuantConfig

        named = dict(zip(source.input_names, source.example, strict=True))
        if precision == "int8":
            # The quantiser passed here annotates nothing any more. Without it the converter takes the quantise nodes for
            # decoration and writes float convolutions between them.
            scheme = get_symmetric_quantization_config(is_per_channel=True)
            config = QuantConfig(pt2e_quantizer=PT2EQuantizer().set_global(scheme))
            module: nn.Module = _Named(source.unfolded, source.output_names)
            model = litert_torch.convert(module, sample_kwargs=named, quant_config=config, strict_export=False)
        else:
            module = _Named(source.module, source.output_names).eval()
            model = litert_torch.convert(module, sample_kwargs=named, strict_export=False)
        model.export(str(path))

    def _kernels(self, path: Path) -> Kernels:
        """From the file's operators and the types of their tensors, before any delegate takes them."""
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        interpreter = Interpreter(
            str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        )
        interpreter.allocate_tensors()
        types: dict[int, Any] = {detail["index"]: detail["dtype"] for detail in interpreter.get_tensor_details()}
        integer: Counter[str] = Counter()
        floating: Counter[str] = Counter()
        for operator in interpreter._get_ops_details():
            name = operator["op_name"]
            if name in _MOVES_DATA:
                continue
            outputs = {types.get(index) for index in operator["outputs"]}
            (integer if outputs <= {np.int8, np.int16, np.uint8} else floating)[name] += 1
        return Kernels(dict(integer), dict(floating))
