"""``edge-dp report``: an old run judged again, without an engine and without a change to the run."""

import json
from dataclasses import replace

import numpy as np
import pytest

from edge_dp.cli import main
from edge_dp.runtime.parity import THRESHOLDS, compare
from edge_dp.runtime.report.model import REPORT, SCHEMA, Report, Row, write_report


def row(artifact, precision, error):
    """One artifact, wrong by ``error`` everywhere but at one value; its step is 0.5."""
    reference = np.linspace(-2, 2, 64, dtype=np.float32)
    statistics = compare([reference + np.float32(error)], [reference], step=0.5)
    return Row(
        artifact=artifact,
        format=artifact.split("-")[0],
        precision=precision,
        engine="litert",
        device="local",
        size_bytes=1000,
        reference="quantised",
        error=None,
        statistics={"disparity": statistics},
        pictures={},
        kernels_integer={"conv": 1},
        kernels_floating={},
    )


RUN = Report(
    schema=SCHEMA,
    model="net",
    parameters=1,
    created="2024-01-01T00:00:00+00:00",
    host={"processor": "cpu", "threads": "1"},
    versions={},
    units={"disparity": "px"},
    thresholds=THRESHOLDS,
    rows=(row("tflite-int8", "int8", 0.0), row("onnx-int8", "int8", 2**-6)),
    pictures={},
    training={},
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    write_report(RUN, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def thresholds(tmp_path):
    def write(content):
        (tmp_path / "thresholds.json").write_text(json.dumps(content))
        return str(tmp_path / "thresholds.json")

    return write


def test_a_run_is_shown_as_it_was_judged(folder, capsys):
    assert main(["report", "show", str(folder)]) == 0
    text = capsys.readouterr().out
    assert text.count("pass") == 2
    assert main(["report", "show", str(folder / REPORT)]) == 0
    assert capsys.readouterr().out == text


def test_stricter_thresholds_fail_what_passed_and_change_nothing(folder, thresholds, capsys):
    before = (folder / REPORT).read_bytes()
    strict = thresholds({"int8": {"max_steps": 0.01}})
    assert main(["report", "judge", str(folder), "--thresholds", strict]) == 1
    text = capsys.readouterr().out
    assert "onnx-int8" in text
    assert "disparity: max error 0.0 steps, allowed 0.01" in text
    assert (text.count("FAIL"), text.count("pass")) == (1, 1)
    assert (folder / REPORT).read_bytes() == before
    assert [path.name for path in folder.iterdir()] == [REPORT]


def test_kinder_thresholds_pass_what_failed(folder, thresholds):
    failing = replace(RUN, rows=(row("tflite-int8", "int8", 1.5),))
    write_report(failing, folder)
    assert main(["report", "show", str(folder)]) == 1
    assert main(["report", "judge", str(folder), "--thresholds", thresholds({"int8": {"max_steps": 3}})]) == 0


def test_the_verdict_as_json(folder, thresholds, capsys):
    strict = thresholds({"int8": {"min_cosine": 0.9, "p999_steps": 0.02}})
    assert main(["report", "judge", str(folder), "--thresholds", strict, "--json"]) == 1
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["passed"] is False
    assert [(row["artifact"], len(row["missed"])) for row in verdict["rows"]] == [("tflite-int8", 0), ("onnx-int8", 1)]
    assert verdict["thresholds"]["int8"]["p999_steps"] == 0.02
    assert verdict["thresholds"]["int8"]["max_steps"] is None
    assert verdict["thresholds"]["fp32"]["max_relative"] == 1e-5


def test_a_page_is_written_where_it_is_asked_for(folder, tmp_path, capsys):
    assert main(["report", "html", str(folder), "--out", str(tmp_path / "page.html")]) == 0
    assert str(tmp_path / "page.html") in capsys.readouterr().out
    assert "tflite-int8" in (tmp_path / "page.html").read_text()
    assert [path.name for path in folder.iterdir()] == [REPORT]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(host={}), "host: field 'processor' is missing"),
        (lambda d: d.update(units={}), "units: expected one for each output, found none"),
        (lambda d: d["rows"][0].update(statistics={}), "tflite-int8: statistics: field 'disparity' is missing"),
        (lambda d: d["rows"][0]["statistics"]["disparity"].pop("histogram"), "field 'histogram' is missing"),
        (lambda d: d.update(schema=SCHEMA + 1), "newer"),
    ],
)
def test_a_damaged_run_is_an_error_that_names_its_place(folder, capsys, change, words):
    data = json.loads((folder / REPORT).read_text())
    change(data)
    (folder / REPORT).write_text(json.dumps(data))
    for action in (["show"], ["html", "--out", str(folder / "page.html")]):
        assert main(["report", action[0], str(folder), *action[1:]]) == 2
        line = capsys.readouterr().err
        assert line.startswith(f"edge-dp: {folder / REPORT}: ")
        assert words in line
        assert line.count("\n") == 1
    assert not (folder / "page.html").exists()


def test_missing_files_and_wrong_thresholds_exit_2(folder, thresholds, capsys):
    assert main(["report", "show", str(folder / "none")]) == 2
    assert "none" in capsys.readouterr().err
    assert main(["report", "judge", str(folder), "--thresholds", str(folder / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err
    assert main(["report", "judge", str(folder), "--thresholds", thresholds({"int9": {}})]) == 2
    assert "unknown precision 'int9'" in capsys.readouterr().err
