"""Stage parity: a fault planted in one stage is found in the row of that stage, and in no other."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import edge_dp
from edge_dp.bundle.check import STAGES, check_bundle
from edge_dp.bundle.manifest import Artifact, Kernels
from edge_dp.converters.base import Source
from edge_dp.converters.calibration import read_samples
from edge_dp.converters.describe import describe_network
from edge_dp.converters.golden import expected_outputs, network_cases
from edge_dp.converters.source import network_of_module, quantise_module
from edge_dp.converters.stages import MEANINGS, Stages, measure_stages, read_stages, write_stages
from edge_dp.errors import InputError, SchemaError
from edge_dp.quantization.qat import fake_quantised

SHAPE = (1, 4, 8, 12)


class TwoHeads(nn.Module):
    """One trunk, two outputs, batch-norm to be folded."""

    def __init__(self):
        super().__init__()
        self.trunk, self.norm = nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.first, self.second = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x):
        features = torch.relu(self.norm(self.trunk(x)))
        return self.first(features), self.second(features)


@pytest.fixture(scope="module")
def job():
    """Network, golden cases, source and manifest of a small network, quantised as ``edge_dp.export`` does."""
    torch.manual_seed(4)
    network = network_of_module(TwoHeads(), {"x": SHAPE}, ("first", "second"), "two_heads")
    samples = read_samples(network, [torch.randn(SHAPE).numpy() for _ in range(3)])
    graphs = quantise_module(network, samples.batches)
    source = Source(network.name, network.module, graphs, network.signature)
    return network, samples, source, describe_network(network, graphs, samples).draft


def artifact(name, reference):
    return Artifact(name, "onnx", "any", reference, f"{name}.onnx", 1, {f"{name}.onnx": "0" * 64}, Kernels({}, {}))


def stages_of(job, source=None, spoil=lambda outputs: outputs):
    """Stages of the job's network, or of ``source`` in its place, and of artifacts that give what they must but for ``spoil``."""
    network, samples, good, manifest = job
    source, cases = source or good, network_cases(network, samples)
    artifacts = (artifact("int8", "quantised"), artifact("w8a16", "weights"), artifact("fp32", "float"))
    expected = expected_outputs(source, cases, {"float", "weights", "quantised"})
    found = {a.name: copy.deepcopy(expected[a.reference]) for a in artifacts}
    return measure_stages(source, replace(manifest, artifacts=artifacts), cases, expected, spoil(found))


def lossy(stages, output="first", least=0.02):
    """Stages that lose more than rounding to int8 does here, where calibration foresaw the inputs."""
    return {row.stage for row in stages.rows if row.typical[output].mean_abs > least}


def test_each_stage_stands_beside_the_one_it_was_made_from(job):
    stages = stages_of(job)
    assert [(row.stage, row.neighbour) for row in stages.rows] == [
        ("rewritten", "float"),
        ("weights", "rewritten"),
        ("fake_quantised", "weights"),
        ("converted", "fake_quantised"),
        ("converted_weights", "weights"),
        ("int8", "converted"),
        ("w8a16", "converted_weights"),
        ("fp32", "float"),
    ]
    assert set(MEANINGS) == {row.stage for row in stages.rows} - {"int8", "w8a16", "fp32"}
    assert stages.cases == ("typical_0", "typical_1", "typical_2", "random", "extreme_low", "extreme_high")
    assert stages.outputs == ["first", "second"]
    assert not lossy(stages)


def test_errors_are_those_of_the_graphs_themselves(job):
    """Against the prepared and the converted graph run as they are."""
    network, samples, source, _ = job
    rows = {row.stage: row for row in stages_of(job).rows}
    inputs = [torch.from_numpy(case.inputs["x"]) for case in network_cases(network, samples)]
    with torch.no_grad():
        runs = {
            name: [graph(x)[1].numpy() for x in inputs]
            for name, graph in {
                "float": network.module,
                "fake_quantised": source.quantised.prepared,
                "converted": source.quantised.folded,
            }.items()
        }

    def mean(stage, reference, count):
        return np.mean(
            [np.abs(a - b).mean() for a, b in zip(runs[stage][:count], runs[reference][:count], strict=True)]
        )

    for stage in ("fake_quantised", "converted"):
        assert rows[stage].from_float["second"].mean_abs == pytest.approx(mean(stage, "float", 6), rel=1e-5)
    assert rows["converted"].statistics["second"].mean_abs == pytest.approx(
        mean("converted", "fake_quantised", 6), abs=1e-9
    )
    assert rows["fp32"].statistics["second"].max_abs == 0
    found = rows["int8"].from_float["second"].mean_abs
    assert found == pytest.approx(mean("converted", "float", 6), rel=1e-5)
    typical = rows["converted"].typical["second"]
    assert typical.mean_abs == pytest.approx(mean("converted", "fake_quantised", 3), abs=1e-9)


def test_int8_weights_are_rounded_to_the_nearest_step(job):
    """Oracle written out: batch-norm folded by hand, scales from the largest weight of each channel, exact in halves."""
    network, samples, _, _ = job
    rows = {row.stage: row for row in stages_of(job).rows}
    module = copy.deepcopy(network.module.module)
    norm = module.norm
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)

    def rounded(weight):
        scale = (weight.abs().amax(dim=(1, 2, 3), keepdim=True) / 127).half().float()
        return torch.clamp(torch.round(weight / scale), -127, 127) * scale

    with torch.no_grad():
        bias = (module.trunk.bias - norm.running_mean) * gain + norm.bias
        errors = []
        for case in network_cases(network, samples):
            x = torch.from_numpy(case.inputs["x"])
            weight = rounded(module.trunk.weight * gain[:, None, None, None])
            features = torch.relu(nn.functional.conv2d(x, weight, bias, padding=1))
            first = nn.functional.conv2d(features, rounded(module.first.weight), module.first.bias)
            errors.append((first - module(x)[0]).abs().mean().item())
    assert rows["weights"].from_float["first"].mean_abs == pytest.approx(
        np.mean(errors), rel=0.02
    )  # biases lie on grids


def test_rounding_activations_costs_most_in_a_sound_export(job):
    stages = stages_of(job)
    for output in stages.outputs:
        assert stages.worst(output).stage == "fake_quantised"


def test_another_weight_in_the_float_model(job):
    module = copy.deepcopy(job[2].module)
    with torch.no_grad():
        module.module.first.weight[0] *= 2
    stages = stages_of(job, replace(job[2], module=module))
    assert lossy(stages) == {"rewritten"}
    assert stages.worst("first").stage == "rewritten"
    assert not lossy(stages, "second")


def test_weights_of_too_few_bits(job):
    graphs = job[2].quantised
    prepared = copy.deepcopy(graphs.prepared)
    for _, source, fake_quantise in fake_quantised(prepared):
        if source.op == "get_attr":
            for module in (fake_quantise, fake_quantise.activation_post_process):
                module.quant_min, module.quant_max = -1, 1
    stages = stages_of(job, replace(job[2], graphs=replace(graphs, prepared=prepared)))
    # what was converted is sound: it differs from what it should have been made from
    assert lossy(stages) == {"weights", "converted", "converted_weights"}


def test_ranges_that_cut_the_activations(job):
    network, samples, source, _ = job
    dim = [{"x": 0.1 * batch["x"]} for batch in samples.batches]
    stages = stages_of(job, replace(source, graphs=quantise_module(network, dim)))
    assert lossy(stages) == {"fake_quantised"}


def test_a_wrong_scale_in_the_converted_graph(job):
    graphs = job[2].quantised
    folded = copy.deepcopy(graphs.folded)
    (returned,) = folded.graph.output_node().args
    dequantise = returned[0]
    dequantise.args = (dequantise.args[0], dequantise.args[1] * 1.5, *dequantise.args[2:])
    folded.recompile()
    stages = stages_of(job, replace(job[2], graphs=replace(graphs, folded=folded)))
    assert lossy(stages) == {"converted"}
    assert stages.worst("first").stage == "converted"
    assert stages.worst("second").stage == "fake_quantised"


@pytest.mark.parametrize("name", ["int8", "w8a16", "fp32"])
def test_an_artifact_that_differs(job, name):
    def spoil(found):
        for case in ("typical_0", "random"):
            found[name][case]["second"] += 0.3
        return found

    stages = stages_of(job, spoil=spoil)
    assert not lossy(stages, "first")
    assert lossy(stages, "second") == {name}
    row = stages.worst("second")
    assert row.stage == name
    assert row.statistics["second"].mean_abs == pytest.approx(0.3 * 2 / 6, rel=1e-3)
    assert row.typical["second"].mean_abs == pytest.approx(0.3 / 3, rel=1e-3)


def test_values_that_are_not_finite_are_the_worst(job):
    def spoil(found):
        found["fp32"]["random"]["first"][0, 0, 0, 0] = np.nan
        return found

    stages = stages_of(job, spoil=spoil)
    assert stages.worst("first").stage == "fp32"
    assert stages.worst("first").statistics["first"].not_finite == 1
    json.dumps(stages.worst("first").statistics["first"].snr_db, allow_nan=False)


def test_artifacts_that_did_not_run_have_no_row(job):
    stages = stages_of(job, spoil=lambda found: {**found, "int8": {}, "fp32": {}})
    assert [row.stage for row in stages.rows if row.stage not in MEANINGS] == ["w8a16"]


def test_worst_of_exact_stages_is_none(job):
    network, samples, source, manifest = job
    floats = replace(source, graphs=None)
    cases = network_cases(network, samples)
    expected = expected_outputs(floats, cases, {"float"})
    described = replace(manifest, artifacts=(artifact("fp32", "float"),))
    stages = measure_stages(floats, described, cases, expected, {"fp32": expected["float"]})
    assert [(row.stage, row.neighbour) for row in stages.rows] == [("fp32", "float")]
    assert stages.worst("first") is None


# on disk


def test_what_is_written_is_read_back(job, tmp_path):
    stages = stages_of(job)
    write_stages(stages, tmp_path)
    assert read_stages(tmp_path) == stages


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda d: d.update(schema=3), SchemaError, "schema 3 is newer"),
        (lambda d: d.update(schema=1), SchemaError, "schema 1 is older .* export the bundle again"),
        (lambda d: d.update(rows=3), SchemaError, "rows: expected a list, found int 3"),
        (lambda d: d["rows"][1].pop("neighbour"), SchemaError, r"rows\[1\]: field 'neighbour' is missing"),
        (lambda d: d["rows"][0]["statistics"]["first"].update(mean_abs="a"), SchemaError, "mean_abs: expected float"),
    ],
)
def test_damaged_files_are_named(job, tmp_path, change, error, words):
    write_stages(stages_of(job), tmp_path)
    data = json.loads((tmp_path / STAGES).read_text())
    change(data)
    (tmp_path / STAGES).write_text(json.dumps(data))
    with pytest.raises(error, match=rf"{STAGES}: .*{words}"):
        read_stages(tmp_path)


def test_a_bundle_without_stages(tmp_path):
    with pytest.raises(InputError, match=f"expected {STAGES}, found none"):
        read_stages(tmp_path)


# the shipped student


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> tuple[edge_dp.bundle.manifest.Bundle, Stages]:
    out = tmp_path_factory.mktemp("student") / "bundle"
    bundle = edge_dp.export_checkpoint("dp_disparity_s", out, formats=["onnx"], size=(64, 96))
    return bundle, read_stages(bundle.folder)


def test_stages_of_the_shipped_student(student):
    bundle, stages = student
    rows = {row.stage: row for row in stages.rows}
    assert list(rows) == ["rewritten", "weights", "fake_quantised", "converted", "onnx-int8", "onnx-fp32"]
    for output, spec in zip(stages.outputs, bundle.manifest.outputs, strict=True):
        assert output == spec.name
        assert rows["rewritten"].statistics[output].max_abs < spec.scale  # biases on grids, nothing else
        assert rows["converted"].statistics[output].p99_steps < 2.001  # ties of the resizes go up
        assert rows["onnx-int8"].statistics[output].p99_steps < 4  # interpolates in float
        assert rows["onnx-fp32"].statistics[output].max_abs < 1e-4
        assert stages.worst(output).stage == "fake_quantised"


def test_stages_belong_to_the_bundle(student):
    bundle, _ = student
    assert check_bundle(bundle.folder).problems == ()
