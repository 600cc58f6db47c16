"""A ``.tflite`` file as objects: read, edited, written. Nothing here knows of models or of PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edge_dp.errors import SchemaError

TYPES: dict[int, type[np.generic]] = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.INT8: np.int8,
    schema.TensorType.UINT8: np.uint8,
    schema.TensorType.INT16: np.int16,
    schema.TensorType.INT32: np.int32,
    schema.TensorType.INT64: np.int64,
    schema.TensorType.BOOL: np.bool_,
}
"""NumPy's type by the file's code."""

WEIGHTED = {
    "CONV_2D": (0, 1, 2),
    "DEPTHWISE_CONV_2D": (0, 1, 2),
    "FULLY_CONNECTED": (0, 1, 2),
    "TRANSPOSE_CONV": (2, 1, 3),
}
"""Operators with weights: places of activation, weights and bias among the inputs."""

_CODES = {dtype: code for code, dtype in TYPES.items()}
_OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
_IDENTIFIER = b"TFL3"
_ALIGNMENT = 16  # engines read constants where they lie in the file


class _Buffer(schema.BufferT):  # type: ignore[misc]  # generated code has no types
    """Aligned as the schema demands; the generated code packs it anywhere."""

    def Pack(self, builder: Any) -> Any:  # noqa: N802  # the generated code's name
        vector = None
        if self.data is not None:
            data = np.asarray(self.data, np.uint8).tobytes()
            builder.StartVector(1, len(data), _ALIGNMENT)
            builder.head -= len(data)
            builder.Bytes[builder.head : builder.head + len(data)] = data
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if vector is not None:
            schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator of the file.

    name: as in the schema, such as ``CONV_2D``.
    inputs, outputs: indices of tensors; -1 is an optional input left out.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    record: Any

    def input(self, place: int) -> int | None:
        """Index of the tensor at a place among the inputs, None where it is left out."""
        index = self.inputs[place] if place < len(self.inputs) else -1
        return index if index >= 0 else None


class TFLiteFile:
    """One file with one subgraph.

    Raises:
        SchemaError: not a ``.tflite``, or one of several subgraphs.
    """

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        if data[4:8] != _IDENTIFIER:
            raise SchemaError(f"{path}: expected a .tflite, found no {_IDENTIFIER.decode()} in its header")
        self.model: Any = schema.ModelT.InitFromPackedBuf(data, 0)
        if len(self.model.subgraphs) != 1:
            raise SchemaError(f"{path}: expected one subgraph, found {len(self.model.subgraphs)}")
        self.graph: Any = self.model.subgraphs[0]

    def write(self, path: Path) -> None:
        """Write the file. The same objects give the same bytes."""
        self._compact()
        builder = flatbuffers.Builder(1024)
        self.model.buffers = [_Buffer(buffer.data) for buffer in self.model.buffers]
        builder.Finish(self.model.Pack(builder), file_identifier=_IDENTIFIER)
        path.write_bytes(builder.Output())

    @property
    def operators(self) -> Iterator[Operator]:
        """In the order of execution."""
        for record in self.graph.operators:
            code = self.model.operatorCodes[record.opcodeIndex]
            name = _OPERATORS[max(code.builtinCode, code.deprecatedBuiltinCode)]
            yield Operator(name, tuple(map(int, record.inputs)), tuple(map(int, record.outputs)), record)

    def dtype(self, index: int) -> type[np.generic] | None:
        """Of a tensor; None for types that no artifact of ours holds."""
        return TYPES.get(self.graph.tensors[index].type)

    def shape(self, index: int) -> tuple[int, ...]:
        """Of a tensor."""
        shape = self.graph.tensors[index].shape
        return () if shape is None else tuple(map(int, shape))

    def size(self, index: int) -> int:
        """Number of values of a tensor."""
        return math.prod(self.shape(index))

    def is_constant(self, index: int) -> bool:
        """Whether the file holds the tensor's values."""
        return self.model.buffers[self.graph.tensors[index].buffer].data is not None

    def values(self, index: int) -> NDArray[Any]:
        """Of a constant tensor."""
        tensor = self.graph.tensors[index]
        data = np.asarray(self.model.buffers[tensor.buffer].data, np.uint8)
        return np.frombuffer(data.tobytes(), TYPES[tensor.type]).reshape(self.shape(index))

    def quantisation(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scales and zero points of a tensor: one of each, or one per channel; empty where it has none."""
        found = self.graph.tensors[index].quantization
        if found is None or found.scale is None:
            return np.zeros(0, np.float32), np.zeros(0, np.int64)
        return np.asarray(found.scale, np.float32), np.asarray(found.zeroPoint, np.int64)

    def set_quantisation(self, index: int, scale: NDArray[Any], zero_point: int = 0, axis: int = 0) -> None:
        """Of a tensor; the other per-channel zero points are the same."""
        found = schema.QuantizationParametersT()
        found.scale = np.asarray(scale, np.float32).reshape(-1)
        found.zeroPoint = np.full(found.scale.size, zero_point, np.int64)
        found.quantizedDimension = axis
        self.graph.tensors[index].quantization = found

    def set_values(self, index: int, values: NDArray[Any]) -> None:
        """Replace a constant's values and type; other tensors that share its buffer keep theirs."""
        tensor = self.graph.tensors[index]
        tensor.type = _CODES[values.dtype.type]
        tensor.buffer = self._add_buffer(values.tobytes())

    def set_type(self, index: int, dtype: type[np.generic]) -> None:
        """Of a tensor that an operator computes."""
        self.graph.tensors[index].type = _CODES[dtype]

    def add_tensor(self, name: str, dtype: type[np.generic], shape: tuple[int, ...]) -> int:
        """A tensor that an operator computes; returns its index."""
        tensor = schema.TensorT()
        tensor.name, tensor.type, tensor.buffer, tensor.hasRank = name.encode(), _CODES[dtype], 0, True
        tensor.shape = np.asarray(shape, np.int32)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def add_like(self, index: int, shape: tuple[int, ...]) -> int:
        """A tensor of another shape, of the type and quantisation of ``index``; returns its index."""
        model = self.graph.tensors[index]
        new = self.add_tensor(f"{model.name.decode()}_{len(self.graph.tensors)}", TYPES[model.type], shape)
        self.graph.tensors[new].quantization = model.quantization
        return new

    def add_constant(self, name: str, values: NDArray[Any]) -> int:
        """A tensor whose values the file holds; returns its index."""
        new = self.add_tensor(name, values.dtype.type, values.shape)
        self.set_values(new, values)
        return new

    def add_operator(self, position: int, name: str, inputs: Sequence[int], output: int, options: Any = None) -> None:
        """Put an operator at a place in the order of execution.

        Args:
            options: the schema's object for ``name``, such as ``ConcatenationOptionsT``.
        """
        record = schema.OperatorT()
        record.opcodeIndex = self._operator_code(name)
        record.inputs, record.outputs = np.asarray(inputs, np.int32), np.asarray([output], np.int32)
        if options is not None:
            record.builtinOptions = options
            record.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.graph.operators.insert(position, record)

    def position(self, record: Any) -> int:
        """Place of an operator in the order of execution."""
        return next(i for i, other in enumerate(self.graph.operators) if other is record)

    def remove_operator(self, record: Any) -> int:
        """Take an operator out of the order of execution and return its place; whatever reads its result must be edited."""
        position = self.position(record)
        del self.graph.operators[position]
        return position

    def remove_idle(self) -> None:
        """Take out operators whose results nobody reads."""
        while True:
            read = {int(i) for record in self.graph.operators for i in record.inputs} | set(
                map(int, self.graph.outputs)
            )
            kept = [record for record in self.graph.operators if read & set(map(int, record.outputs))]
            if len(kept) == len(self.graph.operators):
                return
            self.graph.operators = kept

    def name_border(self) -> None:
        """Call the tensors at the border as the signature does; converters decorate their names."""
        for side in self.signature:
            for name, index in side.items():
                self.graph.tensors[index].name = name.encode()

    def set_metadata(self, key: str, text: str) -> None:
        """Put ``text`` into the file under ``key``."""
        entry = schema.MetadataT()
        entry.name, entry.buffer = key.encode(), self._add_buffer(text.encode())
        self.model.metadata = [old for old in self.model.metadata or [] if old.name != entry.name] + [entry]

    def metadata(self, key: str) -> str | None:
        """The text under ``key``, None where there is none."""
        for entry in self.model.metadata or []:
            if entry.name == key.encode():
                return bytes(np.asarray(self.model.buffers[entry.buffer].data, np.uint8)).decode()
        return None

    @property
    def signature(self) -> tuple[dict[str, int], dict[str, int]]:
        """Tensor index by name, of the inputs and of the outputs."""
        (found,) = self.model.signatureDefs
        inputs, outputs = (
            {e.name.decode(): int(e.tensorIndex) for e in side} for side in (found.inputs, found.outputs)
        )
        return inputs, outputs

    @property
    def computed(self) -> frozenset[int]:
        """Tensors that hold no constants: inputs and results of operators."""
        results = {index for operator in self.operators for index in operator.outputs}
        return frozenset(results | set(map(int, self.graph.inputs)))

    def rebind(self, name: str, new: int, *, is_input: bool) -> None:
        """Make ``new`` the file's input (else output) called ``name``."""
        (found,) = self.model.signatureDefs
        entries = found.inputs if is_input else found.outputs
        entry = next(entry for entry in entries if entry.name == name.encode())
        side = "inputs" if is_input else "outputs"
        border = np.asarray(getattr(self.graph, side))
        setattr(self.graph, side, np.where(border == entry.tensorIndex, new, border).astype(np.int32))
        entry.tensorIndex = new

    def _compact(self) -> None:
        """Leave out tensors and buffers that edits have orphaned."""
        (signature,) = self.model.signatureDefs
        entries = [*signature.inputs, *signature.outputs]
        used = {int(i) for record in self.graph.operators for i in (*record.inputs, *record.outputs)} - {-1}
        kept = sorted(used | {int(entry.tensorIndex) for entry in entries})
        place = {old: new for new, old in enumerate(kept)} | {-1: -1}
        self.graph.tensors = [self.graph.tensors[index] for index in kept]
        for owner in (self.graph, *self.graph.operators):
            owner.inputs = np.asarray([place[int(i)] for i in owner.inputs], np.int32)
            owner.outputs = np.asarray([place[int(i)] for i in owner.outputs], np.int32)
        for entry in entries:
            entry.tensorIndex = place[int(entry.tensorIndex)]
        owners = [*self.graph.tensors, *(self.model.metadata or [])]
        buffers = sorted({0} | {owner.buffer for owner in owners})  # the first stands for none
        for owner in owners:
            owner.buffer = buffers.index(owner.buffer)
        self.model.buffers = [self.model.buffers[index] for index in buffers]
        self.model.metadataBuffer = None  # a list of the same, long out of use

    def _add_buffer(self, data: bytes) -> int:
        self.model.buffers.append(schema.BufferT(np.frombuffer(data, np.uint8)))
        return len(self.model.buffers) - 1

    def _operator_code(self, name: str) -> int:
        wanted = getattr(schema.BuiltinOperator, name)
        for index, code in enumerate(self.model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == wanted:
                return index
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = wanted, min(wanted, 127), 1
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1


def read_metadata(path: Path, key: str) -> str | None:
    """The text that a ``.tflite`` carries under ``key``, None where it carries none.

    Raises:
        SchemaError: not a ``.tflite``.
    """
    return TFLiteFile(path).metadata(key)
