"""The command line: exit codes, one clear line for bad input, nothing half-written, and a light import."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest

from edge_dp.bundle.manifest import MANIFEST
from edge_dp.cli import main
from edge_dp.cli.diagnosis import PackageState, diagnose, known_versions
from edge_dp.data import read_disparity_png, read_pfm
from edge_dp.optics import disparity_to_depth
from edge_dp.sensors import load_sensor
from edge_dp.simulation.capture import SimulationConfig, simulate_capture
from edge_dp.simulation.scenes import SceneConfig


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    """A simulated raw Pixel 4 pair: 16 bit, black level 1024, 384x512."""
    folder = tmp_path_factory.mktemp("views")
    scene = SceneConfig(height=384, width=512, margin=40, disparity=(1.0, 4.0), one_sided_share=0.0)
    capture = simulate_capture(5, 0, SimulationConfig(scene))
    for name, view in zip(("left", "right"), capture.views[:, 0], strict=True):
        cv2.imwrite(str(folder / f"{name}.png"), (1024 + np.round(view * 16383)).astype(np.uint16))
    return folder


@pytest.fixture
def run(bundle, views, tmp_path):
    """Call ``edge-dp run`` on the pair with some arguments replaced; the exit code."""

    def call(**changed):
        arguments = {
            "left": views / "left.png",
            "right": views / "right.png",
            "out": tmp_path / "out",
            "sensor": "pixel4",
        }
        arguments |= changed
        folder = arguments.pop("bundle", bundle.folder)
        words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
        return main(["run", str(folder), *words])

    return call


def one_line(capsys):
    """What was printed on standard error, which must be one line of ours without a traceback."""
    text = capsys.readouterr().err
    assert text.startswith("edge-dp: ")
    assert text.count("\n") == 1
    return text


def test_run_writes_disparity_in_three_forms(run, tmp_path, capsys):
    assert run() == 0
    exact = read_pfm(tmp_path / "out/disparity.pfm")
    assert exact.shape == (384, 512)
    np.testing.assert_allclose(read_disparity_png(tmp_path / "out/disparity.png"), exact, atol=1 / 512 + 1e-6)
    assert cv2.imread(str(tmp_path / "out/disparity_preview.png")).shape == (384, 512, 3)
    assert (read_pfm(tmp_path / "out/expected_error.pfm") > 0).all()
    assert "positive is farther than focus" in capsys.readouterr().out
    assert (tmp_path / "out/corrected_disparity.pfm").is_file()


def test_run_corrects_for_no_field_that_is_unknown(run, tmp_path):
    sensor = replace(load_sensor("pixel4"), alpha_field=None)
    (tmp_path / "even.json").write_text(json.dumps(sensor.to_dict()))
    assert run(sensor=tmp_path / "even.json") == 0
    assert not (tmp_path / "out/corrected_disparity.pfm").exists()


def test_run_writes_depth_where_the_focus_is_known(run, tmp_path, capsys):
    """By the optics of the profile, which the disparity's own file goes through here once more."""
    assert run(**{"focus": 1.0, "samples-per-px": 2, "engine": "litert"}) == 0
    depth, disparity = read_pfm(tmp_path / "out/depth.pfm"), read_pfm(tmp_path / "out/disparity.pfm")
    near, far = depth[disparity < -0.2], depth[disparity > 0.2]
    assert (far > 1.0).all() and (near < 1.0).all() and far.size
    sensor = load_sensor("pixel4")
    alpha = sensor.alpha_over_field(384, 512)
    expected = disparity_to_depth(2 * disparity.astype(np.float64), sensor, 1.0, alpha)
    # Inverse depth is linear in disparity, whose rounding to float32 moves a depth of kilometres by metres.
    np.testing.assert_allclose(1 / depth, 1 / expected, rtol=1e-4, atol=1e-7)
    corrected = read_pfm(tmp_path / "out/corrected_disparity.pfm")
    np.testing.assert_allclose(corrected, disparity * sensor.alpha / alpha, rtol=1e-5)


def test_run_as_json_is_machine_readable(run, views, bundle, tmp_path, capsys):
    pair = ["--left", str(views / "left.png"), "--right", str(views / "right.png"), "--sensor", "pixel4"]
    assert main(["run", str(bundle.folder), *pair, "--out", str(tmp_path / "o"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["files"]) == 5
    assert result["disparity_px"]["p2"] <= result["disparity_px"]["p50"] <= result["disparity_px"]["p98"]


def test_missing_file(run, views, tmp_path, capsys):
    assert run(left=views / "nobody.png") == 2
    assert "nobody.png" in one_line(capsys)
    assert not (tmp_path / "out").exists()


def test_views_of_two_sizes(run, views, tmp_path, capsys):
    small = tmp_path / "small.png"
    cv2.imwrite(str(small), cv2.imread(str(views / "right.png"), cv2.IMREAD_UNCHANGED)[:-2])
    assert run(right=small) == 2
    assert "382" in one_line(capsys)
    assert not (tmp_path / "out").exists()


def test_views_smaller_than_the_network(run, views, tmp_path, capsys):
    paths = {}
    for name in ("left", "right"):
        paths[name] = tmp_path / f"{name}.png"
        cv2.imwrite(str(paths[name]), cv2.imread(str(views / f"{name}.png"), cv2.IMREAD_UNCHANGED)[:200, :300])
    assert run(**paths) == 2
    assert "at least 512x384 px (width x height), found 300x200" in one_line(capsys)


def test_one_view_twice(run, views, capsys):
    assert run(right=views / "left.png") == 2
    one_line(capsys)


def test_8_bit_where_raw_is_promised(run, views, tmp_path, capsys):
    path = tmp_path / "left8.png"
    cv2.imwrite(str(path), np.full((384, 512), 90, np.uint8))
    assert run(left=path) == 2
    line = one_line(capsys)
    assert "left8.png: expected uint16 raw with black level 1024" in line
    assert "found uint8" in line
    assert "--sensor generic_8bit" in line


def test_nan_in_a_view(run, tmp_path, capsys):
    from edge_dp.data import write_pfm

    plane = np.full((384, 512), 0.5, np.float32)
    write_pfm(tmp_path / "r.pfm", plane * 0.9)
    plane[3, 4] = np.nan
    write_pfm(tmp_path / "l.pfm", plane)
    assert run(left=tmp_path / "l.pfm", right=tmp_path / "r.pfm", sensor="generic_8bit") == 2
    assert "l.pfm" in one_line(capsys)


def test_unknown_sensor_lists_the_known_ones(run, capsys):
    assert run(sensor="pixel99") == 2
    line = one_line(capsys)
    assert "pixel99" in line
    assert "pixel4" in line


def test_truncated_image(run, views, tmp_path, capsys):
    data = (views / "left.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    assert run(left=tmp_path / "cut.png") == 2
    assert "cut.png" in one_line(capsys)


def test_unknown_artifact(run, capsys):
    assert run(artifact="tensorrt-int4") == 2
    assert "tensorrt-int4: no such artifact" in one_line(capsys)


@pytest.mark.parametrize("damage", ["truncated", "edited"])
def test_damaged_artifact(run, bundle, tmp_path, capsys, damage):
    copy = tmp_path / "copy"
    shutil.copytree(bundle.folder, copy)
    path = copy / bundle.manifest.artifact("executorch-int8").path
    data = path.read_bytes()
    path.write_bytes(data[:-100] if damage == "truncated" else data[:500] + bytes([data[500] ^ 255]) + data[501:])
    assert run(bundle=copy) == 2
    line = one_line(capsys)
    assert ".int8.pte: sha256" in line
    assert "truncated or edited" in line
    assert not (tmp_path / "out").exists()
    assert main(["validate", str(copy)]) == 2
    assert ".int8.pte: sha256" in capsys.readouterr().err


def test_bundle_of_a_newer_schema(run, bundle, tmp_path, capsys):
    data = json.loads((bundle.folder / MANIFEST).read_text())
    data["schema"] = 99
    (tmp_path / MANIFEST).write_text(json.dumps(data))
    assert run(bundle=tmp_path) == 2
    assert "schema 99 is newer" in one_line(capsys)
    assert main(["validate", str(tmp_path)]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export", "nobody", "--out", "x"], "nobody: no checkpoint there"),
        (["validate", "nowhere"], "nowhere: no bundle there"),
        (["train", "nothing"], "nothing: no such recipe"),
        (["train", "--workers", "0"], "--workers: expected at least 1"),
        (["validate", "nowhere", "--rounds", "0"], "--rounds: expected at least 1, found 0"),
    ],
)
def test_bad_arguments(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert said in one_line(capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["fly"], [], ["export", "dp_disparity_s", "--out", "x", "--size", "tall"]])
def test_usage_errors_exit_with_2(words):
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2


def test_a_missed_threshold_exits_with_1(bundle, tmp_path, capsys, monkeypatch):
    from edge_dp.runtime import parity

    copy = tmp_path / "copy"
    shutil.copytree(bundle.folder, copy)
    monkeypatch.setitem(parity.THRESHOLDS, "fp32", parity.Threshold(max_relative=0.0))
    arguments = ["validate", str(copy), "--artifact", "onnx-fp32", "--rounds", "2", "--warm-up", "0"]
    assert main(arguments) == 1
    text = capsys.readouterr().out
    assert "FAIL" in text
    assert "of the range, allowed 0e+00" in text


def test_validate_as_json_is_the_report(bundle, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(bundle.folder, copy)
    assert main(["validate", str(copy), "--artifact", "onnx-fp32", "--rounds", "1", "--warm-up", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((copy / "report.json").read_text())


def test_help_and_import_need_no_heavy_package():
    code = (
        "import sys; import edge_dp; from edge_dp.cli import build_parser; build_parser().format_help(); "
        "heavy = {'torch', 'torchao', 'numpy', 'cv2', 'executorch', 'onnx', 'coremltools', 'rich', 'yaml'}; "
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr.strip()) == (0, "")


def test_doctor_knows_every_pin_and_extra(capsys):
    diagnosis = diagnose()
    assert {package.name for package in diagnosis.packages} == set(known_versions())
    assert {"train", "executorch", "coreml", "tflite", "onnx", "all"} <= set(diagnosis.extras)
    code = main(["doctor", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert code == (1 if diagnosis.off else 0)
    assert printed["extras"] == diagnosis.extras


def test_doctor_says_which_versions_are_off_and_how_to_mend(monkeypatch, capsys):
    monkeypatch.setattr("edge_dp.cli.diagnosis.known_versions", lambda: {"numpy": "0.0.1", "no-such-package": "1.0"})
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "1 version(s) off; to mend: pip install numpy==0.0.1" in text
    assert "missing" in text


def test_a_local_version_suffix_is_not_off():
    assert not PackageState("torch", "2.13.0", "2.13.0+cpu").off
    assert PackageState("torch", "2.13.0", "2.12.0").off
    assert not PackageState("torch", "2.13.0", None).off
