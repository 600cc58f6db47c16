"""ExecuTorch ``.pte``: for XNNPACK, the CPU kernels of phones, and for the delegates of Apple's devices and Android's GPUs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch
from torch.export import ExportedProgram

from edge_dp.bundle.manifest import Kernels
from edge_dp.converters.base import Converter, Quantisation, Source
from edge_dp.converters.cards import CARD_KEY
from edge_dp.converters.configs import ExecuTorchConfig, FormatConfig
from edge_dp.converters.executorch_delegates import DELEGATES
from edge_dp.errors import ExportError
from edge_dp.quantization.qat import float_graph

_CONVERSIONS = ("quantized_decomposed::quantize_per_tensor", "quantized_decomposed::dequantize_per_tensor")


class ExecuTorchConverter(Converter):
    """int8 from the folded PT2E graph, fp32 and fp16 from the float module.

    The card is a method of the program, named ``CARD_KEY``, that returns it as text: ``executorch_program.read_card`` reads
    it back, and so does ``module.execute("edge_dp")`` on a device.
    """

    format = "executorch"
    suffix = ".pte"

    def _convert(self, source: Source, config: FormatConfig, path: Path) -> None:
        from executorch.exir import to_edge_transform_and_lower
        from executorch.exir.lowered_backend_module import LoweredBackendModule

        config = _own(config)
        delegate = DELEGATES[config.backend]
        lowered = to_edge_transform_and_lower(
            delegate.complete(_program(source, config)),
            partitioner=[delegate.partitioner(config)],
            constant_methods={CARD_KEY: source.card},
        )
        for module in lowered.exported_program().graph_module.modules():
            if isinstance(module, LoweredBackendModule):
                module._processed_bytes = delegate.settle(module.processed_bytes, source.card)
        path.write_bytes(lowered.to_executorch().buffer)

    def _kernels(self, path: Path, config: FormatConfig) -> Kernels:
        """Of the delegates' payloads by kind and type; of what is outside by name, with its share of the time of one run.

        Where nothing here runs the program, the share is one of the number of operations.
        """
        from edge_dp.converters.executorch_program import read_program, shares_of_time

        config = _own(config)
        program = read_program(path)
        integer: Counter[str] = Counter()
        floating: Counter[str] = Counter(name for name in program.names_outside if name not in _CONVERSIONS)
        for payload in program.payloads:
            kernels = DELEGATES[config.backend].kernels(payload, config)
            integer.update(kernels.integer)
            floating.update(kernels.floating)
        outside: dict[str, float] = {}
        if program.outside and self._runs_here(config):
            outside = shares_of_time(path, program)
        elif program.outside:
            whole = len(program.outside) + sum(integer.values()) + sum(floating.values())
            outside = {name: count / whole for name, count in Counter(program.names_outside).items()}
        return Kernels(dict(integer), dict(floating), outside)

    def _activations(self, path: Path, config: FormatConfig) -> list[Quantisation]:
        """Of every int8 tensor in the payloads, and of the quantise and dequantise nodes outside them."""
        from edge_dp.converters.executorch_program import read_program

        config = _own(config)
        program = read_program(path)
        found = [
            entry for payload in program.payloads for entry in DELEGATES[config.backend].activations(payload, config)
        ]
        for call in program.outside:
            if call.operation in _CONVERSIONS:
                scale, zero_point = call.arguments[1:3]
                assert scale is not None and zero_point is not None
                found.append(Quantisation(float(scale), int(zero_point)))
        return found

    def _runs_here(self, config: FormatConfig) -> bool:
        return DELEGATES[_own(config).backend].runs_here


def _own(config: FormatConfig) -> ExecuTorchConfig:
    assert isinstance(config, ExecuTorchConfig)
    return config


def _program(source: Source, config: ExecuTorchConfig) -> ExportedProgram:
    module = source.quantised.folded if config.integer else source.module
    for node in source.quantised.folded.graph.nodes if config.integer else ():
        if str(node.target) == "quantized_decomposed.quantize_per_tensor.default" and node.args[-1] is not torch.int8:
            raise ExportError(
                f"executorch {config.label}: expected int8 activations, found {node.args[-1]} for {node.args[0]}. No delegate "
                "of ExecuTorch executes them: leave int16 out, or export tflite int16x8"
            )
    program = torch.export.export(module, source.example, strict=True)
    if not config.integer and config.backend == "xnnpack" and _LEFT_OUTSIDE & {n.target for n in program.graph.nodes}:
        program = torch.export.export(float_graph(module, source.example), source.example, strict=True)
    return program


_LEFT_OUTSIDE = {torch.ops.aten.hardsigmoid.default, torch.ops.aten.adaptive_avg_pool2d.default}
"""XNNPACK's partitioner does not take these in float; of the rewritten graph it takes everything."""
