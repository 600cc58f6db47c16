"""Taps of a ``.pte``: values that XNNPACK keeps to itself become outputs of its graph, and of the program around it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from executorch.exir._serialize._program import deserialize_pte_binary, serialize_pte_binary
from executorch.exir.schema import AllocationDetails, DelegateCall, EValue, ScalarType, Tensor, TensorShapeDynamism

from edge_dp.converters.blame.taps import Tap, Tapped, tap_name
from edge_dp.converters.executorch_program import FORWARD
from edge_dp.converters.xnnpack_payload import XnnpackPayload
from edge_dp.errors import ExportError
from edge_dp.runtime.engines.base import Signature

_DELEGATE = "XnnpackBackend"
_ARENA = 1  # the memory of activations; 0 is reserved
_ALIGNMENT = 16
_TYPES = {"qint8": (ScalarType.CHAR, 1), "fp32": (ScalarType.FLOAT, 4)}


def tap(artifact: Path, path: Path, signature: Signature) -> Tapped:
    """Write ``artifact`` to ``path`` with every activation inside its XNNPACK delegates as an output.

    Raises:
        ExportError: it has no method ``forward``, or hands its work to another delegate.
    """
    file = deserialize_pte_binary(artifact.read_bytes())
    plan = next((plan for plan in file.program.execution_plan if plan.name == FORWARD), None)
    if plan is None:
        raise ExportError(f"{artifact}: expected a method {FORWARD!r}, found none")
    taps: list[Tap] = []
    calls = [instruction.instr_args for chain in plan.chains for instruction in chain.instructions]
    for call in (call for call in calls if isinstance(call, DelegateCall)):
        delegate = plan.delegates[call.delegate_index]
        if delegate.id != _DELEGATE:
            raise ExportError(f"{artifact}: expected {_DELEGATE}, found {delegate.id}, whose inside nothing here shows")
        stored = file.program.backend_delegate_data[delegate.processed.index]
        payload = XnnpackPayload(bytes(stored.data))
        graph = payload.graph
        for number in (node.output for node in graph.nodes):
            value = graph.values[number]
            if value.flags or value.type not in _TYPES:
                continue
            payload.make_output(number)
            call.args.append(len(plan.values))
            plan.outputs.append(len(plan.values))
            plan.values.append(_tensor(plan, value.shape, *_TYPES[value.type]))
            scale, zero_point = value.quantisation or (None, 0)
            taps.append(Tap(tap_name(len(taps)), f"value {number}", value.shape, scale, zero_point))
        stored.data = payload.to_bytes()
    path.write_bytes(bytes(serialize_pte_binary(file)))
    return Tapped.of(signature, taps)


def _tensor(plan: Any, shape: tuple[int, ...], kind: ScalarType, size: int) -> EValue:
    """A new tensor of the program, in memory of its own."""
    offset = plan.non_const_buffer_sizes[_ARENA]
    plan.non_const_buffer_sizes[_ARENA] += -(-math.prod(shape) * size // _ALIGNMENT) * _ALIGNMENT
    return EValue(
        Tensor(
            scalar_type=kind,
            storage_offset=0,
            sizes=list(shape),
            dim_order=list(range(len(shape))),
            requires_grad=False,
            layout=0,
            data_buffer_idx=0,
            allocation_info=AllocationDetails(_ARENA, offset & 0xFFFFFFFF, offset >> 32),
            shape_dynamism=TensorShapeDynamism.STATIC,
        )
    )
