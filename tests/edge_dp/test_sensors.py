import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from edge_dp.errors import InputError, SchemaError
from edge_dp.sensors import Noise, SensorProfile, list_sensors, load_sensor, profile
from edge_dp.sensors.fit_psf import grid_positions


def own_profile(folder: Path, **changes: object) -> Path:
    """pixel4 with some fields replaced; a field set to ... is left out."""
    data = {**load_sensor("pixel4").to_dict(), "name": "own", **changes}
    path = folder / "own.json"
    path.write_text(json.dumps({field: value for field, value in data.items() if value is not ...}))
    return path


def test_the_profiles_that_come_along():
    assert list_sensors() == ("canon_5d4", "canon_r6", "generic_8bit", "generic_phone", "pixel3", "pixel4")
    for name in list_sensors():
        assert load_sensor(name).name == name


@pytest.mark.parametrize("name", list_sensors())
def test_a_shipped_profile_says_of_every_number_where_it_is_from_or_that_it_is_unknown(name):
    data = json.loads((Path(profile.__file__).parent / f"profiles/{name}.json").read_text())
    fields = {field.name for field in dataclasses.fields(SensorProfile)}
    assert set(data) == fields | {"schema"}  # unknown is written out, not left out
    assert set(data["sources"]) == {field for field in profile.NEED_SOURCE if data[field] is not None}


def test_pixel4_as_documented_with_its_captures():
    sensor = load_sensor("pixel4")
    assert (sensor.dtype, sensor.black_level, sensor.white_level - sensor.black_level) == ("uint16", 1024, 16383)
    assert (sensor.transfer, sensor.dp_axis, sensor.swap_views) == ("linear", "x", False)
    assert (sensor.focal_length_m, sensor.f_number, sensor.pitch_um) == (4.38e-3, 1.73, 2.8)


def test_pixel4_is_sampled_half_as_densely_down_as_across():
    """2016x756 samples of each view make up the 2016x1512 px of the files."""
    assert load_sensor("pixel4").native_sampling == (2016 / 2016, 756 / 1512)


def test_canon_strength_against_a_slope_measured_by_other_means():
    """Global matching gives disparity = 1.173 - 1.108 / Z px; alpha times the thin lens must say the same within a fifth."""
    sensor = load_sensor("canon_r6")
    aperture = sensor.focal_length_m / sensor.f_number
    blur = aperture * sensor.focal_length_m / (1 - sensor.focal_length_m / sensor.focus_m) / (sensor.pitch_um * 1e-6)
    assert sensor.alpha * blur == pytest.approx(1.108, rel=0.2)
    assert sensor.alpha * blur / sensor.focus_m == pytest.approx(1.173, rel=0.2)


def test_alpha_over_the_field_has_alpha_as_its_mean():
    sensor = load_sensor("canon_r6")
    alpha = sensor.alpha_over_field(64, 96)
    assert (alpha.shape, alpha.dtype) == ((64, 96), np.float32)
    assert alpha.mean() == pytest.approx(sensor.alpha, rel=1e-3)
    assert alpha[:, 48].mean() > 1.5 * alpha[:, 0].mean()
    uniform = dataclasses.replace(sensor, alpha_field=None)
    assert (uniform.alpha_over_field(4, 4) == np.float32(sensor.alpha)).all()


def test_pixel4_strength_follows_the_measured_kernels():
    """The relative distance of the centroids at the middles of the 6x8 tiles, from the profile's other fit of them."""
    sensor = load_sensor("pixel4")
    strength = sensor.alpha_field.sample(6, 8)
    places = grid_positions(6, 8)
    measured = np.array([sensor.psf.plane_disparity(x, y) for x, y in places]).reshape(6, 8)
    np.testing.assert_allclose(strength / strength.mean(), measured / measured.mean(), rtol=1e-4)
    assert sensor.alpha_field.sample(256, 256).mean() == pytest.approx(1, abs=1e-4)


def test_alpha_over_the_field_of_a_sensor_that_has_none():
    with pytest.raises(InputError, match="sensor generic_8bit: alpha: expected a number, found none"):
        load_sensor("generic_8bit").alpha_over_field(4, 4)


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
    assert np.sqrt(np.mean(error**2)) == pytest.approx(0.0044, abs=1e-4)  # as the profile says
    assert np.abs(error).max() < 0.0098


@pytest.mark.parametrize("name", list_sensors())
def test_json_round_trip(name):
    sensor = load_sensor(name)
    assert SensorProfile.from_dict(json.loads(json.dumps(sensor.to_dict())), "memory") == sensor


def test_json_round_trip_of_what_no_shipped_profile_knows():
    sources = dict.fromkeys(profile.NEED_SOURCE, "measured")
    full = dataclasses.replace(load_sensor("pixel4"), noise=Noise(5000.0, 2.5), focus_m=(0.1, 4.0), sources=sources)
    assert SensorProfile.from_dict(json.loads(json.dumps(full.to_dict())), "memory") == full


def test_a_profile_of_schema_1_is_read_with_the_rest_unknown():
    data = {
        "schema": 1, "name": "old", "description": "", "dtype": "uint8", "bit_depth": 8, "black_level": 0,
        "white_level": 255, "transfer": "srgb", "dp_axis": "y", "swap_views": True, "alpha": 0.2, "focal_length_m": None,
        "f_number": None, "pitch_um": None, "right_gain": {"field_px": [8, 4], "coefficients": [[1.1]]},
        "sources": {"black_level": "a", "white_level": "b", "alpha": "c", "right_gain": "d"},
    }  # fmt: skip
    sensor = SensorProfile.from_dict(data, "old.json")
    assert (sensor.alpha, sensor.right_gain.field_px) == (0.2, (8, 4))
    later = ("colour_filter", "dp_plane", "orientation", "native_sampling", "noise", "focus_m", "alpha_field", "psf")
    assert all(getattr(sensor, field) is None for field in later)


def test_own_profile_with_a_field_of_a_later_version(tmp_path):
    sensor = load_sensor(own_profile(tmp_path, lens_shading_map=[1, 2], dp_axis="y"))
    assert (sensor.name, sensor.dp_axis) == ("own", "y")


def test_unknown_sensor_lists_the_known_ones():
    with pytest.raises(InputError, match=r"sensor 'pixel5': expected one of canon_5d4, canon_r6, .*, pixel4, found"):
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
        ({"schema": 3}, r"own\.json: schema: expected at most 2, found 3\. Upgrade edge_dp"),
        ({"schema": ...}, r"own\.json: schema: expected 2, found None"),
        ({"schema": "1"}, r"own\.json: schema: expected 2, found '1'"),
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
        ({"alpha_field": [[1]]}, r"own\.json: alpha_field: expected null"),
        (
            {"alpha_field": {"field_px": [4, 4], "coefficients": [[1, 1.5]]}},
            r"own\.json: alpha_field: expected above 0 all over the field, found -0\.4",
        ),
        ({"colour_filter": "rggb"}, r"own\.json: colour_filter: expected bayer, quad_bayer, none, or null"),
        ({"dp_plane": "blue"}, r"own\.json: dp_plane: expected green, rgb, grey, or null"),
        ({"orientation": 45}, r"own\.json: orientation: expected 0, 90, 180, 270, or null .* found 45"),
        ({"orientation": False}, r"own\.json: orientation: expected 0, 90"),
        ({"native_sampling": [1.0]}, r"own\.json: native_sampling: expected \[along x, along y\]"),
        ({"native_sampling": [1.0, 0]}, r"own\.json: native_sampling: expected \[along x, along y\]"),
        ({"noise": {"full_well_e": 0, "read_noise_e": 1}}, r"own\.json: noise: expected null or an object"),
        ({"noise": {"full_well_e": 9}}, r"own\.json: noise: expected null or an object"),
        ({"focus_m": [2.0, 1.0]}, r"own\.json: focus_m: expected a number above 0, \[nearest, farthest\]"),
        ({"focus_m": 1.0, "sources": {"black_level": "a"}}, r"own\.json: sources\.[a-z_]+: expected where the number"),
        ({"psf": 3}, r"own\.json: psf: expected an object or null"),
        ({"psf": {}}, r"own\.json: psf\.[a-z_]+: expected .* found nothing"),
    ],
)
def test_malformed_profile_names_file_and_field(tmp_path, changes, message):
    with pytest.raises(SchemaError, match=message):
        load_sensor(own_profile(tmp_path, **changes))
