import json
from pathlib import Path

import numpy as np
import pytest

from edge_dp.errors import InputError, SchemaError
from edge_dp.sensors import SensorProfile, list_sensors, load_sensor


def own_profile(folder: Path, **changes: object) -> Path:
    """pixel4 with some fields replaced; a field set to ... is left out."""
    data = {**load_sensor("pixel4").to_dict(), "name": "own", **changes}
    path = folder / "own.json"
    path.write_text(json.dumps({field: value for field, value in data.items() if value is not ...}))
    return path


def test_the_profiles_that_come_along():
    assert list_sensors() == ("canon_r6", "generic_8bit", "pixel4")
    for name in list_sensors():
        assert load_sensor(name).name == name


def test_pixel4_as_documented_with_its_captures():
    sensor = load_sensor("pixel4")
    assert (sensor.dtype, sensor.black_level, sensor.white_level - sensor.black_level) == ("uint16", 1024, 16383)
    assert (sensor.transfer, sensor.dp_axis, sensor.swap_views) == ("linear", "x", False)
    assert (sensor.focal_length_m, sensor.f_number, sensor.pitch_um) == (4.38e-3, 1.73, 2.8)


def test_canon_strength_against_its_measured_slope():
    """Matching gives disparity = 1.173 - 1.108 / Z px, focus 1 m; alpha times the thin lens must say the same."""
    sensor = load_sensor("canon_r6")
    aperture = sensor.focal_length_m / sensor.f_number
    slope = aperture * sensor.focal_length_m / (1 - sensor.focal_length_m / 1.0) / (sensor.pitch_um * 1e-6)
    assert sensor.alpha * slope == pytest.approx((1.108 + 1.173) / 2, rel=0.05)


def test_right_gain_is_a_polynomial_over_pixel_centres():
    gain = load_sensor("pixel4").right_gain
    sampled = gain.sample(4, 8)
    y, x = 2 * (3 + 0.5) / 4 - 1, 2 * (1 + 0.5) / 8 - 1
    expected = sum(c * y**j * x**i for j, row in enumerate(gain.coefficients) for i, c in enumerate(row))
    assert sampled.shape == (4, 8)
    assert sampled.dtype == np.float32
    assert sampled[3, 1] == pytest.approx(expected, rel=1e-6)


def test_right_gain_against_the_calibration(data_root):
    measured = np.load(data_root / "dual_pixel/pixel4/calibration/vignette_central.npz")["right_gain"].astype(float)
    gain = load_sensor("pixel4").right_gain
    assert measured.shape == gain.field_px[::-1]
    error = gain.sample(*measured.shape) / measured - 1
    assert np.sqrt(np.mean(error**2)) == pytest.approx(0.0055, abs=1e-4)  # as the profile says
    assert np.abs(error).max() == pytest.approx(0.0206, abs=2e-4)


@pytest.mark.parametrize("name", ["pixel4", "canon_r6", "generic_8bit"])
def test_json_round_trip(name):
    sensor = load_sensor(name)
    assert SensorProfile.from_dict(json.loads(json.dumps(sensor.to_dict())), "memory") == sensor


def test_own_profile_with_a_field_of_a_later_version(tmp_path):
    sensor = load_sensor(own_profile(tmp_path, lens_shading_map=[1, 2], dp_axis="y"))
    assert (sensor.name, sensor.dp_axis) == ("own", "y")


def test_unknown_sensor_lists_the_known_ones():
    with pytest.raises(InputError, match=r"sensor 'pixel5': expected one of canon_r6, generic_8bit, pixel4, found"):
        load_sensor("pixel5")


def test_missing_profile_file(tmp_path):
    with pytest.raises(InputError, match=r"absent\.json: expected a readable file, found: No such file"):
        load_sensor(tmp_path / "absent.json")


@pytest.mark.parametrize("content", [b"black_level: 3", b"[1, 2]", b"\xff\xfe", b"", b"[" * 100_000])
def test_file_that_is_no_json_object(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(SchemaError, match=r"broken\.json: expected (a )?JSON"):
        load_sensor(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, r"own\.json: schema: expected at most 1, found 2\. Upgrade edge_dp"),
        ({"schema": ...}, r"own\.json: schema: expected 1, found None"),
        ({"schema": "1"}, r"own\.json: schema: expected 1, found '1'"),
        ({"swap_views": ...}, r"own\.json: swap_views: expected true or false, found nothing"),
        ({"swap_views": 1}, r"own\.json: swap_views: expected true or false, found 1"),
        ({"dtype": "float32"}, r"own\.json: dtype: expected uint8 or uint16, found 'float32'"),
        ({"dtype": ["uint8"]}, r"own\.json: dtype: expected uint8 or uint16"),
        ({"transfer": "gamma"}, r"own\.json: transfer: expected linear or srgb, found 'gamma'"),
        ({"dp_axis": "z"}, r"own\.json: dp_axis: expected x or y, found 'z'"),
        ({"black_level": True}, r"own\.json: black_level: expected a number, 0 or above, found True"),
        ({"black_level": float("nan")}, r"own\.json: black_level: expected a number, 0 or above, found nan"),
        ({"white_level": 1024}, r"own\.json: white_level: expected above black_level 1024 .* found 1024"),
        ({"white_level": 70000}, r"own\.json: white_level: expected .* at most 65535 \(uint16\), found 70000"),
        ({"bit_depth": 14.0}, r"own\.json: bit_depth: expected a whole number from 1 to 16, found 14\.0"),
        ({"alpha": 0}, r"own\.json: alpha: expected a number above 0, or null where unknown, found 0"),
        ({"name": "a/b"}, r"own\.json: name: expected letters, digits"),
        ({"sources": {}}, r"own\.json: sources\.black_level: expected where the number comes from, found nothing"),
        ({"sources": {"alpha": 3}}, r"own\.json: sources: expected an object of texts"),
        ({"right_gain": {"field_px": [4, 4], "coefficients": [[1, 2], [3]]}}, r"own\.json: right_gain: expected null"),
        ({"right_gain": {"field_px": [4], "coefficients": [[1]]}}, r"own\.json: right_gain: expected null"),
        ({"right_gain": [[1]]}, r"own\.json: right_gain: expected null"),
    ],
)
def test_malformed_profile_names_file_and_field(tmp_path, changes, message):
    with pytest.raises(SchemaError, match=message):
        load_sensor(own_profile(tmp_path, **changes))
