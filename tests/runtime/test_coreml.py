"""The Core ML engines: converted networks against torch, half precision, damaged packages, and what each refuses."""

from __future__ import annotations

import gc
import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

if any(importlib.util.find_spec(module) is None for module in ("coremltools", "torch")):
    pytest.skip("needs the coreml extra", allow_module_level=True)

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from edge_dp.errors import EngineError, MissingExtraError
from edge_dp.quiet import quiet
from edge_dp.runtime.engines import ENGINES, make_engine
from edge_dp.runtime.engines.base import Engine, Signature
from edge_dp.runtime.engines.coreml import read_program
from edge_dp.runtime.engines.mil.registry import OPS, OpEntry, mil_op

with quiet():
    import coremltools as ct

    pass

SHAPE = (1, 2, 32, 48)
WEIGHTS = Path("Data/com.apple.CoreML/weights/weight.bin")
MODEL = Path("Data/com.apple.CoreML/model.mlmodel")


@pytest.fixture(autouse=True, scope="module")
def _few_objects_to_collect() -> Iterator[None]:
    """Every conversion collects garbage; walking all that torch allocated on import would take most of the time."""
    gc.freeze()
    yield
    gc.unfreeze()


def image(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Any:
    return np.random.default_rng(seed).uniform(0, 1, shape).astype(np.float32)


def package_of(net: nn.Module, path: Path, precision: str = "FLOAT32", x: Any = None, **options: Any) -> Path:
    """The network as the exporters write it: exported, decomposed, converted, saved."""
    example = torch.from_numpy(image() if x is None else x)
    exported = torch.export.export(net.eval(), (example,)).run_decompositions({})
    with quiet():
        model = ct.convert(
            exported,
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.precision[precision],
            outputs=[ct.TensorType(name="out")],
            skip_model_load=True,
            **options,
        )
        model.save(str(path))
    return path


class Formula(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def evaluated(model: nn.Module, x: Any, path: Path, precision: str = "FLOAT32") -> Any:
    """``model(x)`` through a package."""
    x = np.asarray(x, dtype=np.float32)
    program = read_program(package_of(model, path, precision, x))
    (name,) = program.inputs
    return program.run({name: x})["out"]


def reference(package: Path, signature: Signature, threads: int = 1) -> Engine:
    return make_engine(ENGINES["coreml-reference"], package, signature, threads)


def engine_for(package: Path, threads: int = 1) -> Engine:
    """An engine whose signature is the package's own."""
    program = read_program(package)
    inputs, outputs = (
        tuple((name, kind.shape) for name, kind in side.items()) for side in (program.inputs, program.outputs)
    )
    return reference(package, Signature(inputs, outputs), threads)


class SmallNet(nn.Module):
    """Two views to one map: convolutions, a depthwise one, bilinear upsampling, a skip, a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 16, 3, 2, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.pointwise, self.norm = nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.grow, self.head = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(24, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        low = F.relu(self.stem(x))
        low = self.norm(self.pointwise(F.relu6(self.depthwise(low)))) + low
        up = F.interpolate(low, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.head(torch.cat([up, self.grow(low)], 1))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return SmallNet().eval()


@pytest.fixture(scope="module")
def float_package(net: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package_of(net, tmp_path_factory.mktemp("float") / "net.mlpackage")


@pytest.fixture(scope="module")
def quantised(net: nn.Module) -> nn.Module:
    """The network with 8-bit weights and activations, as a converted PT2E graph."""
    pytest.importorskip("executorch")
    with quiet():
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    graph = prepare_pt2e(torch.export.export(net, (torch.from_numpy(image()),)).module(), quantizer)
    for seed in range(3):
        graph(torch.from_numpy(image(seed=seed)))
    converted: nn.Module = convert_pt2e(graph)
    converted.eval = lambda: converted  # type: ignore[method-assign]  # an exported graph has no such mode
    return converted


def snr_db(found: Any, expected: Any) -> float:
    return float(10 * np.log10(np.square(expected).mean() / np.square(found - expected).mean()))


def test_float32_package_equals_the_network(net: nn.Module, float_package: Path) -> None:
    x = image(seed=9)
    with engine_for(float_package) as engine:
        found = engine.infer({"x": x})["out"]
    assert found.dtype == np.float32
    assert np.abs(found - net(torch.from_numpy(x)).detach().numpy()).max() <= 1e-6


def test_float16_package_is_close_to_the_network(net: nn.Module, tmp_path: Path) -> None:
    x = image(seed=9)
    found = evaluated(net, x, tmp_path / "net.mlpackage", "FLOAT16")
    assert np.array_equal(found, found.astype(np.float16))
    assert snr_db(found, net(torch.from_numpy(x)).detach().numpy()) >= 55


def test_w8a8_float32_package_equals_the_converted_graph(quantised: nn.Module, tmp_path: Path) -> None:
    package = package_of(quantised, tmp_path / "w8a8.mlpackage")
    x = image(seed=9)
    with engine_for(package) as engine:
        found = engine.infer({"x": x})["out"]
    ops = read_program(package).op_types
    assert {"quantize", "dequantize", "conv", "conv_transpose", "upsample_bilinear"} <= set(ops)
    assert not any(op.startswith("constexpr") for op in ops)  # the weights are unpacked once, when loading
    assert np.abs(found - quantised(torch.from_numpy(x)).detach().numpy()).max() <= 1e-6


def test_w8a8_float16_package_is_within_steps_of_the_converted_graph(quantised: nn.Module, tmp_path: Path) -> None:
    """The converter rounds every scale to half, so values near the middle of two steps change sides in each layer.

    With scales that are off by up to 2^-12 an SNR of 34 to 49 dB is what the format gives, whatever executes it; the
    error in steps of the output says more.
    """
    x = image(seed=9)
    found = evaluated(quantised, x, tmp_path / "w8a8.mlpackage", "FLOAT16")
    expected = quantised(torch.from_numpy(x)).detach().numpy()
    step = np.diff(np.unique(expected)).min()
    assert np.array_equal(found, found.astype(np.float16))
    assert np.abs(found - expected).max() <= 4.1 * step  # the step itself is a little off, too
    assert snr_db(found, expected) >= 30


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "padding by name, even kernel": lambda: nn.Conv2d(2, 4, (2, 4), padding="same", dilation=2),
    "reflected and replicated padding": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), nn.Conv2d(4, 4, 3, padding=1, padding_mode="replicate")
    ),
    "transposed convolution with output padding": lambda: nn.ConvTranspose2d(2, 4, 3, 2, 1, output_padding=1),
    "pools": lambda: nn.Sequential(
        nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.AvgPool2d(3, 2, ceil_mode=True)
    ),
    "squeeze and excitation": lambda: nn.Sequential(
        nn.Conv2d(2, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4), nn.Hardswish(), nn.Hardsigmoid()
    ),
    "norms and activations": lambda: nn.Sequential(
        nn.Conv2d(2, 8, 1), nn.GroupNorm(2, 8), nn.SiLU(), nn.InstanceNorm2d(8), nn.GELU(), nn.PReLU(8), nn.LeakyReLU()
    ),
    "resizing to a size": lambda: Formula(
        lambda x: F.interpolate(
            F.interpolate(x, (45, 31), mode="bilinear", align_corners=True), (60, 70), mode="nearest"
        )
    ),
    "soft argmin over shifts": lambda: Formula(
        lambda x: (
            torch.stack([x[:, :1, :, 4:-4] * x[:, 1:, :, s : s + 40] for s in range(9)], 1).squeeze(2).softmax(1)
            * torch.linspace(-4, 4, 9).reshape(1, 9, 1, 1)
        ).sum(1, keepdim=True)
    ),
    "shuffles": lambda: Formula(lambda x: F.pixel_shuffle(torch.cat(F.pixel_unshuffle(x, 4).chunk(2, 1)[::-1], 1), 2)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_converted_networks(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = NETWORKS[name]().eval(), image()
    found, expected = evaluated(model, x, tmp_path / "net.mlpackage"), model(torch.from_numpy(x)).detach().numpy()
    assert np.abs(found - expected).max() <= 1e-6 * max(1, np.abs(expected).max())


def test_half_overflows_to_infinity(tmp_path: Path) -> None:
    found = evaluated(Formula(lambda x: x * 2), [[40000.0, 30000.0]], tmp_path / "net.mlpackage", "FLOAT16")
    assert found.tolist() == [[np.inf, 60000.0]]


def test_half_is_rounded_between_ops(tmp_path: Path) -> None:
    found = evaluated(Formula(lambda x: (x + 1) - 1), [[1e-4, 2.0**-10]], tmp_path / "net.mlpackage", "FLOAT16")
    assert found.tolist() == [[0.0, 2.0**-10]]


def test_halves_can_be_left_unrounded(tmp_path: Path) -> None:
    """As integer kernels do between a dequantize and a quantize; infinity is then no limit either."""
    package = package_of(Formula(lambda x: (x + 1) - 1), tmp_path / "net.mlpackage", "FLOAT16", image((1, 2)))
    x = np.float32([[2.0**-14, 70000.0]])
    assert read_program(package).run({"x": x})["out"].tolist() == [[0.0, np.inf]]
    assert read_program(package, halves=False).run({"x": x})["out"].tolist() == x.tolist()


def test_half_is_not_rounded_inside_an_op(tmp_path: Path) -> None:
    """A running sum of halves would stay at 2048."""
    found = evaluated(Formula(lambda x: x.sum(1)), np.ones((1, 4000)), tmp_path / "net.mlpackage", "FLOAT16")
    assert found.tolist() == [4000.0]


def damage(package: Path, copy: Path, how: Callable[[Path], object]) -> Path:
    shutil.copytree(package, copy)
    how(copy)
    return copy


def _cut(file: Path, keep: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])


DAMAGES: dict[str, Callable[[Path], object]] = {
    **{f"weights cut to {keep:.0%}": lambda p, keep=keep: _cut(p / WEIGHTS, keep) for keep in (0, 0.02, 0.5, 0.99)},
    "weights missing": lambda p: (p / WEIGHTS).unlink(),
    "weights folder missing": lambda p: shutil.rmtree((p / WEIGHTS).parent),
    "weights garbage": lambda p: (p / WEIGHTS).write_bytes(b"\xff" * 4096),
    "model cut": lambda p: _cut(p / MODEL, 0.5),
    "model empty": lambda p: (p / MODEL).write_bytes(b""),
    "model garbage": lambda p: (p / MODEL).write_bytes(b"\xff" * 500),
    "model missing": lambda p: (p / MODEL).unlink(),
    "manifest missing": lambda p: (p / "Manifest.json").unlink(),
    "manifest garbage": lambda p: (p / "Manifest.json").write_text("{"),
    "everything missing": lambda p: (shutil.rmtree(p), p.mkdir()),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_package_is_an_error_that_names_it(name: str, float_package: Path, tmp_path: Path) -> None:
    signature = engine_for(float_package).signature
    package = damage(float_package, tmp_path / "broken.mlpackage", DAMAGES[name])
    with pytest.raises(EngineError, match=r"broken\.mlpackage"):
        reference(package, signature).activate()


def test_missing_package(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"absent\.mlpackage: no such artifact"):
        reference(tmp_path / "absent.mlpackage", Signature((), ())).activate()


def test_unknown_op_is_named_with_its_output(tmp_path: Path) -> None:
    package = package_of(Formula(lambda x: torch.cumsum(x, 1)), tmp_path / "net.mlpackage")
    with pytest.raises(EngineError, match=r"net\.mlpackage: MIL op 'cumsum' with output 'out' has no reference"):
        reference(package, Signature((("x", SHAPE),), (("out", SHAPE),))).activate()


def _refuses(x: Tensor) -> Tensor:
    raise RuntimeError("no such kernel")


@pytest.mark.parametrize(
    ("function", "words"),
    [(_refuses, "failed: no such kernel"), (lambda x: x[..., 1:], r"declared \(1, 16, 16, 24\), computed .*23\)")],
    ids=["kernel fails", "shape contradicts the program"],
)
def test_op_that_goes_wrong_is_named(
    function: Callable[[Tensor], Tensor], words: str, float_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPS, "relu", OpEntry(function, moves=True))
    with engine_for(float_package) as engine, pytest.raises(EngineError, match=rf"net\.mlpackage.*'relu'.*{words}"):
        engine.infer({"x": image()})


def test_operand_that_an_op_does_not_take(float_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPS, "conv", OpEntry(lambda x, weight: x, moves=True))
    with pytest.raises(EngineError, match=r"MIL op 'conv' with output .*unexpected keyword argument"):
        read_program(float_package)


def test_an_op_has_one_meaning() -> None:
    with pytest.raises(ValueError, match="'relu' is registered twice"):
        mil_op("relu")(F.relu)


def test_wrong_input_shape(float_package: Path) -> None:
    with engine_for(float_package) as engine, pytest.raises(EngineError, match=r"'x': expected shape \(1, 2, 32, 48\)"):
        engine.infer({"x": image((1, 2, 48, 32))})
    program = read_program(float_package)
    with pytest.raises(EngineError, match=r"'x': expected shape .* found \(1, 2, 48, 32\)"):
        program.run({"x": image((1, 2, 48, 32))})
    with pytest.raises(EngineError, match="found nothing"):
        program.run({})


@pytest.mark.parametrize(
    ("inputs", "outputs", "side"),
    [
        ((("x", (1, 2, 48, 32)),), (("out", (1, 1, 32, 48)),), "inputs"),
        ((("x", SHAPE),), (("disparity", (1, 1, 32, 48)),), "outputs"),
        ((("x", SHAPE),), (), "outputs"),
    ],
)
def test_signature_must_be_the_package_s_own(inputs: Any, outputs: Any, side: str, float_package: Path) -> None:
    with pytest.raises(EngineError, match=rf"net\.mlpackage: expected {side} "):
        reference(float_package, Signature(inputs, outputs)).activate()


def test_flexible_shape_is_refused(tmp_path: Path) -> None:
    flexible = [ct.TensorType(name="x", shape=(1, 2, ct.RangeDim(8, 64, 32), 48))]
    rows = torch.export.Dim("rows", min=8, max=64)
    exported = torch.export.export(nn.ReLU(), (torch.from_numpy(image()),), dynamic_shapes=({2: rows},))
    with quiet():
        model = ct.convert(
            exported.run_decompositions({}),
            inputs=flexible,
            minimum_deployment_target=ct.target.iOS17,
            skip_model_load=True,
        )
        model.save(str(tmp_path / "net.mlpackage"))
    with pytest.raises(EngineError, match=r"net\.mlpackage: .*expected a fixed shape"):
        read_program(tmp_path / "net.mlpackage")


def test_threads_are_set_for_the_run_and_restored(float_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, seen = torch.get_num_threads(), []

    def relu(x: Tensor) -> Tensor:
        seen.append(torch.get_num_threads())
        return F.relu(x)

    monkeypatch.setitem(OPS, "relu", OpEntry(relu, moves=True))
    with engine_for(float_package, threads=before + 1) as engine:
        engine.infer({"x": image()})
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
def test_outputs_are_fresh_and_inputs_are_left_alone(tmp_path: Path) -> None:
    x = image()
    x.flags.writeable = False
    with engine_for(package_of(Formula(lambda v: v.reshape(2, 32, 48)), tmp_path / "net.mlpackage")) as engine:
        first = engine.infer({"x": x})["out"]
        first += 1
        assert np.array_equal(engine.infer({"x": x})["out"], x.reshape(2, 32, 48))


def test_core_ml_itself_needs_a_mac(float_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    with pytest.raises(MissingExtraError, match="macOS only; coreml-reference evaluates the same program"):
        make_engine(ENGINES["coreml"], float_package, engine_for(float_package).signature)


class AppleRuntimeDouble:
    """Stands in for ``coremltools.models.MLModel`` on a Mac: gives halves, knows no order, and has been compiled.

    No Mac can run these tests: what this double cannot show is whether Apple's runtime behaves as its documentation says.
    """

    def __init__(self, path: str, compute_units: Any) -> None:
        self.path, self.compute_unit = path, compute_units

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {"other": inputs["x"], "out": np.float16(inputs["x"][:, :1])}

    def get_compiled_model_path(self) -> str:
        return f"{self.path}.mlmodelc"


class ComputePlanDouble:
    """Stands in for ``MLComputePlan``: three operations on the Neural Engine, one on the CPU, and a constant on neither."""

    class MLNeuralEngineComputeDevice: ...

    class MLCPUComputeDevice: ...

    def __init__(self, path: str, compute_units: Any) -> None:
        self.asked = path, compute_units
        block = SimpleNamespace(operations=["const", "conv", "conv", "relu", "resize_bilinear"])
        program = SimpleNamespace(functions={"main": SimpleNamespace(block=block)})
        self.model_structure = SimpleNamespace(program=program)

    def get_compute_device_usage_for_mlprogram_operation(self, operation: str) -> Any:
        if operation == "const":
            return None
        device = self.MLCPUComputeDevice if operation == "resize_bilinear" else self.MLNeuralEngineComputeDevice
        return SimpleNamespace(preferred_compute_device=device())


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Doubles of Apple's parts in place; what compute plans were asked for."""
    asked: list[tuple[str, Any]] = []

    def load_from_path(path: str, compute_units: Any) -> ComputePlanDouble:
        asked.append((path, compute_units))
        return ComputePlanDouble(path, compute_units)

    plan = SimpleNamespace(MLComputePlan=SimpleNamespace(load_from_path=load_from_path))
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr(ct.models, "MLModel", AppleRuntimeDouble)
    monkeypatch.setitem(sys.modules, "coremltools.models.compute_plan", plan)
    return asked


def test_core_ml_gets_its_inputs_by_name_and_tells_its_placement(float_package: Path, mac: list[Any]) -> None:
    signature = Signature((("x", SHAPE),), (("out", (1, 1, 32, 48)), ("other", SHAPE)))
    units = {"compute_units": "CPU_AND_NE"}
    with make_engine(ENGINES["coreml"], float_package, signature, options=units) as engine:
        outputs = engine.infer({"x": image()})
        state = engine.state()
    assert [(name, output.dtype) for name, output in outputs.items()] == [("out", np.float32), ("other", np.float32)]
    assert mac == [(f"{float_package}.mlmodelc", ct.ComputeUnit.CPU_AND_NE)]
    assert state.placement == {"NeuralEngine": 3, "CPU": 1}
    assert state.version == ct.__version__


def test_unknown_compute_units(float_package: Path, mac: list[Any]) -> None:
    with pytest.raises(
        EngineError, match=r"expected options compute_units ALL, CPU_ONLY, .* found compute_units 'NPU'"
    ):
        make_engine(ENGINES["coreml"], float_package, Signature((), ()), options={"compute_units": "NPU"})
