"""``edge-dp simulate``: what it prints, what it writes, and how it refuses."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from edge_dp.cli import main
from edge_dp.data.simulated import SimulatedDataset
from edge_dp.simulation.capture import SimulationConfig, simulate_capture
from edge_dp.simulation.pictures import open_pictures
from edge_dp.simulation.scenes import SceneConfig

CONFIG = """\
scene: {height: 16, width: 32, margin: 8, disparity: [1.0, 2.0]}
lens: {models: {ramp: 1.0}}
rig_gain: 4.0
"""


@pytest.fixture
def simulate(tmp_path):
    """Call the verb for a small set; the exit code."""

    def call(*words, out=tmp_path / "set", count=3, size="16x24"):
        sized = ["--size", size] if size else []
        return main(["simulate", str(out), "--count", str(count), "--workers", "1", *sized, *words])

    return call


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def one_line(capsys):
    """What was printed on standard error, which must be one line of ours without a traceback."""
    text = capsys.readouterr().err
    assert text.startswith("edge-dp: ")
    assert text.count("\n") == 1
    return text


def test_progress_goes_to_standard_error_and_the_folder_to_standard_output(simulate, tmp_path, capsys):
    assert simulate() == 0
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'set'}\n"
    assert "simulate: 3/3 captures" in printed.err
    captures = SimulatedDataset(tmp_path / "set")
    assert (len(captures), captures[2].left.shape, captures.note.seed) == (3, (1, 16, 24), 0)


def test_as_json(simulate, tmp_path, capsys):
    assert simulate("--json", "--rig", "--seed", "5", count=70) == 0
    printed = json.loads(capsys.readouterr().out)
    sizes = [path.stat().st_size for path in (tmp_path / "set").glob("shard_*.npz")]
    assert printed == {"folder": str(tmp_path / "set"), "captures": 70, "shards": 2, "bytes": sum(sizes)}
    captures = SimulatedDataset(tmp_path / "set")
    assert captures.note.seed == 5
    assert captures.rig_views("00000069").margin == SceneConfig().margin


def test_configuration_file_and_size(simulate, tmp_path):
    (tmp_path / "set.yaml").write_text(CONFIG)
    assert simulate("--config", str(tmp_path / "set.yaml"), size=None) == 0
    assert simulate("--config", str(tmp_path / "set.yaml"), size="20x36", out=tmp_path / "wider") == 0
    sample = SimulatedDataset(tmp_path / "set")[1]
    config = SimulatedDataset(tmp_path / "set").note.config
    assert (config["lens"]["models"], config["rig_gain"]) == ({"ramp": 1.0}, 4.0)
    assert sample.left.shape == (1, 16, 32)
    assert sample.disparity.min() >= 1.0 - 1e-4 and sample.disparity.max() <= 2.0 + 1e-4
    assert SimulatedDataset(tmp_path / "wider")[1].left.shape == (1, 20, 36)


def test_defaults_are_those_of_the_library(simulate, tmp_path):
    assert simulate(count=1, size=None) == 0
    expected = simulate_capture(0, 0, SimulationConfig())
    np.testing.assert_array_equal(SimulatedDataset(tmp_path / "set")[0].disparity, expected.disparity)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", "1", "--resume"], "dataset.json: seed: expected 1, found 0"),
        (["--rig", "--resume"], "dataset.json: fields.reference: expected the field, found none"),
        ([], "holds a data set already. Pass --resume"),
    ],
)
def test_folder_of_another_set(simulate, tmp_path, capsys, words, message):
    assert simulate() == 0
    before = files(tmp_path / "set")
    capsys.readouterr()
    assert simulate(*words) == 2
    assert message in one_line(capsys)
    assert files(tmp_path / "set") == before


def test_foreign_folder_and_nothing_to_resume(simulate, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert simulate(out=tmp_path) == 2
    assert "expected an empty or new folder for the data set, found other files" in one_line(capsys)
    assert simulate("--resume") == 2
    assert "nothing to resume" in one_line(capsys)
    assert list(files(tmp_path)) == ["mine.txt"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scene: {hight: 3}", "set.yaml: scene: unknown field 'hight'"),
        ("scene: {disparity: [1.0]}", "set.yaml: scene: disparity: expected 2 values, found 1"),
        ("lens: {models: {pinhole: 1}}", "set.yaml: lens: models: expected half_aperture"),
        ("lens: {models: {'sensor:nokia': 1}}", "sensor 'nokia': expected one of"),
        ("", "set.yaml: expected a mapping"),
        ("scene: [", "set.yaml: not YAML"),
        ("scene: {textures: /no/such/folder, folder_share: 1.0}", "/no/such/folder"),
    ],
)
def test_bad_configuration_is_named_with_its_field(simulate, tmp_path, capsys, text, message):
    (tmp_path / "set.yaml").write_text(text)
    assert simulate("--config", str(tmp_path / "set.yaml")) == 2
    assert message in one_line(capsys)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    "words", [["--workers", "0"], ["--seed", "-1"], ["--count", "0"], ["--config", "nowhere.yaml"]]
)
def test_bad_arguments(simulate, tmp_path, capsys, words):
    assert simulate(*words) == 2
    assert words[0] in (line := one_line(capsys)) or words[1] in line
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("size", ["0x4", "12", "x", "-1x4", "4x4x4"])
def test_bad_size(simulate, capsys, size):
    with pytest.raises(SystemExit) as error:
        simulate(f"--size={size}", size=None)
    assert error.value.code == 2
    assert "expected HEIGHTxWIDTH" in capsys.readouterr().err


@pytest.fixture
def room(tmp_path):
    """A picture with depth, 1 to 2 m, in the layout of Open3D."""
    depth = np.tile(np.linspace(1000, 2000, 640).astype(np.uint16), (480, 1))
    colour = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    for folder, image in (("color", colour), ("depth", depth)):
        (tmp_path / "room" / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "room" / folder / "000.png"), image)
    return str(tmp_path / "room")


def test_captures_of_pictures(simulate, room, tmp_path):
    assert simulate("--from", room, "--rig") == 0
    captures = SimulatedDataset(tmp_path / "set")
    assert captures.note.source.data_set == "open3d" and captures.note.source.optics is None
    np.testing.assert_array_equal(
        captures[2].disparity,
        simulate_capture(
            0, 2, SimulationConfig(replace(SceneConfig(), height=16, width=24)), open_pictures(room)
        ).disparity,
    )
    assert captures[2].mask.all()


@pytest.mark.parametrize("focus", ["1.5", "1:1.5", "1.5:inf"])
def test_captures_of_pictures_through_a_lens(simulate, room, tmp_path, focus):
    """Pixel 4, alpha 0.21: d = 0.831 px m * (1 / g - 1 / z), all but the focus distance's 0.4 %."""
    assert simulate("--from", room, "--sensor", "pixel4", "--focus", focus) == 0
    nearest, _, farthest = focus.partition(":")
    dioptres = [1 / float(farthest or nearest), 1 / float(nearest)]
    captures = SimulatedDataset(tmp_path / "set")
    assert captures.note.source.optics["focus_dioptres"] == pytest.approx(dioptres)
    for sample in captures:
        assert sample.disparity.min() >= 1.005 * 0.831 * (dioptres[0] - 1.0) - 1e-3
        assert sample.disparity.max() <= 1.005 * 0.831 * (dioptres[1] - 0.5) + 1e-3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sensor", "pixel4", "--focus", "1"], "--sensor: expected --from with it, found none"),
        (["--from", "ROOM", "--sensor", "pixel4"], "--sensor: expected --focus with it, found none"),
        (["--from", "ROOM", "--focus", "1"], "--focus: expected --sensor with it, found none"),
        (["--from", "ROOM", "--sensor", "nokia", "--focus", "1"], "sensor 'nokia': expected one of"),
        (["--from", "ROOM", "--sensor", "pixel3", "--focus", "1"], "sensor pixel3: focal_length_m: expected a number"),
        (["--from", "ROOM", "--sensor", "pixel4", "--focus", "0.004:1"], "expected above the focal length 0.00438 m"),
        (
            ["--from", "ROOM", "--sensor", "pixel4", "--focus", "0.1"],
            "open3d: picture 000: expected disparities within",
        ),
        (["--from", "ROOM", "--size", "481x24"], "open3d: picture 000: expected at least 481x24 px"),
        (["--from", "nowhere"], "nowhere: expected the folder of a data set, found nothing"),
        (["--from", "ROOM/color"], "room/color: expected"),
    ],
)
def test_pictures_and_lenses_that_cannot_be(simulate, room, tmp_path, capsys, words, message):
    assert simulate(*(word.replace("ROOM", room) for word in words)) == 2
    assert message in one_line(capsys)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("focus", ["0", "-1", "nan", "2:1", "1:2:3", "near", "", ":", "1:"])
def test_bad_focus(simulate, capsys, focus):
    with pytest.raises(SystemExit) as error:
        simulate(f"--focus={focus}")
    assert error.value.code == 2
    assert "expected METRES or rising METRES:METRES such as 0.5:2" in capsys.readouterr().err


def test_help_says_what_each_option_is_for(capsys):
    with pytest.raises(SystemExit) as error:
        main(["simulate", "--help"])
    assert error.value.code == 0
    text = capsys.readouterr().out
    for option in (
        "--count", "--seed", "--config", "--size", "--from", "--sensor", "--focus", "--workers", "--rig", "--resume", "--json",
    ):  # fmt: skip
        assert option in text


def test_interrupt(simulate, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("edge_dp.cli.progress._lines", lambda console: interrupting)
    assert simulate() == 130
    assert "edge-dp: interrupted" in capsys.readouterr().err
    monkeypatch.undo()
    assert simulate("--resume") == 0
    assert len(SimulatedDataset(tmp_path / "set")) == 3


def interrupting(stage, done, total, text):
    raise KeyboardInterrupt
