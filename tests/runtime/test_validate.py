"""Validation of the shipped bundle: every row passes, planted faults are found."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from edge_dp.bundle.manifest import MANIFEST, read_bundle
from edge_dp.errors import ChecksumError, DeviceError, InputError
from edge_dp.files import sha256
from edge_dp.runtime.budgets import parse_budget
from edge_dp.runtime.engines import ENGINES, engine_for, make_engine
from edge_dp.runtime.finished import FOLDER
from edge_dp.runtime.latency import PRESETS
from edge_dp.runtime.parity import THRESHOLDS
from edge_dp.runtime.plan import Plan
from edge_dp.runtime.report.model import PAGE, REPORT, read_report
from edge_dp.runtime.validate import signature, validate

ONCE = replace(PRESETS["brief"], queries=1, warm_up=0)


@pytest.fixture
def copy(bundle, tmp_path):
    """A copy of the shipped bundle that a test may damage."""
    shutil.copytree(bundle.folder, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture(scope="module")
def report(bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("validated") / "bundle"
    shutil.copytree(bundle.folder, folder)
    return folder, validate(read_bundle(folder), Plan(preset=replace(ONCE, queries=3, warm_up=1)))


def test_every_artifact_runs_and_passes(report):
    _, result = report
    assert len(result.rows) == 8
    assert [(row.artifact, result.missed(row)) for row in result.rows if result.missed(row)] == []
    assert result.passed


def test_float_rows_are_within_the_promised_bounds(report):
    _, result = report
    for row in result.rows:
        for statistics in row.statistics.values():
            if row.precision == "fp32":
                assert statistics.max_abs <= 1e-5 * statistics.reference_range
            elif row.precision == "fp16":
                assert statistics.snr_db >= 40.0
            else:
                assert statistics.snr_db is None or statistics.snr_db >= 35.0


def test_errors_in_steps_are_errors_over_the_quantisation_step(report, bundle):
    _, result = report
    steps = {spec.name: spec.scale for spec in bundle.manifest.outputs}
    for row in result.rows:
        for name, statistics in row.statistics.items():
            assert statistics.step == steps[name]
            assert statistics.max_steps == pytest.approx(statistics.max_abs / steps[name])


def test_reference_evaluator_reports_no_latency(report):
    _, result = report
    for row in result.rows:
        assert (row.latency is None) == (row.engine == "coreml-reference")
        if row.latency:
            assert len(row.latency.milliseconds) == 3


def test_report_is_written_and_reads_back(report):
    folder, result = report
    assert read_report(folder / REPORT) == result
    assert (folder / PAGE).stat().st_size > 10_000
    read_bundle(folder)  # what validate adds does not disturb the bundle


def test_thresholds_are_stored_beside_the_statistics(report):
    _, result = report
    assert result.thresholds == THRESHOLDS


def test_one_artifact_can_be_chosen(copy):
    result = validate(read_bundle(copy), Plan(artifacts=("onnx-fp32",), preset=ONCE))
    assert [row.artifact for row in result.rows] == ["onnx-fp32"]
    with pytest.raises(InputError, match="onnx-int4: no such artifact"):
        validate(read_bundle(copy), Plan(artifacts=("onnx-int4",)))


def test_a_damaged_artifact_stops_the_run_and_leaves_the_old_report(copy):
    (copy / REPORT).write_text("old")
    path = copy / read_bundle(copy).manifest.artifact("tflite-int8").path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ChecksumError, match=r"int8.tflite: sha256"):
        validate(read_bundle(copy))
    assert (copy / REPORT).read_text() == "old"


def test_a_damaged_golden_vector_is_named(copy):
    path = next((copy / "golden").rglob("views.npy"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ChecksumError, match=r"views.npy: sha256"):
        validate(read_bundle(copy))


def test_an_artifact_of_another_network_fails_its_row_and_the_others_pass(copy):
    """The checksum is made to fit, so that only the comparison can find it."""
    data = json.loads((copy / MANIFEST).read_text())
    rows = {row["name"]: row for row in data["artifacts"]}
    fp32, int8 = rows["onnx-fp32"], rows["onnx-int8"]
    shutil.copy(copy / int8["path"], copy / fp32["path"])
    fp32["files"] = {fp32["path"]: sha256(copy / fp32["path"])}
    (copy / MANIFEST).write_text(json.dumps(data))
    result = validate(
        read_bundle(copy),
        Plan(
            artifacts=(
                "onnx-fp32",
                "onnx-int8",
            ),
            preset=ONCE,
        ),
    )
    bad, good = result.rows
    assert any("of the range" in text for text in result.missed(bad))
    assert result.missed(good) == []
    assert not result.passed


def test_an_artifact_that_cannot_load_makes_an_error_row(copy):
    data = json.loads((copy / MANIFEST).read_text())
    row = next(row for row in data["artifacts"] if row["name"] == "onnx-fp32")
    (copy / row["path"]).write_bytes(b"\0" * 100)
    row["files"] = {row["path"]: sha256(copy / row["path"])}
    (copy / MANIFEST).write_text(json.dumps(data))
    result = validate(
        read_bundle(copy),
        Plan(
            artifacts=(
                "onnx-fp32",
                "tflite-fp32",
            ),
            preset=ONCE,
        ),
    )
    assert "cannot load it" in result.rows[0].error
    assert result.missed(result.rows[1]) == []
    assert "cannot load it" in (copy / PAGE).read_text()


def test_report_numbers_are_those_of_the_arrays(bundle, report):
    """One row recomputed from scratch."""
    _, result = report
    artifact = bundle.manifest.artifact("onnx-int8")
    with make_engine(engine_for("onnx"), bundle.path(artifact.path), signature(bundle)) as engine:
        errors = [
            np.abs(
                engine.infer(bundle.golden_inputs(case))["disparity"]
                - bundle.golden_outputs(case, "quantised")["disparity"]
            )
            for case in bundle.manifest.golden
        ]
    row = next(row for row in result.rows if row.artifact == "onnx-int8")
    assert row.statistics["disparity"].max_abs == pytest.approx(max(error.max() for error in errors))
    assert row.statistics["disparity"].mean_abs == pytest.approx(np.mean(errors), rel=1e-4)


def test_running_again_gives_the_same_bits(report):
    _, result = report
    assert {row.repeats_agree for row in result.rows} == {True}


def test_engines_can_be_chosen_and_each_makes_a_row(copy):
    plan = Plan(artifacts=("tflite-int8",), engines=("litert", "litert-builtin", "onnxruntime"), preset=ONCE)
    result = validate(read_bundle(copy), plan)
    assert [(row.artifact, row.engine) for row in result.rows] == [
        ("tflite-int8", "litert"),
        ("tflite-int8", "litert-builtin"),
    ]
    with pytest.raises(InputError, match="onnxruntime: none executes tflite-int8"):
        validate(read_bundle(copy), replace(plan, engines=("onnxruntime",)))
    with pytest.raises(InputError, match="expected one of executorch"):
        validate(read_bundle(copy), replace(plan, engines=("tensorrt",)))


def test_a_missed_budget_fails_the_run_and_one_that_is_kept_does_not(copy):
    plan = Plan(artifacts=("tflite-fp32",), preset=ONCE)
    kept = validate(read_bundle(copy), replace(plan, budgets=(parse_budget("p90=1000s"),)))
    assert kept.passed and kept.budgets == ("p90=1000s",)
    result = validate(read_bundle(copy), replace(plan, budgets=(parse_budget("p90=1us"),)))
    assert not result.passed
    assert "budget p90=1us" in result.missed(result.rows[0])[0]


def test_a_device_that_is_not_there_makes_error_rows_and_the_host_goes_on(copy):
    plan = Plan(artifacts=("tflite-fp32",), devices=("local", "adb://no-such-phone"), preset=ONCE)
    result = validate(read_bundle(copy), plan)
    host, phone = result.rows
    assert (host.device, host.error) == ("local", None)
    assert (phone.device, phone.engine) == ("adb://no-such-phone", "none")
    assert "no-such-phone" in phone.error
    assert not result.passed
    with pytest.raises(DeviceError, match="ftp"):
        validate(read_bundle(copy), replace(plan, devices=("ftp://phone",)))


def test_a_run_that_was_broken_off_goes_on_with_what_it_has(copy):
    """The first run fails in one artifact; mended, a resumed run takes the other's row as it was and runs that one alone."""
    whole = (copy / MANIFEST).read_text()
    data = json.loads(whole)
    row = next(row for row in data["artifacts"] if row["name"] == "tflite-fp32")
    good = (copy / row["path"]).read_bytes()
    (copy / row["path"]).write_bytes(b"\0" * 100)
    row["files"] = {row["path"]: sha256(copy / row["path"])}
    (copy / MANIFEST).write_text(json.dumps(data))
    plan = Plan(artifacts=("onnx-fp32", "tflite-fp32"), preset=ONCE)
    first = validate(read_bundle(copy), plan)
    assert [row.error is None for row in first.rows] == [True, False]
    assert (copy / FOLDER).is_dir()
    (copy / row["path"]).write_bytes(good)
    (copy / MANIFEST).write_text(whole)
    second = validate(read_bundle(copy), replace(plan, resume=True))
    assert second.passed
    assert second.rows[0].latency == first.rows[0].latency  # the very same measurement
    assert second.rows[0].pictures  # drawn from what was kept
    assert not (copy / FOLDER).exists()
    fresh = validate(read_bundle(copy), replace(plan, artifacts=("onnx-fp32",), resume=True))
    assert fresh.rows[0].latency != first.rows[0].latency


def test_every_engine_that_is_here_passes_on_what_it_executes(copy):
    """Kernels differ by rounding; thresholds hold for all of them."""
    here = tuple(name for name, entry in ENGINES.items() if entry.why_not() is None)
    result = validate(read_bundle(copy), Plan(engines=here, preset=ONCE))
    assert [(row.artifact, row.engine, result.missed(row)) for row in result.rows if result.missed(row)] == []
