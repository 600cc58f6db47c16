"""The headers for C++ apps and the example of embedding, against the Python predictor and Python's own readers."""

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import edge_dp
from edge_dp.bundle.manifest import MANIFEST, Preprocessing, read_bundle, write_manifest
from edge_dp.data import DpSample, correct_field, read_pair
from edge_dp.data.pfm import read_pfm
from edge_dp.preprocessing import ExposureNormalisation
from edge_dp.runtime.engines.native import NativeEngine
from edge_dp.runtime.native.build import build
from edge_dp.runtime.student import Student
from edge_dp.runtime.validate import signature
from edge_dp.sensors import load_sensor

from .native_tools import ARTIFACTS, built_here, run

__all__ = ["built_here"]
pytestmark = pytest.mark.usefixtures("built_here")
HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "embed_cpp" / "main.cpp"
PIXEL4 = load_sensor("pixel4")
TURNED = replace(
    replace(PIXEL4, name="turned", dtype="uint8", bit_depth=8, black_level=0, white_level=255, transfer="srgb"),
    dp_axis="y",
    swap_views=True,
)

# Area resizing adds a few dozen float32 products of [0, 1], in another order than OpenCV, and exposure multiplies both alike.
INPUT_TOLERANCE = 4e-6
# What such a difference becomes behind a float network: measured 3e-5 px, of disparities of some px.
FLOAT_TOLERANCE = 1e-3


@pytest.fixture(scope="session")
def checks(built_here):
    return build(HERE / "native_checks.cpp") / "native_checks"


def copied(bundle, folder, sensor=None, change=None):
    """A copy with its ExecuTorch artifacts, for a sensor, and with a change to its JSON."""
    folder.mkdir(exist_ok=True)
    for name in ARTIFACTS:
        shutil.copy(bundle.path(bundle.manifest.artifact(name).path), folder)
    manifest = replace(
        bundle.manifest, artifacts=tuple(bundle.manifest.artifact(name) for name in ARTIFACTS), golden=(),
    )  # fmt: skip
    if sensor is not None:
        preprocessing = Preprocessing.for_sensor(ExposureNormalisation(), sensor)
        manifest = replace(manifest, preprocessing=preprocessing, sensor=json.loads(json.dumps(sensor.to_dict())))
    write_manifest(manifest, folder)
    if change is not None:
        data = json.loads((folder / MANIFEST).read_text())
        change(data)
        (folder / MANIFEST).write_text(json.dumps(data))
    return folder


def documents(texts):
    return b"".join(f"{len(text)}\n".encode() + text for text in texts)


def plain(value):
    """As native_checks writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"'{value.encode().hex()}'"
    if isinstance(value, int | float):
        return f"{float(value) + 0.0:.17g}"  # no minus before zero
    if isinstance(value, list):
        return f"[{''.join(plain(item) + ',' for item in value)}]"
    return "{" + "".join(f"{len(name.encode())}:{plain(item)}," for name, item in value.items()) + "}"


def python_reads(text):
    """Python's reader, with what ours is strict about: names twice, NaN, infinity, half characters, depth."""

    def once(pairs):
        if len(dict(pairs)) != len(pairs):
            raise ValueError
        return dict(pairs)

    def no_constant(_):
        raise ValueError

    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=once, parse_constant=no_constant)
        return "refused" if "inf" in plain(value).replace("'", "") and float("inf") in flat(value) else plain(value)
    except (ValueError, RecursionError):
        return "refused"


def flat(value):
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value, *(leaf for item in items for leaf in flat(item))] if items else [value]


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | FLOATS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
ODD = [
    *(b"", b" ", b"nul", b"01", b"-", b"+1", b".5", b"1.", b"1e", b"1e5", b"-0", b"1e999", b"NaN", b"Infinity", b"1 "),
    *(b"[1,]", b"[,]", b'{"a":1,}', b'{"a" 1}', b"{a:1}", b'{"a":1,"a":2}', b"true false", b"\x00", b"\t[\r\n1 ]"),
    *(
        b'"\\ud83d\\ude00"',
        b'"\\ud83d"',
        b'"\\ude00"',
        b'"\\ud83dx"',
        b'"\\x41"',
        b'"\\u00g0"',
        b'"\\u0000"',
        b'"\\u00eF"',
    ),
    *(
        b'"\x01"',
        b'"a',
        b'"\xff"',
        b'"\xc0\x80"',
        b'"\xed\xa0\x80"',
        b'"\xf4\x90\x80\x80"',
        b'"\xe2\x82\xac"',
        b'"\xe2\x82"',
    ),
    b'"\\"\\\\\\/\\b\\f\\n\\r\\t"',
]


@settings(max_examples=30)
@given(st.lists(JSON, min_size=1, max_size=20), st.randoms(use_true_random=False))
@example([None], None)
def test_json_reader_agrees_with_python(checks, values, random):
    texts = [json.dumps(value, ensure_ascii=bool(index % 2)).encode() for index, value in enumerate(values)]
    if random is None:
        texts = ODD
    else:
        for text in list(texts):
            damaged = bytearray(text)
            damaged[random.randrange(len(damaged))] = random.choice(b'"[]{},:\\ 0e-tn\xc3')
            texts.append(bytes(damaged))
    code, stdout, stderr = run(checks, "json", stdin=documents(texts))
    assert code == 0, stderr
    for text, found in zip(texts, stdout.decode().splitlines(), strict=True):
        assert found == python_reads(text), text


def test_json_reader_bounds_depth(checks):
    texts = [b"[" * depth + b"]" * depth for depth in (64, 66, 100_000)]
    _, stdout, _ = run(checks, "json", stdin=documents(texts))
    assert [line == b"refused" for line in stdout.splitlines()] == [False, True, True]


def test_sha256_agrees_with_python(checks):
    texts = [os.urandom(size) for size in (*range(130), 1000, 65536)]
    _, stdout, _ = run(checks, "sha256", stdin=documents(texts))
    assert stdout.decode().split() == [hashlib.sha256(text).hexdigest() for text in texts]


def texture(height, width, seed=3):
    noise = np.random.default_rng(seed).random((height, width + 8))
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.0)
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    return smooth[:, 4:-4], smooth[:, 6:-2]


def from_cpp(checks, folder, artifact, views, tmp_path, size="capture", repeats=1):
    """Network input, disparity, confidence and corrected disparity as edge_dp::Model gives them."""
    kind = {"float32": "f32", "uint16": "u16", "uint8": "u8"}[str(views[0].dtype)]
    paths = [tmp_path / "left.bin", tmp_path / "right.bin"]
    for path, view in zip(paths, views, strict=True):
        path.write_bytes(np.ascontiguousarray(view).tobytes())
    arguments = [folder, artifact, kind, *views[0].shape, *paths, tmp_path / "out.bin", size, repeats]
    code, stdout, stderr = run(checks, "model", *arguments)
    assert code == 0, stderr
    height, width = map(int, stdout.split())
    values = np.fromfile(tmp_path / "out.bin", np.float32)
    network, maps = values[: 2 * 384 * 512], values[2 * 384 * 512 :]
    return network.reshape(2, 384, 512), *maps.reshape(3, height, width)


@pytest.mark.parametrize("shape", [(384, 512), (768, 1024), (500, 700), (1008, 513)], ids=str)
def test_model_of_linear_views_equals_the_predictor(bundle, checks, tmp_path, shape):
    """Equal sizes, whole-numbered scales, others, and one side nearly equal."""
    folder = copied(bundle, tmp_path / "bundle")
    left, right = (0.4 * view.astype(np.float32) for view in texture(*shape))
    for artifact in ARTIFACTS:
        network, disparity, confidence, corrected = from_cpp(checks, folder, artifact, (left, right), tmp_path)
        np.testing.assert_array_equal(corrected, disparity)  # of no sensor
        with edge_dp.load(folder, artifact) as predictor:
            sample = DpSample(left[None], right[None], PIXEL4, "views")
            np.testing.assert_allclose(network, predictor.network_input(sample)[0], rtol=0, atol=INPUT_TOLERANCE)
            # Of the very same input: where one lies between two steps, another order of additions decides.
            outputs = predictor.engine.infer({"views": network[None]})
            student = Student.of(predictor.bundle)
            np.testing.assert_allclose(disparity, student.disparity(outputs, *shape), rtol=0, atol=1e-5)
            np.testing.assert_allclose(confidence, student.confidence(outputs, *shape), rtol=0, atol=1e-5)


def assert_close(artifact, found, expected):
    """A float network within rounding. In an int8 one an input that lies between two steps may fall on either side."""
    assert found.shape == expected.shape
    error = np.abs(found - expected)
    if "int8" in artifact:
        assert np.quantile(error, 0.99) <= 1e-5
        assert error.max() <= 0.5
    else:
        assert error.max() <= FLOAT_TOLERANCE


@pytest.mark.parametrize("sensor", [PIXEL4, TURNED], ids=lambda sensor: sensor.name)
def test_model_of_raw_planes_equals_the_predictor(bundle, checks, tmp_path, sensor):
    """Levels, shading, sRGB, exchange of views and quarter turn as the manifest's sensor says."""
    folder = copied(bundle, tmp_path / "bundle", sensor)
    shape = (700, 520) if sensor.dp_axis == "y" else (500, 700)
    top = 255 if sensor.dtype == "uint8" else sensor.white_level
    views = [
        (sensor.black_level + view * (top - sensor.black_level) * 0.5).astype(sensor.dtype) for view in texture(*shape)
    ]
    network, disparity, confidence, corrected = from_cpp(checks, folder, "executorch-fp32", views, tmp_path, repeats=2)
    with edge_dp.load(folder, "executorch-fp32") as predictor:
        expected = predictor.predict(*views)
    assert network.mean() == pytest.approx(0.2, abs=1e-3)
    assert_close("fp32", disparity, expected.disparity)
    assert_close("fp32", confidence, expected.confidence)
    np.testing.assert_allclose(corrected, correct_field(disparity, sensor), rtol=1e-5)
    assert np.abs(corrected - disparity).max() > 0.02


def test_views_stay_as_they_are_where_the_model_prepares_them(bundle, checks, tmp_path):
    """As of a bundle that takes linear planes."""

    def change(data):
        data["preprocessing"] |= {"exposure": None, "dither": None}

    folder = copied(bundle, tmp_path / "bundle", change=change)
    views = [0.3 * view.astype(np.float32) for view in texture(384, 512)]
    network, disparity, _, _ = from_cpp(checks, folder, "executorch-fp32", views, tmp_path)
    np.testing.assert_array_equal(network, np.stack(views))
    with edge_dp.load(folder, "executorch-fp32") as predictor:
        assert_close("fp32", disparity, predictor.predict(*views).disparity)


def test_what_the_artifact_has_corrected_is_not_corrected_again(bundle, checks, tmp_path):
    folder = copied(bundle, tmp_path / "bundle", PIXEL4)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"field_corrected": True}))
    views = [(1024 + 9000 * view).astype(np.uint16) for view in texture(480, 640)]
    _, disparity, _, corrected = from_cpp(checks, folder, "executorch-fp32", views, tmp_path)
    np.testing.assert_array_equal(corrected, disparity)


def test_maps_at_the_networks_size(bundle, checks, tmp_path):
    folder = copied(bundle, tmp_path / "bundle")
    left, right = (0.4 * view.astype(np.float32) for view in texture(384, 512))
    network, disparity, confidence, _ = from_cpp(
        checks, folder, "executorch-fp32", (left, right), tmp_path, size="network"
    )
    path = bundle.path(bundle.manifest.artifact("executorch-fp32").path)
    with NativeEngine(path, signature(bundle)) as native:
        expected = native.infer({"views": network[None]})
    np.testing.assert_array_equal(disparity, expected["disparity"][0, 0])
    np.testing.assert_array_equal(confidence, expected["confidence"][0, 0].clip(0, 1))


def test_example_of_embedding(bundle, tmp_path):
    """PGM files of a Pixel 4 in, PFM out, as from Python."""
    folder = copied(bundle, tmp_path / "bundle", PIXEL4)
    for name, view in zip(("left", "right"), texture(480, 640), strict=True):
        cv2.imwrite(str(tmp_path / f"{name}.pgm"), (1024 + 9000 * view).astype(np.uint16))
    paths = [tmp_path / "left.pgm", tmp_path / "right.pgm"]
    program = build(EXAMPLE) / EXAMPLE.stem
    code, _, stderr = run(program, folder, *paths, tmp_path / "out.pfm")
    assert code == 0, stderr
    with edge_dp.load(folder, "executorch-int8") as predictor:
        expected = predictor.predict(read_pair(*paths, PIXEL4))
    assert_close("int8", read_pfm(tmp_path / "out.pfm"), expected.disparity)
    paths[1].write_bytes(paths[1].read_bytes()[:-1])
    assert run(program, folder, *paths, tmp_path / "out.pfm")[::2] == (2, f"embed: {paths[1]}: truncated\n")


def change_of(path, value):
    def change(data):
        for key in path[:-1]:
            data = data[key]
        if value is KeyError:
            del data[path[-1]]
        else:
            data[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["schema"], 4, "schema 4 is newer than this app reads (3)"),
        (["schema"], "1", "schema: expected a number"),
        (["schema"], KeyError, "expected a field 'schema', found none"),
        (["inputs", 0, "shape"], [1, 2, 192, 256], "expected one input of shape (1, 2, 192, 256) as in the manifest"),
        (["inputs", 0, "shape"], [1, 3, 384, 512], "inputs: [0]: shape: expected 1, 2, height, width"),
        (["inputs", 0, "shape"], [1, 2, 1.5, 512], "shape: [2]: expected a whole number"),
        (["inputs", 0, "shape"], [1, 2, 2**31, 512], "shape: [2]: expected a whole number"),
        (["inputs", 0, "shape"], [1, 2, 99999, 99999], "shape: expected at most 2147483647 values"),
        (["inputs", 0, "name"], "x", "name: expected 'views', found 'x'"),
        (["outputs", 0, "shape"], [1, 1, 96, 128], "shape: expected 1, 1, height, width, alike"),
        (["outputs", 0, "name"], "depth", "outputs: expected an output called 'disparity'"),
        (["preprocessing"], None, "preprocessing: expected an object"),
        (["preprocessing", "exposure", "target_mean"], 0, "target_mean: expected a number above 0"),
        (["preprocessing", "exposure", "transfer"], "log", "transfer: expected"),
        (["preprocessing", "axis"], "y", "axis: expected 'x', found 'y'"),
        (["preprocessing", "views"], ["right", "left"], "views: [0]: expected 'left', found 'right'"),
        (["artifacts", 0, "path"], "../x.pte", "path: expected a path that stays inside the bundle"),
        (["artifacts", 0, "path"], "other.pte", "expected a field 'other.pte', found none"),
        (["artifacts", 0, "name"], "other", "artifacts: expected one called 'executorch-int8', found other, executorch-fp32"),
        (["artifacts", 0, "files", "dp_disparity_s.int8.pte"], "0" * 64, "differs from 000000000000 in the manifest"),
        (["sensor", "dp_axis"], "z", "dp_axis: expected 'x', found 'z'"),
        (["preprocessing", "white_level"], 1024, "white_level: expected a level above the black level"),
        (["preprocessing", "right_gain", "coefficients"], [[1], [1, 2]], "coefficients: expected rows of equal length"),
        (["sensor", "alpha_field", "coefficients"], [[1], [1, 2]], "coefficients: expected rows of equal length"),
    ],
)  # fmt: skip
def test_manifests_are_checked(bundle, checks, tmp_path, path, value, words):
    folder = copied(bundle, tmp_path / "bundle", PIXEL4, change_of(path, value))
    (tmp_path / "view").write_bytes(bytes(2 * 384 * 512))
    arguments = [
        folder,
        "executorch-int8",
        "u16",
        384,
        512,
        tmp_path / "view",
        tmp_path / "view",
        tmp_path / "out",
        "capture",
    ]
    code, _, stderr = run(checks, "model", *arguments)
    assert (code, stderr.count("\n")) == (2, 1)
    assert words in stderr
    assert str(folder) in stderr


@pytest.mark.parametrize(
    ("view", "shape", "words"),
    [
        (np.zeros((384, 512), np.uint16), None, "both are black"),
        (np.full((384, 512), 60000, np.uint16), None, "expected levels up to the white level"),
        (np.full((200, 300), 5000, np.uint16), None, "expected at least 512x384 px"),
        (np.full((1100, 1400), 5000, np.uint16), None, "expected at most 1344x1008 px, where right_gain is known"),
        (np.full((384, 512), 200, np.uint8), None, "expected 16 bits per value, found 8"),
    ],
)
def test_views_are_checked(bundle, checks, tmp_path, view, shape, words):
    folder = copied(bundle, tmp_path / "bundle", PIXEL4)
    (tmp_path / "view").write_bytes(view.tobytes())
    kind = "u16" if view.dtype == np.uint16 else "u8"
    arguments = [*view.shape, tmp_path / "view", tmp_path / "view", tmp_path / "out", "capture"]
    code, _, stderr = run(checks, "model", folder, "executorch-int8", kind, *arguments)
    assert (code, stderr.count("\n")) == (2, 1)
    assert words in stderr


def test_levels_need_a_sensor(bundle, checks, tmp_path):
    folder = copied(bundle, tmp_path / "bundle")
    (tmp_path / "view").write_bytes(bytes(2 * 384 * 512))
    arguments = [384, 512, tmp_path / "view", tmp_path / "view", tmp_path / "out", "capture"]
    code, _, stderr = run(checks, "model", folder, "executorch-int8", "u16", *arguments)
    assert (code, "found no levels in it" in stderr) == (2, True)
    assert read_bundle(folder).manifest.sensor is None
