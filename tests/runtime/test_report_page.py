"""The report's page as a parser sees it: it stands alone, says what it must, and its numbers are the report's."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from edge_dp.errors import InputError, SchemaError
from edge_dp.runtime.accuracy import Accuracy, Score
from edge_dp.runtime.blame import Blame, Layer
from edge_dp.runtime.report.pictures import PICTURES
from edge_dp.runtime.report.words import milliseconds, number, share

from .made_report import BOARD, EMULATED, PHONE, Made, make_report, on_devices, timed

HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>{{ 7 * 7 }}"
PICTURES_OF_ROWS = 3 * 2


@pytest.fixture
def made(tmp_path) -> Made:
    return make_report(tmp_path / "bundle")


class Tags(HTMLParser):
    """Tags, attributes and text, as a parser sees them that knows nothing of the template.

    data: exact numbers with the words that show them, by the row they stand in. cells: of each table, row by row.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.data, self.tables, self._open_table, self._row, self._value = {}, [], False, None, None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        named = dict(attrs)
        if tag == "article":
            self._row = named["id"]
        elif tag == "data":
            self._value = float(named["value"])
        elif tag == "table":
            self.tables.append([])
            self._open_table = True
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
        elif tag == "a" and self._open_table:
            self.tables[-1][-1][-1] += named["href"]

    def handle_endtag(self, tag):
        if tag == "article":
            self._row = None
        elif tag == "data":
            self._value = None
        elif tag == "table":
            self._open_table = False

    def handle_data(self, data):
        self.text += f" {data}"
        if self._value is not None:
            self.data.setdefault(self._row, []).append((self._value, data))
        if self._open_table and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] = " ".join(f"{self.tables[-1][-1][-1]} {data}".split())


def words(page: str) -> str:
    return " ".join(Tags(page).text.split())


def value_of(text: str) -> float:
    """The number that a reader sees."""
    text = text.replace("\u202f", "").replace("−", "-").replace("×10", "e")
    return float(text.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")))


def test_page_stands_alone(made):
    for page in (made.page(), on_devices(made).page()):
        assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
        assert not re.search(r"https?:|src=.//|@import|url\(", re.sub(r"data:image/png;base64,[\w+/=]+", "", page))
        tags = Tags(page)
        assert "script" not in tags.tags
        identifiers = [value for name, value in tags.attributes if name == "id"]
        assert len(identifiers) == len(set(identifiers))
        for name, value in tags.attributes:
            if name in ("src", "href"):
                assert value.startswith("data:") or value[1:] in identifiers, value
            if name in ("aria-labelledby", "aria-describedby"):
                assert value in identifiers
            if name in ("alt", "aria-label"):
                assert value
            assert not name.startswith("on")


def test_page_says_what_it_must(made):
    text = words(made.page())
    for expected in (
        "✗ Failed 2 of 4 runs reproduce the model",
        "1 did not run",
        "2026-01-02 03:04 UTC",
        "128\u202f098",
        "disparity: max error 40.0 steps, allowed 8",
        "executorch: torch not installed: pip install 'edge-dp[executorch]'",
        "reference evaluator",
        "says nothing of the Neural Engine, nor of speed",
        "Integer kernels: 20 × CONV_2D",
        "Licence of the data CC0",
        "Epe px 0.25",
        '"seed": 7',
    ):
        assert " ".join(expected.split()) in text, expected
    for absent in ("Accuracy", "budgets", "Blame", "host bit for bit"):
        assert absent not in text


def test_every_device_and_engine_is_in_the_matrix(made):
    """Each row of the report in its own cell, linked to its details; a cell that was not run says so."""
    report = on_devices(made).report
    matrix = Tags(on_devices(made).page()).tables[0]
    head, *lines = matrix
    devices = [cell.split()[-1] for cell in head[1:]]
    assert devices == ["local", PHONE, EMULATED, BOARD]
    found = {}
    for name, *cells in lines:
        artifact, engine = name.split()[:2]
        found |= {(artifact, engine.strip(","), device): cell for device, cell in zip(devices, cells, strict=True)}
    assert len(found) == len(lines) * len(devices)
    by_key = {row.key: row for row in report.rows}
    for key, cell in found.items():
        if row := by_key.pop(key, None):
            assert cell.startswith("#row-")
            assert ("did not run" if row.error else "fail" if report.missed(row) else "pass") in cell
        else:
            assert cell == "– not run"
    assert not by_key
    assert "28.16 M instr." in found["tflite-int8", "litert", EMULATED]
    assert f"p50 {report.rows[5].latency.p50_ms:.2f} ms max 40 steps" in found["tflite-int8", "litert", PHONE]
    assert "max 5.96×10⁻⁵ %" in found["onnx-fp32", "onnxruntime", "local"]
    assert "exact" in found["coreml-w8a8", "coreml-reference", "local"]


def test_numbers_are_those_of_the_report(made):
    """Every number of a row's details carries its exact value, and shows it to three digits."""
    made = on_devices(made)
    tags = Tags(made.page())
    artifacts = [row.artifact for row in made.report.rows]
    rows = sorted(made.report.rows, key=lambda row: artifacts.index(row.artifact))
    for index, row in enumerate(rows):
        shown = tags.data.get(f"row-{index}", [])
        values = [value for value, _ in shown]
        for output in row.statistics.values():
            for field in dataclasses.fields(output):
                if re.search(r"_abs$|^(max|p99|p999)_steps$|cosine", field.name):
                    assert getattr(output, field.name) in values, field.name
        if row.latency:
            for name in ("load", "first", "p50", "p90", "p99", "mean", "min"):
                assert getattr(row.latency, f"{name}_ms") in values
            assert max(row.latency.milliseconds) in values
            assert row.latency.instructions is None or row.latency.instructions in values
        if row.blame:
            assert {layer.max_steps for layer in row.blame.layers} <= set(values)
        for value, text in shown:
            if value not in {output.cosine for output in row.statistics.values()}:
                assert value_of(text) == pytest.approx(value, rel=5e-3)
    accuracy = tags.data[None]
    assert [value for value, _ in accuracy[:6]] == [0.3624, 0.3646, 0.00607, 0.071, 0.0709, -0.00141]
    assert [text for _, text in accuracy[:6]] == [
        "0.3624",
        "0.3646",
        "0.607 % worse",
        "0.071",
        "0.0709",
        "0.141 % better",
    ]


def test_thresholds_and_budgets_are_on_the_page(made):
    made = on_devices(made)
    tags = Tags(made.page())
    (table,) = (table for table in tags.tables if table[0][0] == "Precision")
    assert ["int8", "–", "35", "–", "8", "2", "–"] in table
    assert ["fp32", "0.001", "–", "–", "–", "–", "–"] in table
    text = " ".join(tags.text.split())
    assert "Budgets of every timed run: p90=5ms instructions=80M" in text
    assert "p90 is 6.1 ms, allowed 5 ms" in text


def test_facts_and_marks_of_devices(made):
    text = words(on_devices(made).page())
    for expected in (
        "✓ equals the host bit for bit",
        "✗ 41 values differ from the host’s",
        "512 values differ from the host’s",
        "✓ repeats agree",
        "✗ repeats differ",
        "too few inferences for preset normal",
        "% slower at the end",
        "asimd fphp",
        "It told nothing of itself.",
        "peak memory 61.00 MB",
        "temperature 31.5 → 38.2 °C",
        "on cores 4, 7",
        "held-out 200 samples",
    ):
        assert expected in text, expected


def test_an_emulated_device_has_instruction_count_time(made):
    page = on_devices(made).page()
    text = words(page)
    speed = text[text.index(f"{EMULATED} Instruction-count time") :]
    assert "is no time of a phone" in speed[:200]
    assert "28 160 000 instructions · 56.3 ms" in speed[:400]
    assert "varies by 7" in page


def test_blame_names_the_layer_once_and_shows_the_chain(made):
    tags = Tags(on_devices(made).page())
    text = " ".join(tags.text.split())
    assert text.count("← to blame") == 2  # among its neighbours, and among all
    assert "encoder.14 (conv2d, tensor_14 in the artifact) is the first layer" in text
    assert "1 before it, 41 after it (mean 0.5 ), of which 39 are its own (mean 8 )" in text
    assert "It begins at encoder.14 (conv2d)." in text
    assert "No layer is to blame" in text
    around, every = (table for table in tags.tables if table[0][0] == "#" and len(table) in (8, 31))
    assert [line[0] for line in around[1:]] == [str(index) for index in range(12, 19)]
    assert [line[1].split()[0] for line in every[1:]] == [f"encoder.{index}" for index in range(30)]


def test_pictures_that_are_the_same_are_shown_once(made):
    """Rows of one artifact that drew the same pictures refer to the first of them; other artifacts show their own."""
    tags = Tags(on_devices(made).page())
    assert tags.tags.count("img") == Tags(made.page()).tags.count("img") == 5 + PICTURES_OF_ROWS
    assert " ".join(tags.text.split()).count("The pictures equal those of litert on local") == 3


def test_hostile_strings_stay_text(made):
    def hostile(value):
        """``value`` with every string within it replaced, paths of pictures and kinds apart."""
        if isinstance(value, str):
            return HOSTILE
        if dataclasses.is_dataclass(value):
            kept = ("pictures", "reference", "kind", "units")
            changes = {f.name: hostile(getattr(value, f.name)) for f in dataclasses.fields(value) if f.name not in kept}
            return replace(value, **changes)
        if isinstance(value, tuple):
            return tuple(hostile(item) for item in value)
        if isinstance(value, dict):
            return {HOSTILE + key: hostile(item) for key, item in value.items()}
        return value

    report = hostile(on_devices(made).report)
    assert report.rows[0].engine == HOSTILE
    for changed in (report, replace(report, units={HOSTILE: HOSTILE}, thresholds=made.report.thresholds)):
        tags = Tags(replace(made, report=changed).page())
        assert "script" not in tags.tags
        assert "img" in tags.tags
        assert {value[:5] for name, value in tags.attributes if name == "src"} == {"data:"}
        assert "onerror" not in dict(tags.attributes)
        assert tags.text.count(HOSTILE) > 100


def test_every_run_failed(made):
    rows = tuple(replace(row, error="boom", statistics={}, latency=None, pictures={}) for row in made.report.rows)
    text = words(made.page(rows=rows))
    assert "0 of 4 runs reproduce the model within the thresholds; 4 did not run" in text
    assert text.count("boom") == 8  # among what went wrong, and in the details
    assert "No artifact was run." in made.page(rows=(), pictures={}, training={}, versions={})


def test_values_that_are_not_finite(made):
    row = made.report.rows[0]
    broken = {name: replace(output, nan=3, infinite=2, not_finite=5) for name, output in row.statistics.items()}
    text = words(made.page(rows=(replace(row, statistics=broken),)))
    assert "disparity: 5 values are NaN or infinite" in text
    assert "✗ fail p50" in text
    assert "10 not finite" in text
    assert "NaN, infinite 3, 2 3, 2" in text


def test_a_report_of_one_layer_one_metric_and_one_inference(made):
    """The least of everything still makes a page."""
    layer = Layer("only", "conv2d", 0.0, 0.0)
    row = replace(
        made.report.rows[0],
        latency=timed([5.0]),
        blame=Blame(layer, 0.0, (layer,)),
        accuracy=Accuracy("one", 1, (Score("epe_px", 0.0, 0.0, 0.0),)),
    )
    text = words(made.page(rows=(row,)))
    assert "only (conv2d) is the first layer" in text
    assert "one 1 sample" in text
    assert "inferences in order" not in text
    assert "only" not in words(made.page(rows=(replace(row, blame=Blame(None, 0.0, ())),)))


def test_many_inferences_do_not_make_a_large_page(made):
    """A row grows to some ten kilobytes and no further, however much was timed; 32 kB are enough for all of it."""

    def page_of(count, rows):
        latency = timed(5 + np.random.default_rng(2).gamma(0.5, size=count))
        row = made.report.rows[0]
        page = made.page(
            rows=tuple(replace(row, device=f"adb://{i}", latency=latency) for i in range(rows)), pictures={}
        )
        assert f">{milliseconds(max(latency.milliseconds))}</data> ms" in page
        return page

    assert len(page_of(1024, 40)) < 40 * 32_000
    assert len(page_of(100_000, 1)) < 1.05 * len(page_of(1024, 1))


@pytest.mark.parametrize(
    "path", ["../outside.png", f"{PICTURES}/../../outside.png", "/etc/hostname", "link.png", "a\0.png"]
)
def test_a_picture_outside_the_folder_is_refused(made, path):
    outside = made.bundle.folder.parent / "outside.png"
    outside.write_bytes((made.bundle.folder / made.report.pictures["left"]).read_bytes())
    (made.bundle.folder / "link.png").symlink_to(outside)
    row = replace(made.report.rows[0], pictures={"error": path})
    for changes in ({"pictures": {"left": path}}, {"rows": (row,)}):
        with pytest.raises(SchemaError, match="leaves the folder"):
            made.page(**changes)
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
        (float("-inf"), "−inf"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"), [(0, 0, "–"), (1, 3, "33.3"), (294_911, 294_912, "> 99.9"), (7, 7, "100")]
)
def test_shares(part, whole, text):
    assert share(part, whole) == text
