"""A ``.pte`` read back from disk: what it hands to its delegate, what is left outside, and the card that it carries."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from executorch.exir._serialize import _flatbuffer
from executorch.exir._serialize._program import deserialize_pte_binary

from edge_dp.converters.cards import CARD_KEY
from edge_dp.errors import ExportError

FORWARD = "forward"
"""The method of a program that runs the network."""


@dataclass(frozen=True, slots=True)
class Call:
    """One operation that ExecuTorch runs itself.

    operation: such as ``aten::add``.
    arguments: numbers as they stand, None where an argument is a tensor or anything else.
    """

    operation: str
    arguments: tuple[float | int | None, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """The method ``forward``.

    payloads: what each delegate executes, in that delegate's own format.
    outside: what no delegate took, in the order of execution.
    """

    payloads: tuple[bytes, ...]
    outside: tuple[Call, ...]

    @property
    def names_outside(self) -> list[str]:
        """In the order of execution."""
        return [call.operation for call in self.outside]


def read_program(path: Path) -> Program:
    """Read a program from disk.

    Raises:
        ExportError: it has no method ``forward``.
    """
    stored = deserialize_pte_binary(path.read_bytes()).program
    plan = next((plan for plan in stored.execution_plan if plan.name == FORWARD), None)
    if plan is None:
        raise ExportError(f"{path}: expected a method {FORWARD!r}, found none")
    payloads = [bytes(stored.backend_delegate_data[delegate.processed.index].data) for delegate in plan.delegates]
    calls = [
        Call(plan.operators[call.op_index].name, tuple(_number(plan.values[index].val) for index in call.args))
        for chain in plan.chains
        for call in (instruction.instr_args for instruction in chain.instructions)
        if hasattr(call, "op_index")
    ]
    return Program(tuple(payloads), tuple(calls))


def read_card(path: Path) -> str | None:
    """The card that a program carries, None where it has none.

    A ``.pte`` has no table of metadata; its place is a method that returns a constant text. On a device
    ``module.execute("edge_dp")`` gives the same.
    """
    stored = deserialize_pte_binary(path.read_bytes()).program
    plan = next((plan for plan in stored.execution_plan if plan.name == CARD_KEY), None)
    return None if plan is None else str(plan.values[plan.outputs[0]].val.string_val)


def shares_of_time(path: Path, program: Program) -> dict[str, float]:
    """What ``program`` leaves outside its delegate, by name, with its share of the time of one run on zeros.

    Raises:
        ExportError: the program cannot be run here.
    """
    import executorch.kernels.quantized  # noqa: F401  # registers the quantise operations
    from executorch.devtools import Inspector
    from executorch.runtime import Runtime

    loaded = Runtime.get().load_program(path, enable_etdump=True, debug_buffer_size=0)
    method = loaded.load_method(FORWARD)
    if method is None:
        raise ExportError(f"{path}: has no method {FORWARD!r}")
    metadata = method.metadata
    method.execute([torch.zeros(metadata.input_tensor_meta(i).sizes()) for i in range(metadata.num_inputs())])
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "etdump.bin"
        loaded.write_etdump_result_to_file(str(trace), str(Path(folder) / "debug.bin"))
        events = [event for block in Inspector(etdump_path=str(trace)).event_blocks for event in block.events]
    times = {
        kind: [e.perf_data.avg for e in events if e.name.startswith(kind)] for kind in ("native_call", "DELEGATE_CALL")
    }
    whole = sum(map(sum, times.values()))
    shares: Counter[str] = Counter()
    for name, time in zip(program.names_outside, times["native_call"], strict=True):
        shares[name] += time / whole
    return dict(shares)


def flatbuffer_to_json(data: bytes, schema: bytes) -> Any:
    """Read a flatbuffer by its schema. Numbers of type float come as their bits: flatc would print six decimals of them."""
    with tempfile.TemporaryDirectory() as folder:
        place, binary = Path(folder) / "schema.fbs", Path(folder) / "data.bin"
        place.write_bytes(_floats_as_bits(schema))
        binary.write_bytes(data)
        options = ["--json", "--strict-json", "--defaults-json", "--raw-binary"]
        _flatbuffer._run_flatc([*options, "-o", folder, str(place), "--", str(binary)])
        return json.loads((Path(folder) / "data.json").read_bytes())


def json_to_flatbuffer(content: Any, schema: bytes) -> bytes:
    """Write what ``flatbuffer_to_json`` read."""
    with tempfile.TemporaryDirectory() as folder:
        place, text = Path(folder) / "schema.fbs", Path(folder) / "data.json"
        place.write_bytes(_floats_as_bits(schema))
        text.write_text(json.dumps(content), encoding="utf-8")
        _flatbuffer._run_flatc(["--binary", "-o", folder, str(place), str(text)])
        return (Path(folder) / "data.bin").read_bytes()


def _floats_as_bits(schema: bytes) -> bytes:
    return schema.replace(b":float;", b":uint;").replace(b":[float]", b":[uint]")


def _number(value: Any) -> float | int | None:
    for field in ("double_val", "int_val"):
        if hasattr(value, field):
            number = getattr(value, field)
            return None if isinstance(number, str) else number
    return None
