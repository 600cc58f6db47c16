"""Core ML ``.mlpackage``, a MIL program for iOS 17."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from edge_dp.bundle.manifest import Kernels
from edge_dp.converters.base import Converter, Quantisation, Source
from edge_dp.converters.cards import CARD_KEY
from edge_dp.converters.configs import FormatConfig
from edge_dp.converters.coreml_graph import complete_arguments, exact
from edge_dp.converters.coreml_package import save_package
from edge_dp.converters.coreml_program import offered_kernels, stored_quantisations


class CoreMLConverter(Converter):
    """W8A8 from the folded PT2E graph, W8A16 from its weights alone, fp16 and fp32 from the float module.

    Programs compute in half precision where they do not in integers, those of fp32 in float.
    """

    format = "coreml"
    suffix = ".mlpackage"

    def _convert(self, source: Source, config: FormatConfig, path: Path) -> None:
        import coremltools as ct

        passes = ct.PassPipeline.DEFAULT
        passes.remove_passes(_INEXACT)
        halves = ct.transform.FP16ComputePrecision(op_selector=lambda operation: not _at_border(operation))
        model = ct.convert(
            _program(_module(source, config), source),
            inputs=[ct.TensorType(name=name, shape=shape, dtype=np.float32) for name, shape in source.signature.inputs],
            outputs=[ct.TensorType(name=name, dtype=np.float32) for name in source.output_names],
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.precision.FLOAT32 if config.precision == "fp32" else halves,
            pass_pipeline=passes,
            skip_model_load=True,
        )
        save_package(model, path, {CARD_KEY: source.card})

    def _kernels(self, path: Path, config: FormatConfig) -> Kernels:
        return offered_kernels(path)

    def _activations(self, path: Path, config: FormatConfig) -> list[Quantisation]:
        return stored_quantisations(path)


_INEXACT = {
    # It divides the scales of an addition by one of them: the quotients are not the trained ones, and no halves.
    "common::distributive_quantized_binary_op_scale_normalization",
    # It multiplies a convolution's weights by a constant that is divided by the convolution.
    "common::fuse_conv_scale",
}


def _module(source: Source, config: FormatConfig) -> torch.nn.Module:
    if config.integer:
        return source.quantised.folded
    return source.quantised.weights if config.reference == "weights" else source.module


def _program(module: torch.nn.Module, source: Source) -> ExportedProgram:
    program = torch.export.export(module, source.example, strict=False)  # strictly, it takes twice the time
    # Core ML refuses the training dialect that torch.export gives; the empty table of decompositions turns it into ATen.
    return exact(complete_arguments(program.run_decompositions({})))


def _at_border(operation: Any) -> bool:
    """Whether it comes before the first quantisation, of an input, or dequantises an output: in float32, as at the border.

    In half precision an input is rounded before it is quantised, which moves up to 3 % of a camera's values by a step.
    """
    if operation.op_type == "dequantize":
        return operation.outputs[0] in operation.enclosing_block.outputs
    return _leads_to_quantisation(operation) and _comes_from_inputs(operation)


def _leads_to_quantisation(operation: Any) -> bool:
    """Whether it is a quantisation, or all that is made of its results ends in one."""
    seen, waiting = set(), [operation]
    while waiting:
        each = waiting.pop()
        if each in seen or each.op_type == "quantize":
            continue
        seen.add(each)
        users = [user for value in each.outputs for user in value.child_ops]
        if not users:
            return False
        waiting += users
    return True


def _comes_from_inputs(operation: Any) -> bool:
    """Whether it reads inputs, or what is made of them, before anything is quantised."""
    seen, waiting, reads_input = set(), [operation], False
    while waiting:
        each = waiting.pop()
        if each in seen:
            continue
        seen.add(each)
        for value in _operands(each):
            if value.op is None:
                reads_input = True
            elif "quantize" in value.op.op_type:
                if not value.op.op_type.startswith("const"):
                    return False
            elif value.op.op_type != "const":
                waiting.append(value.op)
    return reads_input


def _operands(operation: Any) -> Iterator[Any]:
    for _, value in operation.inputs.items():
        for each in value if isinstance(value, (list, tuple)) else [value]:
            if each is not None:
                yield each
