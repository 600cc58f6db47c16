"""The report: JSON there and back, judged again, its pictures, and its page in a real browser."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_dp.bundle.manifest import Artifact, Bundle, GoldenCase, Kernels, Manifest, Preprocessing, TensorSpec
from edge_dp.data.disparity import disparity_colours
from edge_dp.errors import InputError, SchemaError
from edge_dp.preprocessing import ExposureNormalisation
from edge_dp.runtime.latency import summarise
from edge_dp.runtime.parity import THRESHOLDS, Threshold, compare
from edge_dp.runtime.report.chart import latency_chart
from edge_dp.runtime.report.html import number, write_page
from edge_dp.runtime.report.model import Report, Row, read_report, write_report
from edge_dp.runtime.report.pictures import PICTURES, Scale, colour_stops, error_colours, read_scales, write_pictures

STEP = 0.01
VIEWS, OUTPUT = (1, 2, 48, 64), (1, 1, 24, 32)
HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
# name, format, precision, reference, engine
ARTIFACTS = (
    ("tflite-int8", "tflite", "int8", "quantised", "litert"),
    ("onnx-fp32", "onnx", "fp32", "float", "onnxruntime"),
    ("coreml-w8a8", "coreml", "w8a8", "quantised", "coreml-reference"),
    ("executorch-fp32", "executorch", "fp32", "float", "none"),
)


@dataclass(frozen=True)
class Made:
    """A bundle with pictures, and the report on it: three artifacts that ran and one that did not."""

    bundle: Bundle
    report: Report

    def page(self, **changes) -> str:
        return write_page(replace(self.report, **changes), self.bundle.folder).read_text(encoding="utf-8")

    def picture(self, artifact: int, what: str) -> np.ndarray:
        """(H, W, 3), red first."""
        return cv2.imread(str(self.bundle.folder / self.report.rows[artifact].pictures[what]))[..., ::-1]


@pytest.fixture
def made(tmp_path) -> Made:
    rng = np.random.default_rng(0)
    views = rng.uniform(0, 1, VIEWS).astype(np.float32)
    views[0, :, 0, 0] = 0.5
    floats = {
        "disparity": np.linspace(-2, 3, 768, dtype=np.float32).reshape(OUTPUT),
        "confidence": rng.uniform(0, 1, OUTPUT).astype(np.float32),
    }
    quantised = {name: np.rint(values / STEP).astype(np.float32) * np.float32(STEP) for name, values in floats.items()}
    found = {
        "tflite-int8": {name: values.copy() for name, values in quantised.items()},
        "onnx-fp32": {name: values.copy() for name, values in floats.items()},
        "coreml-w8a8": quantised,
    }
    found["tflite-int8"]["disparity"][0, 0, 0, :6] += np.float32(STEP) * np.array([1, 2, 4, 40, -4, -40], np.float32)
    found["onnx-fp32"]["disparity"][0, 0, 0, 0] += np.float32(3e-6)
    bundle = small_bundle(tmp_path / "bundle", views, {"float": floats, "quantised": quantised})
    folder = bundle.folder / PICTURES
    folder.mkdir()
    shared, by_artifact = write_pictures(bundle, found, folder)
    references = {"float": floats, "quantised": quantised}
    rows = tuple(
        Row(
            artifact=name,
            format=form,
            precision=precision,
            engine=engine,
            size_bytes=150_000,
            reference=reference,
            error=None if name in found else f"{form}: torch not installed: pip install 'edge-dp[{form}]'",
            statistics={
                output: compare([values], [references[reference][output]], STEP)
                for output, values in found.get(name, {}).items()
            },
            latency=summarise(1, 30.0, 9.0, rng.gamma(4, size=50) + 5) if name in tuple(found)[:2] else None,
            pictures=by_artifact.get(name, {}),
            kernels_integer={"CONV_2D": 20} if reference == "quantised" else {},
            kernels_floating={"CONV_2D": 20} if reference == "float" else {},
        )
        for name, form, precision, reference, engine in ARTIFACTS
    )
    report = Report(
        schema=1,
        model="dp_small",
        parameters=128098,
        created="2026-01-02T03:04:05+00:00",
        host={"machine": "x86_64", "processor": "Some CPU", "threads": "1"},
        versions={"edge-dp": "0.1.0"},
        units={"disparity": "px of the input", "confidence": "code"},
        thresholds=THRESHOLDS,
        rows=rows,
        pictures=shared,
        training={"data": "scenes", "data_licence": "CC0", "teacher": "sgbm", "metrics": {"epe_px": 0.25}, "seed": 7},
    )
    return Made(bundle, report)


def small_bundle(folder: Path, views: np.ndarray, references: dict[str, dict[str, np.ndarray]]) -> Bundle:
    """A bundle of golden arrays without artifacts' files."""
    (folder / "golden").mkdir(parents=True)
    np.save(folder / "golden" / "views.npy", views)
    for kind, outputs in references.items():
        for name, values in outputs.items():
            np.save(folder / "golden" / f"{name}.{kind}.npy", values)
    files = {kind: {name: f"golden/{name}.{kind}.npy" for name in outputs} for kind, outputs in references.items()}
    kernels = Kernels({}, {})
    return Bundle(
        folder,
        Manifest(
            schema=1,
            model="dp_small",
            created="2026-01-02T03:04:05+00:00",
            parameters=128098,
            multiply_adds=574000000,
            inputs=(TensorSpec("views", VIEWS, "NCHW", "linear light, [0, 1]", ("left", "right")),),
            outputs=(
                TensorSpec("disparity", OUTPUT, "NCHW", "px of the input", ("disparity",), STEP, 0),
                TensorSpec("confidence", OUTPUT, "NCHW", "code", ("confidence",), STEP, 0),
            ),
            preprocessing=Preprocessing(ExposureNormalisation()),
            artifacts=tuple(
                Artifact(name, form, precision, reference, f"{name}.bin", 0, {}, kernels)
                for name, form, precision, reference, _ in ARTIFACTS
            ),
            golden=(GoldenCase("typical_0", {"views": "golden/views.npy"}, files, {}),),
            quantization=(),
            training={},
            versions={},
        ),
    )


# Data


def test_json_there_and_back(made):
    path = write_report(made.report, made.bundle.folder)
    assert read_report(path) == made.report


def test_a_newer_schema_is_refused(made):
    path = write_report(made.report, made.bundle.folder)
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 2}))
    with pytest.raises(SchemaError, match=r"report\.json: schema 2 is newer .* upgrade edge-dp"):
        read_report(path)


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
    shared, by_artifact = write_pictures(made.bundle, {"onnx-fp32": nan}, tmp_path)
    assert (cv2.imread(str(tmp_path / Path(by_artifact["onnx-fp32"]["error"]).name)) == 0).all()
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
    artifacts = (replace(made.bundle.manifest.artifacts[0], name=name),)
    bundle = replace(made.bundle, manifest=replace(made.bundle.manifest, artifacts=artifacts))
    outputs = bundle.golden_outputs(bundle.manifest.golden[0], "quantised")
    pictures = write_pictures(bundle, {name: outputs}, tmp_path)[1][name]
    assert all(re.fullmatch(rf"{PICTURES}/00_[\w.-]+\.png", path) for path in pictures.values())
    assert all((tmp_path / Path(path).name).is_file() for path in pictures.values())


def test_legend_runs_from_low_to_high():
    stops = [tuple(map(int, re.findall(r"\d+", stop))) for stop in colour_stops("error", 3)]
    assert stops[1] == WHITE
    assert stops[0][2] > stops[0][0]
    assert stops[2][0] > stops[2][2]


# The page


class Tags(HTMLParser):
    """Tags, attributes and text, as a parser sees them that knows nothing of the template."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += f" {data}"


def test_page_stands_alone(made):
    page = made.page()
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
    assert not re.search(r"https?:|//|@import|url\(", re.sub(r"data:image/png;base64,[\w+/=]+", "", page))
    tags = Tags(page)
    assert "script" not in tags.tags
    assert tags.tags.count("img") == 5 + 3 * 2
    for name, value in tags.attributes:
        if name in ("src", "href"):
            assert value.startswith(("data:", "#"))
        if name == "alt":
            assert value
        assert not name.startswith("on")


def test_page_says_what_it_must(made):
    text = " ".join(Tags(made.page()).text.split())
    for words in (
        "✗ Failed 2 of 4 artifacts reproduce the model",
        "1 did not run",
        "2026-01-02 03:04 UTC",
        "128 098",
        "disparity: max error 40.0 steps, allowed 8",
        "executorch: torch not installed: pip install 'edge-dp[executorch]'",
        "coreml-reference reference evaluator",
        "says nothing of the Neural Engine, nor of speed",
        "not timed",
        "50 inferences",
        "20 × CONV_2D",
        "Licence of the data CC0",
        "Epe px 0.25",
        '"seed": 7',
    ):
        assert words in text, words


def test_hostile_strings_stay_text(made):
    rows = tuple(
        replace(row, artifact=HOSTILE, engine=HOSTILE, kernels_integer={HOSTILE: 1}, error=row.error and HOSTILE)
        for row in made.report.rows
    )
    texts = {name: {HOSTILE: HOSTILE} for name in ("host", "versions", "training")}
    tags = Tags(
        made.page(model=HOSTILE, created=HOSTILE, rows=rows, units=dict.fromkeys(("disparity",), HOSTILE), **texts)
    )
    assert "script" not in tags.tags
    assert tags.tags.count("img") == 5 + 3 * 2
    assert "onerror" not in dict(tags.attributes)
    assert tags.text.count(HOSTILE) > 20


def test_every_artifact_failed(made):
    rows = tuple(replace(row, error="boom", statistics={}, latency=None, pictures={}) for row in made.report.rows)
    text = " ".join(Tags(made.page(rows=rows)).text.split())
    assert "0 of 4 artifacts reproduce the model within the thresholds; 4 did not run" in text
    assert text.count("boom") == 4
    assert "No artifact was run." in made.page(rows=(), pictures={}, training={}, versions={})


@pytest.mark.parametrize(
    "path", ["../outside.png", f"{PICTURES}/../../outside.png", "/etc/hostname", "link.png", "a\0.png"]
)
def test_a_picture_outside_the_folder_is_refused(made, path):
    outside = made.bundle.folder.parent / "outside.png"
    outside.write_bytes((made.bundle.folder / made.report.pictures["left"]).read_bytes())
    (made.bundle.folder / "link.png").symlink_to(outside)
    with pytest.raises(SchemaError, match="leaves the folder"):
        made.page(pictures={"left": path})
    assert not (made.bundle.folder / "report.html").exists()


def test_a_picture_that_is_none(made):
    with pytest.raises(SchemaError, match=r"views\.npy: expected a PNG picture"):
        made.page(pictures={"left": "golden/views.npy"})
    with pytest.raises(InputError, match=r"gone\.png: expected a picture, found: No such file"):
        made.page(pictures={"left": f"{PICTURES}/gone.png"})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (-0.04317, "−0.0432"),
        (43.72, "43.7"),
        (1234.5, "1\u202f234"),
        (2e-6, "2×10⁻⁶"),
        (-3.337e-12, "−3.34×10⁻¹²"),
        (9.999e-7, "1×10⁻⁶"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


def test_latency_axis():
    """Every inference lies on the axis, in order; a wide spread makes it logarithmic."""
    near, far = summarise(1, 0, 0, [3.0, 4.0, 6.0]), summarise(1, 0, 0, [100.0, 200.0])
    assert latency_chart([]) is None
    linear = latency_chart([("near", near)])
    assert not linear.logarithmic
    assert [label for _, label in linear.ticks] == ["0", "2", "4", "6"]
    assert linear.strips[0].p50 == pytest.approx(linear.ticks[2][0], abs=0.1)
    both = latency_chart([("near", near), ("far", far)])
    assert both.logarithmic
    assert [label for _, label in both.ticks] == ["5", "10", "20", "50", "100", "200"]
    places = [float(x) for strip in both.strips for x in re.findall(r"M([\d.]+)", strip.marks)]
    assert places == sorted(places)
    assert 0 <= places[0] < places[-1] <= 1000


# In a real browser


def test_page_in_a_browser(made, browser):
    assert browser.problems(write_page(made.report, made.bundle.folder)) == []


def test_page_of_failures_in_a_browser(made, browser):
    long = "word" * 200
    rows = tuple(replace(row, artifact=long, error=long, statistics={}, pictures={}) for row in made.report.rows)
    report = replace(made.report, model=long, rows=rows, pictures={}, host={long: long}, training={long: long})
    assert browser.problems(write_page(report, made.bundle.folder)) == []


@pytest.mark.parametrize(
    ("pattern", "replacement", "problem"),
    [
        (r"</main>", "<script>undefined_name()</script></main>", "console: .*Content Security Policy"),
        (r"<meta http-equiv.*?>", "<script>undefined_name()</script>", "console: .*undefined_name is not defined"),
        (r"data:image/png;base64,.{99}", "data:image/png;base64,AAAA", "broken image: Left view"),
        (r"</main>", '<img src="http://127.0.0.1:9/a.png"></main>', "console: .*Content Security Policy"),
        (r"<meta http-equiv.*?>", '<img src="http://127.0.0.1:9/a.png">', "request: http://127.0.0.1:9/a.png"),
        (r"</main>", '<div style="width: 500px">wide</div></main>', "scrolls sideways by .* at a width of 390"),
        (r"</main>", '<p style="color: #888; background: #999">pale</p></main>', "too pale in light: pale"),
        (r"(?s)<main>.*</main>", "", "blank at a width of 390"),
    ],
)
def test_the_browser_notices_a_broken_page(made, browser, pattern, replacement, problem):
    page = made.bundle.folder / "broken.html"
    page.write_text(re.sub(pattern, replacement, made.page(), count=1), encoding="utf-8")
    assert re.search(problem, "\n".join(browser.problems(page)))
