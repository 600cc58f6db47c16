"""Core ML packages: every operation and precision against the model's graphs, what is read back, and what is in a package."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if any(importlib.util.find_spec(module) is None for module in ("coremltools", "torch", "torchao")):
    pytest.skip("needs the extras coreml and train", allow_module_level=True)

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from edge_dp.converters.base import Quantisation, Source, Written
from edge_dp.converters.cards import CARD_KEY
from edge_dp.converters.configs import CoreMLConfig
from edge_dp.converters.coreml import CoreMLConverter
from edge_dp.converters.coreml_program import stored_quantisations
from edge_dp.converters.operations import OPERATIONS
from edge_dp.converters.source import network_of_module, quantise_module
from edge_dp.errors import EngineError, ExportError
from edge_dp.quiet import quiet
from edge_dp.runtime.engines.base import Tensors
from edge_dp.runtime.engines.coreml import MODEL, read_metadata, read_program

PROBES = 6
CARD = json.dumps({"axis": "x", "unit": "px", "note": "Grüße"}, ensure_ascii=False)
W8A8 = CoreMLConfig(precision="w8a8")


def noise(source: Source, seed: int) -> Tensors:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in source.signature.inputs}


def source_of(
    net: nn.Module, inputs: dict[str, tuple[int, ...]], outputs: list[str], keep_float: tuple[str, ...] = ()
) -> Source:
    """``net`` with the quantisation that random inputs calibrate."""
    torch.manual_seed(1)
    network = network_of_module(net, inputs, outputs, "net")
    batches = [{name: torch.randn(shape) for name, shape in inputs.items()} for _ in range(4)]
    graphs = quantise_module(network, batches, keep_float)
    return Source("net", network.module, graphs, network.signature, CARD)


@cache
def operation(name: str) -> Source:
    torch.manual_seed(0)
    entry = OPERATIONS[name]
    return source_of(entry.build(), {f"input_{i}": shape for i, shape in enumerate(entry.shapes)}, ["result"])


def write(source: Source, config: CoreMLConfig, folder: Path, converter: CoreMLConverter | None = None) -> Written:
    probes = {str(seed): noise(source, 100 + seed) for seed in range(PROBES)}
    return (converter or CoreMLConverter()).convert(source, config, folder, probes)


def expected(module: nn.Module, source: Source, probe: int) -> dict[str, Any]:
    with torch.no_grad():
        results = module(*(torch.from_numpy(value) for value in noise(source, 100 + probe).values()))
    return {name: value.numpy() for name, value in zip(source.output_names, results, strict=True)}


def steps(found: Any, wanted: Any, scale: float) -> Any:
    return np.abs(np.rint(found / scale) - np.rint(wanted / scale))


class Pair(nn.Module):
    """Two inputs, not in the order of the alphabet, two outputs; squeeze-and-excite, a hard swish, a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.Conv2d(5, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.grow, self.head = nn.ConvTranspose2d(8, 8, 2, 2), nn.Conv2d(8, 2, 1)

    def forward(self, right: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        both = F.hardswish(self.norm(self.first(right))) + self.second(left)
        share = torch.sigmoid(self.excite(torch.relu(self.squeeze(F.adaptive_avg_pool2d(both, 1)))))
        both = both * share
        return self.head(self.grow(both)), F.max_pool2d(both, 2)


@pytest.fixture(scope="module")
def pair() -> Source:
    """Named so that no name is what the module or a toolchain would choose, and two are the other way round."""
    torch.manual_seed(0)
    return source_of(Pair(), {"right": (1, 3, 16, 24), "left": (1, 5, 8, 12)}, ["conv2d", "coarse"])


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_runs_in_integers_and_keeps_its_quantisation(name: str, tmp_path: Path) -> None:
    source = operation(name)
    written = write(source, W8A8, tmp_path)
    package = tmp_path / written.artifact.path
    assert set(stored_quantisations(package)) == {
        Quantisation(entry.scale, entry.zero_point) for entry in source.quantised.ranges
    }
    assert not written.artifact.kernels.floating
    scale = source.quantised.ranges[-1].scale
    unrounded = read_program(package, halves=False)
    halves, exact = [], []
    for probe in range(PROBES):
        wanted = expected(source.quantised.folded, source, probe)["result"]
        halves.append(steps(written.outputs[str(probe)]["result"], wanted, scale))
        exact.append(steps(unrounded.run(noise(source, 100 + probe))["result"], wanted, scale))
    assert np.mean(np.array(halves) <= 1) >= 0.999
    assert np.mean(np.array(exact) <= 1) >= 0.9995
    assert np.mean(np.array(exact) == 0) >= (0.9 if name == "linear" else 0.99)  # 10 values, 0.1 % of their biases


@pytest.mark.parametrize("name", ["convolution", "hardswish", "max pooling"])
@pytest.mark.parametrize(("precision", "allowed"), [("w8a16", 4e-3), ("fp16", 4e-3), ("fp32", 2e-6)])
def test_other_precisions_give_what_they_refer_to(precision: str, allowed: float, name: str, tmp_path: Path) -> None:
    source = operation(name)
    config = CoreMLConfig(precision=precision)
    written = write(source, config, tmp_path)
    reference = source.quantised.weights if precision == "w8a16" else source.module
    for probe in range(PROBES):
        wanted = expected(reference, source, probe)["result"]
        assert np.abs(written.outputs[str(probe)]["result"] - wanted).max() <= allowed * np.abs(wanted).max()
    assert not written.artifact.kernels.integer
    assert written.artifact.kernels.floating["conv"] >= 1


@pytest.mark.parametrize("precision", CoreMLConfig.precisions)
def test_two_inputs_and_two_outputs_keep_their_names(precision: str, pair: Source, tmp_path: Path) -> None:
    config = CoreMLConfig(precision=precision)
    written = write(pair, config, tmp_path)
    program = read_program(tmp_path / written.artifact.path)
    for found, promised in ((program.inputs, pair.signature.inputs), (program.outputs, pair.signature.outputs)):
        assert [(name, kind.shape, kind.dtype) for name, kind in found.items()] == [(*p, "fp32") for p in promised]
    references = {"w8a8": pair.quantised.folded, "w8a16": pair.quantised.weights}
    for probe in range(PROBES):
        wanted = expected(references.get(precision, pair.module), pair, probe)
        for name, value in wanted.items():
            assert np.abs(written.outputs[str(probe)][name] - value).max() <= 0.02 * np.abs(value).max()


def test_int8_weights_are_stored_as_such(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1))
    source = source_of(net, {"image": (1, 64, 4, 4)}, ["result"])
    size = {
        p: write(source, CoreMLConfig(precision=p), tmp_path / p).artifact.size_bytes for p in CoreMLConfig.precisions
    }
    parameters = sum(parameter.numel() for parameter in net.parameters())
    assert size["w8a16"] < size["w8a8"] < 1.25 * parameters
    assert size["fp16"] > 2 * parameters
    assert size["fp32"] > 4 * parameters


def test_modules_kept_in_float_are_counted_and_nothing_else_is(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))
    source = source_of(net, {"image": (1, 2, 8, 8)}, ["result"], keep_float=("2",))
    kernels = write(source, W8A8, tmp_path).artifact.kernels
    assert (kernels.integer, kernels.floating) == ({"conv": 1}, {"conv": 1})
    graphs = dataclasses.replace(source.quantised, kept_float=0)
    with pytest.raises(ExportError, match="coreml w8a8: expected integer kernels, found float ones: 1 x conv"):
        write(dataclasses.replace(source, graphs=graphs), W8A8, tmp_path)


def test_scales_that_the_converter_divides_are_detected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By default it normalises an addition: one side gets scale 1, and the sum a rounded quotient."""
    import coremltools as ct

    monkeypatch.setattr(ct.PassPipeline, "remove_passes", lambda *_: None)
    with pytest.raises(ExportError, match="coreml w8a8: expected the trained quantisation, found an activation"):
        write(operation("add"), W8A8, tmp_path)


def test_a_changed_scale_in_the_file_is_detected(tmp_path: Path) -> None:
    class Careless(CoreMLConverter):
        def _convert(self, source: Source, config: Any, path: Path) -> None:
            super()._convert(source, config, path)
            scale = np.float16(source.quantised.ranges[1].scale)
            model = (path / MODEL).read_bytes()
            assert scale.tobytes() in model
            (path / MODEL).write_bytes(model.replace(scale.tobytes(), np.nextafter(scale, np.float16(1)).tobytes()))

    with pytest.raises(ExportError, match="coreml w8a8: expected the trained quantisation, found an activation"):
        write(operation("relu"), W8A8, tmp_path, Careless())


def test_float_arithmetic_between_quantise_nodes_is_refused(tmp_path: Path) -> None:
    class Careless(CoreMLConverter):
        def _convert(self, source: Source, config: Any, path: Path) -> None:
            super()._convert(source, CoreMLConfig(precision="w8a16"), path)

    with pytest.raises(ExportError, match="coreml w8a8: expected integer kernels, found none"):
        write(operation("convolution"), W8A8, tmp_path, Careless())


def test_operations_that_core_ml_cannot_take_are_named(tmp_path: Path) -> None:
    source = operation("convolution")

    class Exotic(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor]:
            return (torch.special.bessel_j0(x),)

    with pytest.raises(ExportError, match=r"coreml fp16: the toolchain failed: .*bessel_j0"):
        write(dataclasses.replace(source, module=Exotic()), CoreMLConfig(precision="fp16"), tmp_path)


def test_a_package_carries_its_card(tmp_path: Path) -> None:
    written = write(operation("relu"), W8A8, tmp_path)
    metadata = read_metadata(tmp_path / written.artifact.path)
    assert metadata[CARD_KEY] == CARD
    assert "com.github.apple.coremltools.version" in metadata
    assert not any("date" in key for key in metadata)


def test_metadata_of_a_damaged_package(tmp_path: Path) -> None:
    package = tmp_path / write(operation("relu"), W8A8, tmp_path).artifact.path
    (package / MODEL).write_bytes(b"\xff" * 64)
    with pytest.raises(EngineError, match=r"mlpackage: no readable model"):
        read_metadata(package)
    shutil.rmtree(package)
    with pytest.raises(EngineError, match=r"mlpackage: no readable model"):
        read_metadata(package)


def test_a_package_is_reproducible_and_tells_nothing_of_the_machine(pair: Source, tmp_path: Path) -> None:
    packages = [tmp_path / word / write(pair, W8A8, tmp_path / word).artifact.path for word in ("one", "two")]
    contents = [
        {str(file.relative_to(package)): file.read_bytes() for file in package.rglob("*") if file.is_file()}
        for package in packages
    ]
    assert contents[0] == contents[1]
    assert set(contents[0]) == {"Manifest.json", str(MODEL), str(MODEL.parent / "weights" / "weight.bin")}
    for data in contents[0].values():
        for trace in (b"site-packages", b".py", str(Path(__file__).parents[2]).encode(), str(tmp_path).encode()):
            assert trace not in data
    modes = {file.stat().st_mode & 0o777 for file in packages[0].rglob("*") if file.is_file()}
    (tmp_path / "plain").write_text("")
    assert modes == {(tmp_path / "plain").stat().st_mode & 0o777}


def test_coremltools_reads_the_package_s_own_description(pair: Source, tmp_path: Path) -> None:
    import coremltools as ct

    package = tmp_path / write(pair, W8A8, tmp_path).artifact.path
    with quiet():
        model = ct.models.MLModel(str(package), skip_model_load=True)
    assert model.user_defined_metadata[CARD_KEY] == CARD
    assert [feature.name for feature in model.get_spec().description.input] == ["right", "left"]
