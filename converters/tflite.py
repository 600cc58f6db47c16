"""TFLite ``.tflite`` for LiteRT."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edge_dp.bundle.manifest import Kernels
from edge_dp.converters.base import Converter, Quantisation, Source
from edge_dp.converters.cards import CARD_KEY
from edge_dp.converters.configs import FormatConfig, TFLiteConfig
from edge_dp.converters.tflite_file import Operator, TFLiteFile
from edge_dp.converters.tflite_graph import clamp_limits, for_litert, needs_edit, transposed_weights
from edge_dp.converters.tflite_integer import (
    flat_biases,
    lone_clamps,
    mixed_widths,
    nearest_upsampling,
    paddings,
    strided_slices,
    transposed_convolutions,
)
from edge_dp.converters.tflite_precision import float_border, half_weights, int16_activations

_MOVES_DATA = frozenset(
    {
        "CONCATENATION",
        "DEQUANTIZE",
        "PAD",
        "PADV2",
        "RESHAPE",
        "RESIZE_NEAREST_NEIGHBOR",
        "SLICE",
        "STRIDED_SLICE",
        "TRANSPOSE",
    }
)
_INTEGERS = {np.int8, np.int16, np.uint8}


class _Named(nn.Module):
    """Gives inputs and outputs the model's names, which the converter writes into the file's signature."""

    def __init__(self, module: nn.Module, outputs: list[str]) -> None:
        super().__init__()
        self.module, self.outputs = module, outputs

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.outputs, self.module(*inputs.values()), strict=True))


class TFLiteConverter(Converter):
    """int8 and 16x8 from the unfolded PT2E graph, fp32 and fp16 from the float module."""

    format = "tflite"
    suffix = ".tflite"

    def _convert(self, source: Source, config: FormatConfig, path: Path) -> None:
        assert isinstance(config, TFLiteConfig)
        if config.precision in ("int8", "int16x8"):
            file = _integer(source, path, wide=config.precision == "int16x8")
        else:
            _write_with_litert(_float(source), source, path, integer=False)
            file = TFLiteFile(path)
        if config.precision != "int16x8":  # nobody delegates that
            flat_biases(file)
            nearest_upsampling(file)
            strided_slices(file)
        if config.precision == "fp16":
            half_weights(file)
        if config.float_io:
            float_border(file)
        file.name_border()
        file.set_metadata(CARD_KEY, source.card)
        file.write(path)

    def _kernels(self, path: Path, config: FormatConfig) -> Kernels:
        """From the file's operators and the types of their tensors."""
        file = TFLiteFile(path)
        integer: Counter[str] = Counter()
        floating: Counter[str] = Counter()
        for operator in file.operators:
            types = {file.dtype(index) for index in (*operator.outputs, operator.inputs[0])}
            if operator.name in _MOVES_DATA or (operator.name == "QUANTIZE" and not types <= _INTEGERS):
                continue
            is_integer = {file.dtype(index) for index in operator.outputs} <= _INTEGERS
            (integer if is_integer else floating)[operator.name] += 1
        return Kernels(dict(integer), dict(floating), _outside(file, path))

    def _activations(self, path: Path, config: FormatConfig) -> list[Quantisation]:
        file = TFLiteFile(path)
        found = []
        for index in sorted(file.computed):
            if file.dtype(index) in _INTEGERS:
                ((scale,), (zero_point,)) = file.quantisation(index)
                found.append(Quantisation(float(scale), int(zero_point)))
        return found


def _integer(source: Source, path: Path, *, wide: bool) -> TFLiteFile:
    # 16-bit activations are symmetric: they do not saturate where a clamp was left to int8's saturation
    graph = for_litert(source.quantised.clamped if wide else source.quantised.unfolded)
    _write_with_litert(graph, source, path, integer=True)
    file = TFLiteFile(path)
    transposed_convolutions(file, [(weight.numpy(), scale.numpy()) for weight, scale in transposed_weights(graph)])
    if wide:
        int16_activations(file, clamp_limits(graph))
    else:
        mixed_widths(file, source.quantised.ranges)
        paddings(file)
        lone_clamps(file)
    return file


def _float(source: Source) -> nn.Module:
    """The float module; as an edited graph, whose tensors have other names, only where it has something to edit."""
    module = source.module
    if not isinstance(module, GraphModule):
        graph = torch.export.export(module, source.example, strict=False).module(check_guards=False)
        module = graph if needs_edit(graph) else module
    return for_litert(module) if isinstance(module, GraphModule) else module


def _write_with_litert(graph: nn.Module, source: Source, path: Path, *, integer: bool) -> None:
    import litert_torch
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig

    scheme = None
    if integer:
        # The quantiser passed here annotates nothing any more. Without it the converter takes the quantise nodes for
        # decoration and writes float convolutions between them.
        quantizer = PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
        scheme = QuantConfig(pt2e_quantizer=quantizer)
    named = dict(zip(source.input_names, source.example, strict=True))
    module = _Named(graph, source.output_names)
    litert_torch.convert(module, sample_kwargs=named, quant_config=scheme, strict_export=False).export(str(path))


def _outside(file: TFLiteFile, path: Path) -> dict[str, float]:
    """Operators that LiteRT's XNNPACK delegate does not take, with their share of the work.

    Work is multiply-adds, and where there are none the larger number of values, read or written. The interpreter here does not
    tell time.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    details = interpreter._get_ops_details()
    producers = {
        int(index): n for n, detail in enumerate(details) for index in detail["outputs"] if not _is_delegate(detail)
    }
    taken: set[int] = set()
    for delegate in filter(_is_delegate, details):
        border = {int(index) for index in delegate["inputs"]}
        waiting = [int(index) for index in delegate["outputs"]]
        while waiting:
            number = producers.get(waiting.pop())
            if number is not None and number not in taken:
                taken.add(number)
                waiting += [int(i) for i in details[number]["inputs"] if int(i) not in border]
    work: Counter[str] = Counter()
    for number, operator in enumerate(file.operators):
        work[operator.name if number not in taken else ""] += _work(file, operator)
    total = sum(work.values())
    return {name: share / total for name, share in work.items() if name}


def _is_delegate(detail: dict[str, object]) -> bool:
    return detail["op_name"] == "DELEGATE"


def _work(file: TFLiteFile, operator: Operator) -> int:
    (result,) = operator.outputs[:1]
    if operator.name in ("CONV_2D", "FULLY_CONNECTED"):
        return file.size(result) * file.size(operator.inputs[1]) // file.shape(operator.inputs[1])[0]
    if operator.name == "DEPTHWISE_CONV_2D":
        return file.size(result) * file.size(operator.inputs[1]) // file.shape(operator.inputs[1])[-1]
    if operator.name == "TRANSPOSE_CONV":
        return file.size(operator.inputs[2]) * file.size(operator.inputs[1]) // file.shape(operator.inputs[1])[-1]
    return max(file.size(index) for index in (result, *operator.inputs) if index >= 0)
