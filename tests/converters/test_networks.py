"""Whole networks through every format: the promises that ``benchmarks/networks.py`` measures, on small inputs."""

import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edge_dp
from edge_dp.converters.configs import CONFIGS, plan
from edge_dp.errors import ExportError

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
agreement, networks = import_module("agreement"), import_module("networks")
sys.path.pop(0)

HEIGHT, WIDTH = 64, 96
INTEGER = ["executorch-int8", "tflite-int8", "coreml-w8a8", "onnx-int8"]
SMALL = {
    "residual_transposed": lambda: networks.ResidualTransposed(width=8, blocks=1),
    "two_views": lambda: networks.TwoViews(width=8),
    "squeeze_excite": lambda: networks.SqueezeExciteNet(widths=(16, 24)),
}
BORDER = {"residual_transposed": (["views"], ["output"]), "squeeze_excite": (["views"], ["output"])}
BORDER["two_views"] = (["left", "right"], ["disparity", "confidence"])


class Exported:
    """A small version of a network of the benchmark, and its bundle of integer artifacts."""

    def __init__(self, name, folder):
        entry = replace(networks.NETWORKS[name], build=SMALL[name])
        self.subject = entry.subject(HEIGHT, WIDTH, samples=3)
        samples = [case.inputs for case in self.subject.cases if case.kind == "typical"]
        shapes = dict(self.subject.network.signature.inputs)
        module = self.subject.network.module.module  # the network itself, below what makes a tuple of its outputs
        integer = [config for form in CONFIGS for config in plan([form]) if config.integer]
        self.bundle = edge_dp.export(
            module, shapes, folder, name=name, formats=integer, calibration=samples, require_full_delegation=True
        )

    def outputs(self, artifact):
        return {case.name: self.bundle.artifact_outputs(case, artifact) for case in self.bundle.manifest.golden}

    def agreement(self, one, two):
        return agreement.Agreement.of(one, two, self.subject.steps)


@pytest.fixture(scope="module", params=SMALL)
def exported(request, tmp_path_factory):
    return Exported(request.param, tmp_path_factory.mktemp("bundle") / request.param)


def test_every_format_is_written_in_integers_alone_with_nothing_outside_the_delegate(exported):
    assert [artifact.name for artifact in exported.bundle.manifest.artifacts] == INTEGER
    for artifact in exported.bundle.manifest.artifacts:
        assert artifact.kernels.integer and not artifact.kernels.floating and not artifact.kernels.outside, artifact


def test_names_are_kept(exported):
    manifest = exported.bundle.manifest
    assert ([spec.name for spec in manifest.inputs], [spec.name for spec in manifest.outputs]) == BORDER[manifest.model]
    for artifact in INTEGER:
        assert all(list(outputs) == BORDER[manifest.model][1] for outputs in exported.outputs(artifact).values())


def test_xnnpack_artifacts_equal_each_other_and_the_integer_reference(exported):
    reference = exported.subject.outputs_of("reference")
    pte, tflite = exported.outputs("executorch-int8"), exported.outputs("tflite-int8")
    assert exported.agreement(pte, tflite).snr_db >= networks.SNR_DB
    for found in (pte, tflite):
        assert exported.agreement(found, reference).equal >= 0.999


def test_every_artifact_is_near_the_converted_graph(exported):
    """Rounding differs by engine and grows through the network; a wrong scale, axis or order would leave nothing near."""
    wanted = exported.subject.outputs_of("quantised")
    stored = {case.name: exported.bundle.golden_outputs(case, "quantised") for case in exported.bundle.manifest.golden}
    assert exported.agreement(stored, wanted).equal == 1  # the export quantises as the benchmark does
    for artifact in INTEGER:
        assert exported.agreement(exported.outputs(artifact), wanted).snr_db > 20, artifact


class Upsampled(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)

    def forward(self, x):
        return nn.functional.interpolate(self.first(x), scale_factor=2.0, mode="bilinear")


class Sum(nn.Module):
    """An addition, whose ties PyTorch rounds to even and XNNPACK up."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(2, 8, 1)

    def forward(self, x, y):
        return self.first(x) + self.second(y)


@pytest.fixture(scope="module")
def upsampled():
    torch.manual_seed(0)
    samples = [np.random.default_rng(n).normal(size=(1, 2, 16, 24)).astype(np.float32) for n in range(3)]
    return agreement.calibrated(Upsampled(), {"x": (1, 2, 16, 24)}, samples, "upsampled")


def test_graph_and_reference_do_not_part_where_ties_go_up(upsampled):
    assert str(agreement.parting(upsampled)) == "nowhere"


def test_parting_names_the_operation_that_pytorch_rounds_otherwise():
    torch.manual_seed(0)
    shapes = {"x": (1, 2, 96, 128), "y": (1, 2, 96, 128)}
    rng = np.random.default_rng(5)
    samples = [{name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(3)]
    found = agreement.parting(agreement.calibrated(Sum(), shapes, samples, "sum"))
    assert found.first_operation == "add" and 0 < found.first_share < 0.01
    assert found.fresh["conv2d"] < 0.001


def test_agreement_counts_steps():
    wanted = {"a": {"y": np.zeros((1, 10), np.float32)}, "b": {"y": np.ones((1, 10), np.float32)}}
    found = {"a": {"y": wanted["a"]["y"].copy()}, "b": {"y": wanted["b"]["y"].copy()}}
    found["a"]["y"][0, :2] = 0.5, -1.0  # of a step of 0.5: one and two steps
    found["b"]["y"][0, 0] = 3.0  # four
    result = agreement.Agreement.of(found, wanted, {"y": 0.5})
    assert (result.equal, result.within_1, result.within_2) == pytest.approx((17 / 20, 18 / 20, 19 / 20))
    assert result.max_steps == 4 and result.snr_db == pytest.approx(10 * np.log10(10 / (0.25 + 1 + 4)))


def test_a_refusal_has_its_reason(upsampled, tmp_path, monkeypatch):
    (config,) = (one for one in plan(["onnx"]) if one.integer)

    def refuse(*_, **__):
        raise ExportError("onnx int8: no integer kernel;\n do something else")

    monkeypatch.setattr(agreement, "check_network", refuse)
    found = agreement.attempt(upsampled, config, tmp_path)
    assert found.refused == "onnx int8: no integer kernel; do something else" and found.outputs is None


@pytest.mark.parametrize("channels", [2, 5])
def test_unet_is_that_of_the_paper(channels):
    """Of 6,628,945 parameters with the three inputs of its makers; each input more or less is 32 kernels of 3x3."""
    module = networks.MobileUNet(channels).eval()
    assert sum(p.numel() for p in module.parameters()) == 6_628_945 + (channels - 3) * 32 * 9
    with torch.no_grad():
        assert module(torch.zeros(1, channels, 32, 64)).shape == (1, 1, 32, 64)


@pytest.mark.slow
def test_deep_unet_agrees_between_pte_and_tflite(tmp_path):
    subject = networks.NETWORKS["unet_mobilenet_v2_2"].subject(HEIGHT, WIDTH, samples=3)
    found = networks.study(subject, plan(["executorch", "tflite"], "int8"), tmp_path)
    assert all(one.delegated == "fully" for one in found.attempts)
    assert found.between["executorch-int8 | tflite-int8"].snr_db >= networks.SNR_DB
