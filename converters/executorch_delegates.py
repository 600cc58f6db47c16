"""The delegates that ExecuTorch can hand a program to: how each is asked for, and what its payload says.

executorch's toolchains are imported where they are used: those of Core ML need coremltools, the others do not.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from torch.export import ExportedProgram

from edge_dp.bundle.manifest import Kernels
from edge_dp.converters.base import Quantisation
from edge_dp.converters.configs import ExecuTorchConfig


class Delegate(Protocol):
    """One backend of ``ExecuTorchConfig``.

    runs_here: whether executorch's wheel executes it.
    """

    runs_here: bool

    def partitioner(self, config: ExecuTorchConfig) -> Any:
        """For ``to_edge_transform_and_lower``."""

    def complete(self, program: ExportedProgram) -> ExportedProgram:
        """The program in words that the delegate's toolchain knows; may edit it in place."""

    def settle(self, payload: bytes, card: str) -> bytes:
        """The payload without what differs from one export of the same model to the next."""

    def kernels(self, payload: bytes, config: ExecuTorchConfig) -> Kernels:
        """Arithmetic by kind and type."""

    def activations(self, payload: bytes, config: ExecuTorchConfig) -> list[Quantisation]:
        """Of every int8 tensor that is computed."""


class XnnpackDelegate:
    """CPUs, on every machine."""

    runs_here = True

    def partitioner(self, config: ExecuTorchConfig) -> Any:
        """With every operation of the portable set in integers."""
        from edge_dp.converters.xnnpack_integer import integer_partitioner

        return integer_partitioner()

    def complete(self, program: ExportedProgram) -> ExportedProgram:
        """As it is."""
        return program

    def settle(self, payload: bytes, card: str) -> bytes:
        """Nothing differs."""
        return payload

    def kernels(self, payload: bytes, config: ExecuTorchConfig) -> Kernels:
        """XNNPACK computes in the type of an operation's tensors."""
        from edge_dp.converters.xnnpack_payload import read_xnnpack

        integer, floating = read_xnnpack(payload).kernels()
        return Kernels(dict(integer), dict(floating))

    def activations(self, payload: bytes, config: ExecuTorchConfig) -> list[Quantisation]:
        """Of every int8 tensor of the payload that is no weight."""
        from edge_dp.converters.xnnpack_payload import read_xnnpack

        return list(read_xnnpack(payload).activations())


class CoreMLDelegate:
    """Apple's devices. The payload is a Core ML package, flattened, with the names of its border in a file beside it."""

    runs_here = False

    def partitioner(self, config: ExecuTorchConfig) -> Any:
        """For iOS 17, in half precision where not in integers."""
        import coremltools as ct
        from executorch.backends.apple.coreml.compiler import CoreMLBackend
        from executorch.backends.apple.coreml.partition.coreml_partitioner import CoreMLPartitioner

        # It divides the scales of an addition by one of them: the quotients are not the trained ones, and no halves.
        unwanted = "common::distributive_quantized_binary_op_scale_normalization"
        specs = CoreMLBackend.generate_compile_specs(
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.precision.FLOAT16,
            pass_names=[name for name in ct.PassPipeline.DEFAULT.passes if name != unwanted],
        )
        return CoreMLPartitioner(compile_specs=specs)

    def complete(self, program: ExportedProgram) -> ExportedProgram:
        """With arguments that Core ML's converter counts."""
        from edge_dp.converters.coreml_graph import complete_arguments

        return complete_arguments(program)

    def settle(self, payload: bytes, card: str) -> bytes:
        """The package as ``save_package`` writes it, under a name that follows from its content."""
        from edge_dp.converters.executorch_coreml import settle_package

        return settle_package(payload, card)

    def kernels(self, payload: bytes, config: ExecuTorchConfig) -> Kernels:
        """As of the package by itself."""
        from edge_dp.converters.coreml_program import offered_kernels

        with _package(payload) as package:
            return offered_kernels(package)

    def activations(self, payload: bytes, config: ExecuTorchConfig) -> list[Quantisation]:
        """As of the package by itself."""
        from edge_dp.converters.coreml_program import stored_quantisations

        with _package(payload) as package:
            return stored_quantisations(package)


@contextlib.contextmanager
def _package(payload: bytes) -> Iterator[Path]:
    from edge_dp.converters.executorch_coreml import unpack

    with TemporaryDirectory() as folder:
        yield unpack(payload, Path(folder))


_VULKAN_MOVES = (
    "et_vk.prepack",
    *(f"aten.{name}" for name in ("cat", "clone", "constant_pad", "permute", "slice", "squeeze", "unsqueeze", "view")),
    "dim_order_ops.",
)


class VulkanDelegate:
    """Android's GPUs, in float alone."""

    runs_here = False

    def partitioner(self, config: ExecuTorchConfig) -> Any:
        """With weights and arithmetic in halves for fp16."""
        from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner

        return VulkanPartitioner({"force_fp16": True} if config.precision == "fp16" else {})

    def complete(self, program: ExportedProgram) -> ExportedProgram:
        """As it is."""
        return program

    def settle(self, payload: bytes, card: str) -> bytes:
        """Nothing differs."""
        return payload

    def kernels(self, payload: bytes, config: ExecuTorchConfig) -> Kernels:
        """By name, without what packs and moves data."""
        from executorch.backends.vulkan.serialization.vulkan_graph_serialize import (
            extract_vk_flatbuffer,
            flatbuffer_to_vk_graph,
        )

        graph = flatbuffer_to_vk_graph(extract_vk_flatbuffer(payload))
        return Kernels({}, dict(Counter(call.name for call in graph.chain if not call.name.startswith(_VULKAN_MOVES))))

    def activations(self, payload: bytes, config: ExecuTorchConfig) -> list[Quantisation]:
        """It has none."""
        return []


DELEGATES: dict[str, Delegate] = {
    "xnnpack": XnnpackDelegate(),
    "coreml": CoreMLDelegate(),
    "vulkan": VulkanDelegate(),
}
"""By the name of the backend in ``ExecuTorchConfig``."""
