"""The graph that ExecuTorch hands to XNNPACK, read back from a program's payload."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import (
    CONSTANT_TENSOR_ALIGNMENT,
    XNNHeader,
    _get_schema_bytes,
)

from edge_dp.converters.base import Quantisation
from edge_dp.converters.executorch_program import flatbuffer_to_json, json_to_flatbuffer

_MOVES_DATA = ("StaticTranspose", "StaticReshape", "StaticSlice", "StaticConstantPad", "Concatenate", "Copy")
_EXTERNAL_INPUT, _EXTERNAL_OUTPUT = 1, 2
_INTEGER = "qint8"


@dataclass(frozen=True, slots=True)
class Value:
    """One tensor: ``type`` such as fp32, qint8 or qcint8 (int8 per channel). ``flags`` say whether it crosses the border.

    ``shape`` has the channels last where the operation wants that.
    """

    type: str
    shape: tuple[int, ...]
    constant: bool
    flags: int
    quantisation: Quantisation | None


@dataclass(frozen=True, slots=True)
class Node:
    """One operation, such as ``Conv2d``; inputs and output are numbers of values."""

    kind: str
    inputs: tuple[int, ...]
    output: int

    @property
    def moves_data(self) -> bool:
        """Whether it computes nothing."""
        return self.kind.startswith(_MOVES_DATA)


@dataclass(frozen=True)
class XnnpackGraph:
    """What XNNPACK executes. It computes a node in the type of the node's output: there is no other choice."""

    values: dict[int, Value]
    nodes: tuple[Node, ...]

    def activations(self) -> Iterator[Quantisation]:
        """Quantisation of every int8 tensor that is computed, from anything but constants alone."""
        constants = {number for number, value in self.values.items() if value.constant}
        for node in self.nodes:  # in the order of execution
            if constants.issuperset(node.inputs):
                constants.add(node.output)
        for number, value in self.values.items():
            if value.type == _INTEGER and number not in constants and value.quantisation:
                yield value.quantisation

    def kernels(self) -> tuple[Counter[str], Counter[str]]:
        """Arithmetic in integers and in float, counted by kind and type.

        Conversions at the border count as neither. One elsewhere means that something computes in float; where nothing but
        moves of data does, the conversions themselves are what counts as float.
        """
        counts: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        stray: Counter[str] = Counter()
        for node in self.nodes:
            types = {self.values[value].type for value in (*node.inputs, node.output)}
            name = f"{node.kind} {self.values[node.output].type}"
            if node.kind == "Convert" and len(types) > 1:
                stray[name] += not (self._from_border(node.inputs[0]) or self._to_border(node.output))
            elif not node.moves_data:
                counts[self.values[node.output].type != _INTEGER][name] += 1
        if not counts[1]:
            counts[1].update(+stray)
        return counts

    def _from_border(self, value: int) -> bool:
        if self.values[value].flags & _EXTERNAL_INPUT:
            return True
        makers = [node for node in self.nodes if node.output == value]
        return bool(makers) and all(node.moves_data and all(map(self._from_border, node.inputs)) for node in makers)

    def _to_border(self, value: int) -> bool:
        users = [node for node in self.nodes if value in node.inputs]
        crosses = bool(self.values[value].flags & _EXTERNAL_OUTPUT)
        return (crosses or bool(users)) and all(node.moves_data and self._to_border(node.output) for node in users)


def read_xnnpack(payload: bytes) -> XnnpackGraph:
    """Read the payload of an ``XnnpackBackend``."""
    return XnnpackPayload(payload).graph


class XnnpackPayload:
    """The payload of an ``XnnpackBackend``, to be edited: its header, its graph as JSON, and its constants.

    content: the graph as ``flatbuffer_to_json`` gives it.
    """

    def __init__(self, payload: bytes) -> None:
        header = XNNHeader.from_bytes(payload[: XNNHeader.EXPECTED_LENGTH])
        flatbuffer = payload[header.flatbuffer_offset : header.flatbuffer_offset + header.flatbuffer_size]
        self.content = flatbuffer_to_json(flatbuffer, _get_schema_bytes())
        self._constants = payload[header.constant_data_offset :][: header.constant_data_size]

    @property
    def graph(self) -> XnnpackGraph:
        """What XNNPACK executes."""
        values = dict(_value(entry["xvalue_union"]) for entry in self.content["xvalues"])
        nodes = (_node(entry["xnode_union_type"], entry["xnode_union"], values) for entry in self.content["xnodes"])
        return XnnpackGraph(values, tuple(nodes))

    def make_output(self, number: int) -> None:
        """Let a value that crosses no border be an output, behind all others."""
        unions = (entry["xvalue_union"] for entry in self.content["xvalues"])
        tensor = next(t for t in (union.get("tensor_value", union) for union in unions) if t["id_out"] == number)
        tensor["flags"], tensor["external_id"] = _EXTERNAL_OUTPUT, self.content["num_externs"]
        self.content["num_externs"] += 1
        self.content["output_ids"].append(number)

    def to_bytes(self) -> bytes:
        """The payload, edits included."""
        flatbuffer = json_to_flatbuffer(self.content, _get_schema_bytes())
        start = _aligned(XNNHeader.EXPECTED_LENGTH)
        end = _aligned(start + len(flatbuffer))
        header = XNNHeader(start, len(flatbuffer), end, len(self._constants)).to_bytes()
        return header.ljust(start, b"\0") + flatbuffer.ljust(end - start, b"\0") + self._constants


def _aligned(size: int) -> int:
    return -(-size // CONSTANT_TENSOR_ALIGNMENT) * CONSTANT_TENSOR_ALIGNMENT


def _value(union: dict[str, Any]) -> tuple[int, Value]:
    tensor = union.get("tensor_value", union)
    parameters = union.get("quant_params", {})
    quantisation = None
    if union.get("quant_params_type") == "PerTensorQuant":
        (scale,) = struct.unpack("<f", struct.pack("<I", parameters["scale"]))
        quantisation = Quantisation(scale, parameters["zero_point"])
    kind = str(tensor["datatype"]).removeprefix("xnn_datatype_")
    shape = tuple(tensor["dims"])
    return tensor["id_out"], Value(kind, shape, tensor["constant_buffer_idx"] != 0, tensor["flags"], quantisation)


def _node(kind: str, union: dict[str, Any], values: dict[int, Value]) -> Node:
    named = [value for name, value in union.items() if name.startswith("input") and name.endswith("_id")]
    inputs = tuple(value for value in named if value in values)  # a concatenation has numbers of no value to spare
    return Node(kind.removeprefix("XNN"), inputs, union["output_id"])
