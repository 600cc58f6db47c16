"""ExecuTorch programs: every operation against the converted graph, what is read back, and the delegates that run elsewhere."""

from __future__ import annotations

import importlib.util
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

if any(importlib.util.find_spec(module) is None for module in ("executorch", "torch", "torchao")):
    pytest.skip("needs the extras executorch and train", allow_module_level=True)

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from edge_dp.converters.base import Quantisation, Source, Written
from edge_dp.converters.cards import CARD_KEY
from edge_dp.converters.configs import ExecuTorchConfig
from edge_dp.converters.executorch import ExecuTorchConverter
from edge_dp.converters.executorch_program import read_card, read_program
from edge_dp.converters.operations import OPERATIONS
from edge_dp.converters.source import network_of_module, quantise_module
from edge_dp.converters.xnnpack_payload import read_xnnpack
from edge_dp.errors import ExportError
from edge_dp.quiet import quiet
from edge_dp.runtime.engines.base import Tensors

INT8 = ExecuTorchConfig(precision="int8")
FP32 = ExecuTorchConfig(precision="fp32")
CARD = json.dumps({"axis": "x", "note": "Grüße"}, ensure_ascii=False)
FEATURES = (1, 8, 16, 24)
needs_coreml = pytest.mark.skipif(importlib.util.find_spec("coremltools") is None, reason="needs the extra coreml")


def noise(source: Source, seed: int) -> Tensors:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in source.signature.inputs}


def source_of(build: Callable[[], nn.Module], *shapes: tuple[int, ...], keep_float: tuple[str, ...] = ()) -> Source:
    """Random weights, with the quantisation that random inputs calibrate."""
    torch.manual_seed(0)
    inputs = {f"x{index}": shape for index, shape in enumerate(shapes)}
    network = network_of_module(build().eval(), inputs, None, "net")
    batches = [{name: torch.randn(shape) for name, shape in inputs.items()} for _ in range(3)]
    graphs = quantise_module(network, batches, keep_float)
    return Source(network.name, network.module, graphs, network.signature, CARD)


@cache
def source_of_operation(name: str) -> Source:
    operation = OPERATIONS[name]
    return source_of(operation.build, *operation.shapes)


def convert(source: Source, folder: Path, config: ExecuTorchConfig = INT8, probes: int = 4) -> Written:
    return ExecuTorchConverter().convert(
        source, config, folder, {str(seed): noise(source, seed) for seed in range(probes)}, require_full_delegation=True
    )


def converted_graph(source: Source, seed: int) -> list[Tensor]:
    with torch.no_grad(), quiet():
        return list(source.quantised.folded(*(torch.from_numpy(array) for array in noise(source, seed).values())))


def steps_of_outputs(source: Source) -> list[float]:
    """The quantisation step of each output."""
    (output,) = (node for node in source.quantised.folded.graph.nodes if node.op == "output")
    return [float(node.args[1]) for node in output.args[0]]


def differences(source: Source, written: Written) -> np.ndarray:
    """In steps, between the artifact and the converted graph, of all probes and outputs."""
    found = []
    for seed, outputs in written.outputs.items():
        expected = converted_graph(source, int(seed))
        for array, tensor, step in zip(outputs.values(), expected, steps_of_outputs(source), strict=True):
            found.append(np.abs(np.rint((array - tensor.numpy()) / step)).ravel())
    return np.concatenate(found)


def trained(source: Source) -> set[Quantisation]:
    return {Quantisation(entry.scale, entry.zero_point) for entry in source.quantised.ranges}


def kinds(path: Path) -> list[str]:
    """Of the operations that XNNPACK gets."""
    return [node.kind for payload in read_program(path).payloads for node in read_xnnpack(payload).nodes]


# ---- int8 through XNNPACK -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_runs_in_integers_and_within_a_step(name, tmp_path):
    source = source_of_operation(name)
    written = convert(source, tmp_path)
    kernels = written.artifact.kernels
    assert kernels.integer
    assert (kernels.floating, kernels.outside) == ({}, {})
    assert np.mean(differences(source, written) <= 1) >= 0.999
    assert set(ExecuTorchConverter()._activations(tmp_path / "net.int8.pte", INT8)) == trained(source)


class _Moved(nn.Module):
    """A convolution, and its result moved about."""

    def __init__(self, move: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.move = nn.Conv2d(3, 5, 1), move

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.first(x)
        return y, self.move(y)


MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "nearest by 3 and 4": lambda y: F.interpolate(y, scale_factor=(3.0, 4.0), mode="nearest"),
    "nearest by 1 and 30": lambda y: F.interpolate(y, scale_factor=(1.0, 30.0), mode="nearest"),
    "slice with steps past the end": lambda y: y[:, ::4, 1::5, 2:10:3],
    "slice from behind": lambda y: y[:, -3:, :-2, -7::2],
    "pad and crop": lambda y: F.pad(y, (3, 0, 0, 2))[:, :, 1:],
}


@pytest.mark.parametrize("name", MOVES)
def test_movement_changes_no_integer(name, tmp_path):
    """What is moved equals what PyTorch moves, whichever operations of XNNPACK stand in for it."""
    source = source_of(lambda: _Moved(MOVES[name]), (1, 3, 11, 13))
    written = convert(source, tmp_path)
    for outputs in written.outputs.values():
        before, after = outputs.values()
        np.testing.assert_array_equal(after, MOVES[name](torch.from_numpy(before)).numpy())


class _Clamps(nn.Module):
    """A ReLU6 whose range a wider neighbour shares, and a ReLU after a product."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(x), self.second(x)
        return torch.cat([F.relu6(20 * a), 20 * b, torch.relu(a * b)], 1)


def test_clamps_inside_a_wider_range_run_in_integers(tmp_path):
    source = source_of(_Clamps, FEATURES)
    written = convert(source, tmp_path)
    assert "Clamp qint8" in written.artifact.kernels.integer
    assert np.mean(differences(source, written) <= 1) >= 0.999


class _Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.first(x)))


def test_a_module_kept_in_float_stays_in_float(tmp_path):
    source = source_of(_Head, FEATURES, keep_float=("head",))
    kernels = convert(source, tmp_path).artifact.kernels
    assert kernels.integer == {"Conv2d qint8": 1}
    assert kernels.floating == {"Conv2d fp32": 1}


def test_sixteen_bit_activations_are_refused(tmp_path):
    from edge_dp.quantization.qat import convert as converted
    from edge_dp.quantization.qat import freeze_ranges, observe_weights, prepare

    source = source_of(_Head, FEATURES)
    with quiet(), torch.no_grad():
        prepared = prepare(_Head().eval(), source.example, int16=["head"])
        prepared(torch.randn(FEATURES))
        freeze_ranges(prepared)
        observe_weights(prepared)
        wide = replace(source, graphs=replace(source.quantised, folded=converted(prepared)))
    with pytest.raises(ExportError, match=r"executorch int8: expected int8 activations, found torch.int16 .* int16x8"):
        convert(wide, tmp_path)


# ---- planted faults -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["first", "last"])
def test_a_changed_scale_in_the_payload_is_found(tmp_path, which):
    source = source_of_operation("sigmoid")
    scale = source.quantised.ranges[0 if which == "first" else -1].scale

    class Careless(ExecuTorchConverter):
        def _convert(self, source, config, path):
            super()._convert(source, config, path)
            before, after = struct.pack("<f", scale), struct.pack("<f", scale * 1.001)
            data = path.read_bytes()
            assert before in data
            path.write_bytes(data.replace(before, after))

    with pytest.raises(ExportError, match="expected the trained quantisation, found an activation with scale"):
        Careless().convert(source, INT8, tmp_path, {})


@pytest.mark.parametrize("name", ["sigmoid", "pad", "nearest x2"])
def test_float_between_conversions_is_found(tmp_path, monkeypatch, name):
    """What executorch's own partitioner writes: data go to float and back in the middle of the program."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    monkeypatch.setattr("edge_dp.converters.xnnpack_integer.integer_partitioner", XnnpackPartitioner)
    with pytest.raises(ExportError, match=r"executorch int8: expected integer kernels, found float ones: "):
        ExecuTorchConverter().convert(source_of_operation(name), INT8, tmp_path, {})


# ---- delegation, card, bytes ----------------------------------------------------------------------------------------------


class _Uneven(nn.Module):
    """XNNPACK has no pooling to windows of different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(self.first(x), (5, 7))


def test_what_the_delegate_leaves_is_listed_with_its_share_of_time(tmp_path):
    torch.manual_seed(0)
    network = network_of_module(_Uneven().eval(), {"x0": FEATURES}, None, "net")
    source = Source("net", network.module, None, network.signature)
    outside = ExecuTorchConverter().convert(source, FP32, tmp_path, {}).artifact.kernels.outside
    assert list(outside) == ["aten::_adaptive_avg_pool2d"]
    assert 0 < outside["aten::_adaptive_avg_pool2d"] < 1
    with pytest.raises(ExportError, match=r"expected full delegation, found .*: aten::_adaptive_avg_pool2d \(\d+%\)"):
        convert(source, tmp_path, FP32)


def test_the_float_program_equals_the_module(tmp_path):
    source = source_of_operation("hardswish")
    written = convert(source, tmp_path, FP32)
    assert not written.artifact.kernels.integer
    for seed, outputs in written.outputs.items():
        (array,) = outputs.values()
        with torch.no_grad():
            (expected,) = source.module(*(torch.from_numpy(x) for x in noise(source, int(seed)).values()))
        np.testing.assert_allclose(array, expected.numpy(), atol=1e-5)


def test_the_card_is_read_back_from_the_file_and_by_the_runtime(tmp_path):
    from executorch.runtime import Runtime

    convert(source_of_operation("relu"), tmp_path, probes=0)
    path = tmp_path / "net.int8.pte"
    assert read_card(path) == CARD
    method = Runtime.get().load_program(path).load_method(CARD_KEY)
    assert method is not None
    assert method.execute([]) == [CARD]


CONFIGS = [
    INT8,
    FP32,
    pytest.param(ExecuTorchConfig(precision="int8", backend="coreml"), marks=needs_coreml),
    ExecuTorchConfig(precision="fp16", backend="vulkan"),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_the_same_model_gives_the_same_bytes_without_paths(tmp_path, config):
    data = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        data.append(
            (tmp_path / name / convert(source_of_operation("cat"), tmp_path / name, config).artifact.path).read_bytes()
        )
    assert data[0] == data[1]
    for trace in (b"site-packages", b".py", str(Path(__file__).parents[2]).encode(), str(tmp_path).encode()):
        assert trace not in data[0]


# ---- delegates that run on a phone only -----------------------------------------------------------------------------------


@needs_coreml
@pytest.mark.parametrize("name", ["convolution", "add", "hardswish", "max pooling", "cat", "bilinear x2", "slice"])
def test_core_ml_delegate_holds_the_trained_integers(name, tmp_path):
    """The package inside the program, through the reference evaluator without its roundings to halves."""
    from edge_dp.converters.executorch_coreml import unpack
    from edge_dp.runtime.engines.coreml import read_metadata
    from edge_dp.runtime.engines.coreml import read_program as read_mil

    config = ExecuTorchConfig(precision="int8", backend="coreml")
    source = source_of_operation(name)
    written = convert(source, tmp_path, config)
    path = tmp_path / written.artifact.path
    assert not written.outputs
    assert not written.artifact.kernels.floating
    assert trained(source) == set(ExecuTorchConverter()._activations(path, config))
    (payload,) = read_program(path).payloads
    package = unpack(payload, tmp_path)
    assert read_card(path) == read_metadata(package)[CARD_KEY] == CARD
    program = read_mil(package, halves=False)
    errors = []
    for seed in range(4):
        result = program.run(dict(zip(program.inputs, noise(source, seed).values(), strict=True)))
        for array, tensor, step in zip(
            result.values(), converted_graph(source, seed), steps_of_outputs(source), strict=True
        ):
            errors.append(np.abs(np.rint((array - tensor.numpy()) / step)).ravel())
    assert np.mean(np.concatenate(errors) <= 1) >= 0.999


@needs_coreml
def test_different_models_have_different_names_on_an_iphone(tmp_path):
    """A device keeps what it compiled under the name in the payload."""
    config = ExecuTorchConfig(precision="fp16", backend="coreml")
    names = set()
    for name in ("relu", "clamp"):
        written = convert(source_of_operation(name), tmp_path, config)
        (payload,) = read_program(tmp_path / written.artifact.path).payloads
        start = payload.index(b"executorch_")
        names.add(payload[start : start + 47])
    assert len(names) == 2


def test_vulkan_takes_the_whole_program_in_half_the_size_in_halves(tmp_path):
    sizes = {}
    for precision in ("fp32", "fp16"):
        config = ExecuTorchConfig(precision=precision, backend="vulkan")
        written = convert(source_of_operation("linear"), tmp_path, config)
        assert written.artifact.kernels.floating == {"aten.convolution.default": 1, "aten.linear.default": 1}
        assert not written.artifact.kernels.integer
        assert not written.outputs
        assert read_card(tmp_path / written.artifact.path) == CARD
        sizes[precision] = written.artifact.size_bytes
    assert sizes["fp16"] < 0.7 * sizes["fp32"]
