"""``edge-dp sensors``: what it prints and writes, and one clear line for bad input."""

import json

import cv2
import numpy as np
import pytest

from edge_dp.cli import main
from edge_dp.sensors import list_sensors, load_sensor


def call(*words):
    return main(["sensors", *(str(word) for word in words)])


@pytest.fixture
def captures(tmp_path):
    """Planes at 0.5, 1 and 2 m, 1 px apart: disparity 2 - 2 / Z px, made by moving the right view by whole pixels."""
    noise = cv2.GaussianBlur(np.random.default_rng(0).random((160, 240)), (0, 0), 1.5)
    texture = np.rint(255 * cv2.normalize(noise, None, 0.1, 0.9, cv2.NORM_MINMAX)).astype(np.uint8)
    rows = ["left,right,depth"]
    for depth, disparity in ((0.5, -2), (1.0, 0), (2.0, 1)):
        right = np.roll(texture, disparity, axis=1)
        right[0, 0] ^= 1  # views are never quite the same
        cv2.imwrite(str(tmp_path / f"{depth}_l.png"), texture)
        cv2.imwrite(str(tmp_path / f"{depth}_r.png"), right)
        rows.append(f"{depth}_l.png,{depth}_r.png,{depth}")
    path = tmp_path / "captures.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_list_names_every_profile(capsys):
    assert call("list") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in list_sensors())
    assert call("list", "--json") == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == list(list_sensors())


@pytest.mark.parametrize("name", list_sensors())
def test_show_gives_unit_and_source_and_marks_the_unknown(name, capsys):
    assert call("show", name) == 0
    text = capsys.readouterr().out
    sensor = load_sensor(name)
    data = sensor.to_dict()
    assert text.count("unknown") >= sum(value is None for value in data.values())
    assert all(field in text for field in data if field not in ("schema", "name", "description", "sources"))
    assert all(source.split()[0] in text for source in sensor.sources.values())
    assert call("show", name, "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(data))


def test_fit_writes_a_profile_that_loads(captures, tmp_path, capsys):
    out = tmp_path / "mine.json"
    assert call("fit", captures, "--sensor", "canon_r6", "--out", out, "--uniform-alpha") == 0
    text = capsys.readouterr().out
    assert "disparity = 2 -2 / Z px" in text.replace("1.999", "2").replace("2.001", "2").replace("2.000", "2")
    assert str(out) in text.replace("\n", "")
    fitted = load_sensor(out)
    assert (fitted.name, fitted.focus_m) == ("mine", pytest.approx(1.0, abs=0.005))
    assert "captures.csv" in fitted.sources["alpha"]
    assert fitted.right_gain == load_sensor("canon_r6").right_gain  # three captures are too few for it


def test_fit_as_json(captures, tmp_path, capsys):
    out = tmp_path / "mine.json"
    words = ("--sensor", "canon_r6", "--out", out, "--uniform-alpha", "--name", "other", "--json")
    assert call("fit", captures, *words) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["fit"]["slope_px_m"] == pytest.approx(-2, abs=0.02)
    assert [capture["name"] for capture in result["fit"]["captures"]] == ["0.5_l", "1.0_l", "2.0_l"]
    assert load_sensor(result["profile"]).name == "other"


def test_fit_of_measured_kernels(data_root, tmp_path):
    calibration = data_root / "dual_pixel/pixel4/calibration"
    kernels = [calibration / f"blur_kernels_{side}.npy" for side in ("left", "right")]
    out = tmp_path / "phone.json"
    words = ("--grid", "6x8", "--field", "1344x1008", "--sensor", "pixel4", "--out", out)
    assert call("fit", "--kernels", *kernels, *words) == 0
    fitted = load_sensor(out)
    assert fitted.psf.field_px == (1344, 1008)
    assert "48 measured kernels" in fitted.sources["psf"]
    assert fitted.alpha == load_sensor("pixel4").alpha
    shipped = load_sensor("pixel4").alpha_field
    np.testing.assert_allclose(fitted.alpha_field.sample(64, 64), shipped.sample(64, 64), atol=1e-3)
    assert "48 measured kernels" in fitted.sources["alpha_field"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show", "pixel99"), "expected one of canon_5d4"),
        (("fit", "--sensor", "canon_r6"), "expected captures of known depth"),
        (("fit", "absent.csv", "--sensor", "canon_r6"), "absent.csv: expected a readable list"),
        (("fit", "{captures}", "--sensor", "generic_8bit"), "focal_length_m: expected a number, found null"),
        (("fit", "{captures}", "--sensor", "pixel4"), "expected uint16 raw with black level 1024"),
        (("fit", "{captures}", "--sensor", "canon_r6", "--name", "a/b"), "name: expected letters, digits"),
        (("fit", "{captures}", "--sensor", "canon_r6", "--max-disparity", "0"), "maximum disparity >= step"),
        (("fit", "--dataset", "nyu", "x", "--sensor", "canon_r6"), "data set 'nyu': expected one of"),
        (("fit", "--dataset", "dp119", "absent", "--sensor", "canon_r6"), "absent"),
        (("fit", "--kernels", "a.npy", "b.npy", "--sensor", "pixel4"), "--kernels: expected --grid and --field"),
        (
            ("fit", "--kernels", "a.npy", "b.npy", "--grid", "6x8", "--field", "8x6", "--sensor", "pixel4"),
            "a.npy: expected a readable .npy file",
        ),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(words, message, captures, tmp_path, capsys):
    out = tmp_path / "mine.json"
    arguments = [word.format(captures=captures) for word in words]
    assert call(*arguments, *(["--out", out] if words[0] == "fit" else [])) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("match:")]
    assert len(errors) == 1
    assert errors[0].startswith("edge-dp: ")
    assert message in errors[0]
    assert not out.exists()


def test_what_is_not_a_grid(capsys):
    with pytest.raises(SystemExit):
        call("fit", "--kernels", "a", "b", "--grid", "6", "--sensor", "pixel4", "--out", "x.json")
    assert "expected two whole numbers such as 6x8" in capsys.readouterr().err
