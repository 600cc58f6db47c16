"""``edge-dp stages``: what an export measured, shown as a table and as JSON, whatever stands in the file."""

import dataclasses
import json
from dataclasses import replace

import numpy as np
import pytest

from edge_dp.bundle.check import STAGES, check_bundle
from edge_dp.cli import main
from edge_dp.converters.stages import SCHEMA, StageRow, Stages, write_stages
from edge_dp.runtime.parity import compare

from .small_bundle import write_bundle


def error(mean, not_finite=0):
    statistics = compare([np.zeros(4, np.float32)], [np.zeros(4, np.float32)], step=0.25)
    changes = {
        "max_abs": 2 * mean,
        "mean_abs": mean,
        "p99_abs": 1.5 * mean,
        "max_steps": 8 * mean,
        "p99_steps": 6 * mean,
    }
    return replace(statistics, **changes, snr_db=20.0 if mean else None, not_finite=not_finite)


def row(stage, neighbour, disparity, score, **more):
    both = {"disparity": error(disparity), "score": error(score, **more)}
    return StageRow(stage, neighbour, both, {"disparity": error(disparity / 2)}, both)


STORED = Stages(
    SCHEMA,
    "net",
    ("typical", "extreme", "random"),
    (
        row("rewritten", "float", 0.0, 0.0),
        row("fake_quantised", "rewritten", 0.03125, 0.5),
        row("tflite-int8", "converted", 0.015625, 0.0, not_finite=7),
    ),
)


@pytest.fixture
def folder(tmp_path):
    write_bundle(tmp_path / "bundle")
    write_stages(STORED, tmp_path / "bundle")
    return tmp_path / "bundle"


def test_table_says_where_most_is_lost(folder, capsys):
    assert main(["stages", str(folder)]) == 0
    text = capsys.readouterr().out
    lines = [line.split() for line in text.splitlines()]
    assert "disparity: most is lost at fake_quantised, 0.016 on average" in text
    assert "score: most is lost at tflite-int8, 0 on average and 7 values NaN or infinite" in text
    first, second = (
        [cells for cells in lines if len(cells) > 3 and cells[1] == stage] for stage in ("rewritten", "tflite-int8")
    )
    assert all("exact" in cells for cells in first)
    assert second[0][3::2] == ["converted", "0.0078", "0.016", "0.023", "0.031", "20.0", "0.094", "0.016"]
    assert second[1][-4] == "-"  # score has no step
    assert text.count("disparity, px") == 1


def test_json_is_what_is_stored_and_the_worst(folder, capsys):
    assert main(["stages", str(folder), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data.pop("worst") == {"disparity": "fake_quantised", "score": "tflite-int8"}
    assert data == json.loads(json.dumps(dataclasses.asdict(STORED)))


def test_nothing_is_lost_where_all_is_exact(folder, capsys):
    write_stages(dataclasses.replace(STORED, rows=STORED.rows[:1]), folder)
    assert main(["stages", str(folder)]) == 0
    assert "disparity: every stage is exact" in capsys.readouterr().out
    assert main(["stages", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["worst"] == {"disparity": None, "score": None}


def test_the_file_belongs_to_the_bundle(folder):
    assert check_bundle(folder).problems == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "expected stages.json, found none"),
        ("{", "expected JSON"),
        ('{"schema": 3}', "newer"),
        ("[]", "JSON object"),
    ],
)
def test_a_file_that_cannot_be_read_exits_2(folder, capsys, text, words):
    (folder / STAGES).unlink()
    if text is not None:
        (folder / STAGES).write_text(text)
    assert main(["stages", str(folder)]) == 2
    line = capsys.readouterr().err
    assert line.startswith("edge-dp: ")
    assert line.count("\n") == 1
    assert words in line


def test_texts_of_the_file_cannot_steer_the_terminal(folder, capsys):
    hostile = {"[/red]\x1b[2J": error(0.5)}
    rows = (StageRow("\x1b[31m[bold]", "\x07", hostile, {}, {}),)
    write_stages(Stages(SCHEMA, "[/x]\x1b", (), rows), folder)
    assert main(["stages", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[bold]" in text
