"""The worker's protocol: frames, requests, and streams that hold neither."""

from __future__ import annotations

import ast
import io
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from edge_dp.runtime import agent
from edge_dp.runtime.agent import MAX_HEADER, ProtocolError, frame, read_frame

NAMES = st.text(max_size=12)
ARRAYS = st.dictionaries(
    NAMES,
    arrays_of.arrays(np.float32, arrays_of.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)),
    max_size=4,
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=8,
)
HEADERS = st.dictionaries(NAMES.filter(lambda name: name != "arrays"), PLAIN, max_size=4)


def reader(data):
    """Reads as from a pipe whose writer has closed it after ``data``."""
    stream = io.BytesIO(data)

    def read(buffer):
        piece = stream.read(len(buffer))
        buffer[: len(piece)] = piece
        if len(piece) < len(buffer):
            raise EOFError

    return read


def bytes_of(header, arrays):
    return b"".join(bytes(piece) for piece in frame(header, arrays))


def written(header):
    """A frame whose header is any JSON."""
    text = json.dumps(header).encode()
    return agent.MAGIC + struct.pack("<I", len(text)) + text


@given(st.lists(st.tuples(HEADERS, ARRAYS), min_size=1, max_size=3))
def test_frames_in_a_row_come_back_to_the_bit(frames):
    read = reader(b"".join(bytes_of(header, arrays) for header, arrays in frames))
    for header, arrays in frames:
        found, values = read_frame(read)
        assert found == header
        assert list(values) == list(arrays)
        for name, array in arrays.items():
            assert values[name].shape == array.shape
            assert values[name].tobytes() == array.tobytes()
    with pytest.raises(EOFError):
        read_frame(read)


@given(HEADERS, ARRAYS, st.data())
def test_a_frame_cut_anywhere_is_an_end_of_the_stream(header, arrays, data):
    whole = bytes_of(header, arrays)
    with pytest.raises(EOFError):
        read_frame(reader(whole[: data.draw(st.integers(0, len(whole) - 1))]))


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda data: agent.MAGIC + data))
def test_garbage_is_refused_or_the_end(data):
    with pytest.raises((ProtocolError, EOFError)):
        read_frame(reader(data))


@given(PLAIN | st.dictionaries(NAMES, PLAIN, max_size=3) | st.builds(lambda value: {"arrays": value}, PLAIN))
@example({"arrays": ""})
@example({"arrays": {}})
@example({"arrays": [["x", ""]]})
@example({"arrays": [["x", {}]]})
@example({"arrays": ["xy"]})
def test_a_header_that_is_any_json_is_read_or_refused(header):
    try:
        found, arrays = read_frame(reader(written(header)), most=1 << 16)
    except (ProtocolError, EOFError):
        return
    assert isinstance(found, dict)
    assert header["arrays"] in ([], *([[name, list(array.shape)] for name, array in arrays.items()],))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"HTTP/1.1 200 OK", "expected a frame, found b'HTTP/1.1'"),
        (agent.MAGIC + struct.pack("<I", MAX_HEADER + 1), "header of 1048577 bytes, at most 1048576"),
        (agent.MAGIC + struct.pack("<I", 5) + b"{]}[]", "not a JSON object"),
        (agent.MAGIC + struct.pack("<I", 200_000) + b"[" * 200_000, "not a JSON object"),
        (written({}), "not a JSON object with a list of arrays"),
        (written({"arrays": [["x"]]}), "list of arrays"),
        (written({"arrays": [["x", [-1]]]}), "expected the name and shape of an array"),
        (written({"arrays": [["x", [True]]]}), "expected the name and shape of an array"),
        (written({"arrays": [[7, [1]]]}), "expected the name and shape of an array"),
        (written({"arrays": [["x", [1 << 20, 1 << 20]]]}), "more than the 1073741824 bytes allowed"),
        (written({"arrays": [["x", [1 << 27]], ["y", [1 << 28]]]}), "'x' of shape|'y' of shape"),
        (written({"arrays": [["x", [1] * 40]]}), "more than"),
    ],
)
def test_what_is_wrong_with_a_frame_is_said(data, words):
    with pytest.raises((ProtocolError, EOFError)) as caught:
        read_frame(reader(data))
    if caught.type is ProtocolError:
        caught.match(words)
    else:
        assert "'x' of shape" in words  # the first array fits, and is missing


def test_a_header_that_is_too_large_is_not_sent():
    with pytest.raises(ProtocolError, match="at most"):
        frame({"text": "x" * MAX_HEADER}, {})


def served(*frames):
    """Replies of a session in this process."""
    out = io.BytesIO()
    code = agent.serve(reader(b"".join(frames)), out.write)
    read, replies = reader(out.getvalue()), []
    while True:
        try:
            replies.append(read_frame(read))
        except EOFError:
            return code, replies


def request(op, arrays=None, **more):
    return bytes_of({"op": op, **more}, arrays or {})


def test_hello_says_what_can_run_there():
    code, [(hello, _)] = served(request("hello"))
    assert code == 0
    assert hello["numpy"] == np.__version__
    assert set(hello["engines"]) == set(agent.ADAPTERS)
    for name, told in hello["engines"].items():
        assert told["why_not"] == agent.ADAPTERS[name].why_not()
    assert hello["engines"]["coreml"]["why_not"] is not None or sys.platform == "darwin"


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (request("dance"), "unknown request 'dance'"),
        (request(None), "unknown request None"),
        (request(["load"]), "unknown request"),
        (bytes_of({}, {}), "unknown request None"),
        (request("infer"), "nothing is loaded"),
        (request("time", count=1, seconds=1.0), "nothing is loaded"),
        (request("state"), "nothing is loaded"),
        (request("load"), "missing 4 required positional arguments"),
        (request("load", engine="nowhere", path="x", inputs=[], outputs=[]), "no engine 'nowhere', only executorch,"),
        (request("hello", loudly=True), "unexpected keyword argument"),
    ],
)
def test_requests_that_make_no_sense_are_answered_and_the_agent_goes_on(sent, words):
    code, replies = served(sent, request("hello"))
    assert code == 0
    assert words in replies[0][0]["error"]
    assert "engines" in replies[1][0]


def test_what_is_no_request_is_answered_and_ends_the_agent():
    code, [(reply, _)] = served(b"GET / HTTP/1.1\r\n\r\n", request("hello"))
    assert code == 2
    assert "expected a frame" in reply["error"]
    assert served(request("quit"), request("hello"))[0] == 0


@given(
    st.lists(st.dictionaries(st.sampled_from(["op", "path", "engine", "inputs", "count", "x"]), PLAIN), max_size=3),
    ARRAYS,
)
def test_any_header_is_answered(headers, arrays):
    headers = [{"op": "time", **header} for header in headers]
    code, replies = served(*(bytes_of(header, arrays) for header in headers))
    assert code == 0
    assert [reply.keys() >= {"error"} for reply, _ in replies] == [True] * len(headers)


def test_counters_and_times_of_an_adapter():
    """Each of the times is of one run; instructions too, where the machine counts them."""
    calls = []

    class Planted(agent.Adapter):
        def _load(self):
            calls.append("load")

        def _run(self, inputs):
            calls.append("run")
            return []

    adapter, counter = Planted("x", [], [], 1, {}), agent.InstructionCounter()
    nanoseconds, instructions = agent.measure(adapter, {}, counter, 5)
    assert calls == ["load"] + ["run"] * 5
    assert len(nanoseconds) == 5
    assert min(nanoseconds) > 0
    assert instructions == [] or (len(instructions) == 5 and min(instructions) > 0)
    assert len(agent.measure(adapter, {}, counter, 10**9, seconds=0.0)[0]) == 1
    counter.close()
    counter.close()
    assert counter.read() is None


def test_the_machine_s_state_is_of_this_process():
    state = agent.machine_state()
    block = np.ones(40 << 20, np.uint8)
    after = agent.machine_state()
    assert after["peak_memory_bytes"] >= state["peak_memory_bytes"] > 10 << 20
    assert after["peak_memory_bytes"] > block.nbytes
    if hasattr(os, "sched_getaffinity"):
        assert set(state["affinity"]) == os.sched_getaffinity(0)
    assert -40 < state.get("temperature_c", 20.0) < 150
    assert 50 < state.get("frequency_mhz", 1000.0) < 10_000


def test_the_agent_is_one_file_that_old_pythons_read():
    """Standard library and numpy alone at the top; and no syntax later than Python 3.9's."""
    tree = ast.parse(Path(agent.__file__).read_text(encoding="utf-8"), feature_version=(3, 9))
    modules = {
        name.partition(".")[0]
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert modules <= set(sys.stdlib_module_names) | {"numpy"}


def start():
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, agent.__file__], stdin=pipe, stdout=pipe, stderr=pipe)


def test_the_process_answers_and_ends_with_its_input():
    process = start()
    process.stdin.write(request("hello"))
    process.stdin.flush()
    head = process.stdout.read(8)
    assert head[:4] == agent.MAGIC
    assert json.loads(process.stdout.read(struct.unpack("<I", head[4:])[0]))["protocol"] == agent.PROTOCOL
    process.stdin.close()
    assert process.wait(10) == 0
    assert process.stdout.read() == b""
    assert process.stderr.read() == b""
    process.stdout.close()
    process.stderr.close()


def test_the_process_sent_garbage_says_so_and_ends():
    process = start()
    process.stdin.write(b"\x00" * 4096)
    process.stdin.flush()
    reply, _ = read_frame(process.stdout.readinto)
    assert "expected a frame" in reply["error"]
    assert process.wait(10) == 2
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()
