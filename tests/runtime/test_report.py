"""The report: JSON there and back, judged again, and its pictures. Its page has tests of its own."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_dp.data.disparity import disparity_colours
from edge_dp.errors import SchemaError
from edge_dp.runtime.dataset_parity import DatasetParity
from edge_dp.runtime.parity import THRESHOLDS, Threshold
from edge_dp.runtime.report.model import SCHEMA, read_report, write_report
from edge_dp.runtime.report.pictures import PICTURES, Scale, colour_stops, error_colours, read_scales, write_pictures
from edge_dp.runtime.report.words import number

from .made_report import OUTPUT, STEP, VIEWS, Made, make_report, on_devices

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
KEY = ("onnx-fp32", "onnxruntime", "local")


@pytest.fixture
def made(tmp_path) -> Made:
    return make_report(tmp_path / "bundle")


# Data


def test_json_there_and_back(made):
    for report in (made.report, on_devices(made).report):
        assert read_report(write_report(report, made.bundle.folder)) == report


def test_a_newer_schema_is_refused(made):
    path = write_report(made.report, made.bundle.folder)
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": SCHEMA + 1}))
    with pytest.raises(SchemaError, match=rf"report\.json: schema {SCHEMA + 1} is newer .* upgrade edge-dp"):
        read_report(path)


def test_a_report_of_the_schema_before_is_read(made):
    path = write_report(made.report, made.bundle.folder)
    data = json.loads(path.read_text())
    for row in data["rows"]:
        del row["dataset_parity"]
    path.write_text(json.dumps({**data, "schema": 2}))
    assert read_report(path) == replace(made.report, schema=2)


def test_a_data_set_is_judged_by_the_same_table_apart_from_its_statistics(made):
    """The statistics of the golden cases again, as if of a data set: what they miss is missed there too, and named."""
    int8 = made.report.rows[0]
    row = replace(int8, dataset_parity=DatasetParity("scenes", 9, int8.statistics))
    golden = made.report.missed(int8)
    assert golden
    assert made.report.missed(row) == [*golden, *(f"scenes: {text}" for text in golden)]
    kinder = replace(made.report, thresholds={**THRESHOLDS, "int8": Threshold(max_steps=50.0)})
    assert kinder.missed(row) == []
    absent = replace(int8, dataset_parity=DatasetParity("scenes", 0, missing="no model"))
    assert kinder.missed(absent) == []


def test_judged_again_with_other_thresholds(made):
    """The int8 artifact is 40 steps off in places: too much by default, and not where 50 are allowed."""
    ran = replace(made.report, rows=made.report.rows[:3])
    assert not ran.passed
    assert ran.missed(ran.rows[0])
    kinder = {**THRESHOLDS, "int8": Threshold(max_steps=50.0)}
    assert replace(ran, thresholds=kinder).passed
    stricter = {**kinder, "fp32": Threshold(max_relative=1e-7)}
    assert replace(ran, thresholds=stricter).missed(ran.rows[1]) == [
        "disparity: max error 5.96e-07 of the range, allowed 1e-07"
    ]
    assert "✗ Failed" in made.page(rows=ran.rows)
    assert "✓ Passed" in made.page(rows=ran.rows, thresholds=kinder)


# Pictures


def test_error_map_is_white_where_right_and_saturates_at_four_steps(made):
    assert (made.picture(2, "error") == WHITE).all()  # equals its reference everywhere
    error = made.picture(0, "error")
    assert (error[1:] == WHITE).all()
    one, two, four, forty, minus_four, minus_forty = error[0, :6].astype(int)
    assert (four == forty).all()
    assert (minus_four == minus_forty).all()
    assert four[0] > four[2]  # red: too large
    assert minus_four[2] > minus_four[0]  # blue: too small
    darkness = [sum(WHITE) - colour.sum() for colour in (one, two, four)]
    assert 0 < darkness[0] < darkness[1] < darkness[2]
    assert error_colours(np.float32([[np.nan, np.inf]]), Scale(-1, 1)).tolist() == [[list(BLACK)] * 2]


def test_scales_are_noted_and_shown(made):
    scales = read_scales(made.bundle.folder)
    limits = [scales[row.pictures["error"]].high for row in made.report.rows[:3]]
    assert limits == pytest.approx([4 * STEP, 5e-6, 4 * STEP])  # a float artifact's largest error, rounded up
    page = made.page()
    assert "−4 steps" in page
    assert "full colour is 0.04 px of the input, or 4 steps" in page
    assert "full colour is 5×10⁻⁶ px of the input" in page
    for low_or_high in np.percentile(np.linspace(-2, 3, 768), (2, 98)):
        assert number(low_or_high) in page


def test_equal_colours_are_equal_disparities(made):
    reference = cv2.imread(str(made.bundle.folder / made.report.pictures["disparity_float"]))[..., ::-1]
    found = made.picture(1, "disparity")
    np.testing.assert_array_equal(found[1:], reference[1:])
    near, far = reference[0, 0].astype(int), reference[-1, -1].astype(int)
    assert near[0] > near[2]
    assert far[2] > far[0] - 60
    fixed = disparity_colours(np.float32([[-9, 0, 9, np.nan]]), (0.0, 1.0))
    assert (fixed[0, 0] == fixed[0, 1]).all()
    assert (fixed[0, 3] == 0).all()


def test_views_are_gamma_encoded(made):
    left = cv2.imread(str(made.bundle.folder / made.report.pictures["left"]), cv2.IMREAD_UNCHANGED)
    assert left.shape == VIEWS[2:]
    assert left[0, 0] == 188  # sRGB of linear 0.5


def test_an_artifact_of_nothing_but_nan_has_pictures(made, tmp_path):
    nan = {name: np.full(OUTPUT, np.nan, np.float32) for name in ("disparity", "confidence")}
    shared, by_row = write_pictures(made.bundle, {KEY: (made.bundle.manifest.artifact("onnx-fp32"), nan)}, tmp_path)
    assert (cv2.imread(str(tmp_path / Path(by_row[KEY]["error"]).name)) == 0).all()
    assert set(shared) == {"left", "right", "disparity_float", "disparity_quantised", "confidence_float"}


@pytest.mark.parametrize("change", ["three channels", "two inputs", "no disparity"])
def test_other_networks_have_no_pictures(made, tmp_path, change):
    manifest = made.bundle.manifest
    (views,), (disparity, confidence) = manifest.inputs, manifest.outputs
    changed = {
        "three channels": {"inputs": (replace(views, shape=(1, 3, 48, 64)),)},
        "two inputs": {"inputs": (views, replace(views, name="more"))},
        "no disparity": {"outputs": (confidence, disparity)},
    }
    bundle = replace(made.bundle, manifest=replace(manifest, **changed[change]))
    assert write_pictures(bundle, {}, tmp_path) == ({}, {})
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["scales.json"]


def test_names_of_pictures_stay_in_their_folder(made, tmp_path):
    name = "../../<script>"
    artifact = replace(made.bundle.manifest.artifacts[0], name=name)
    outputs = made.bundle.golden_outputs(made.bundle.manifest.golden[0], "quantised")
    pictures = write_pictures(made.bundle, {KEY: (artifact, outputs)}, tmp_path)[1][KEY]
    assert all(re.fullmatch(rf"{PICTURES}/00_[\w.-]+\.png", path) for path in pictures.values())
    assert all((tmp_path / Path(path).name).is_file() for path in pictures.values())


def test_legend_runs_from_low_to_high():
    stops = [tuple(map(int, re.findall(r"\d+", stop))) for stop in colour_stops("error", 3)]
    assert stops[1] == WHITE
    assert stops[0][2] > stops[0][0]
    assert stops[2][0] > stops[2][2]
