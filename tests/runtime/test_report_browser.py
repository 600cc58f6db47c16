"""The report's page in a real browser: on a phone and a desktop, in light and in dark."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_dp.runtime.report.html import write_page

from .made_report import PHONE as DEVICE
from .made_report import Made, make_report, on_devices, timed

PHONE, DESKTOP = 360, 1280
SCREENS = pytest.mark.parametrize("width", [PHONE, DESKTOP])

# Text of a drawing that its box cuts off.
CUT_OFF = """
return [...document.querySelectorAll('svg text')].filter(text => {
  const svg = text.ownerSVGElement.getBoundingClientRect(), box = text.getBoundingClientRect();
  return svg.width && (box.left < svg.left - 1 || box.right > svg.right + 1 || box.bottom > svg.bottom + 1);
}).map(text => text.textContent);
"""
# Text that lies on other text of the same drawing.
OVERLAPPING = """
const meet = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom - 2 && b.top < a.bottom - 2;
return [...document.querySelectorAll('svg')].flatMap(svg => {
  const texts = [...svg.querySelectorAll('text')].filter(text => text.textContent && text.getBoundingClientRect().width);
  const boxes = texts.map(text => text.getBoundingClientRect());
  return texts.filter((_, i) => boxes.some((box, j) => j < i && meet(boxes[i], box))).map(text => text.textContent);
});
"""
HEADINGS = (
    "return [...document.querySelectorAll('h1,h2,h3,h4,h5')].map(h => [Number(h.tagName[1]), h.innerText.trim()])"
)
# What sticks out of the page's column without a box of its own to scroll in.
STICKING_OUT = """
return [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll') || e.matches('.scroll'))
  .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map(e => e.outerHTML.slice(0, 80));
"""


@pytest.fixture
def made(tmp_path) -> Made:
    return make_report(tmp_path / "bundle")


def page_of(made: Made) -> Path:
    return write_page(made.report, made.bundle.folder)


def test_page_in_a_browser(made, browser):
    assert browser.problems(page_of(made)) == []


def test_page_of_devices_in_a_browser(made, browser):
    assert browser.problems(page_of(on_devices(made))) == []


@SCREENS
def test_layout(made, browser, width):
    """Everything lies within the page's column; headings step down one level at a time; drawings hold their words."""
    browser.open(page_of(on_devices(made)), width, "light")
    assert browser.run(STICKING_OUT) == []
    assert browser.run(CUT_OFF) == []
    assert browser.run(OVERLAPPING) == []
    assert browser.run("return document.images.length") == 5 + 3 * 2
    headings = browser.run(HEADINGS)
    levels = [level for level, _ in headings]
    assert levels[0] == 1
    assert all(level <= before + 1 for before, level in itertools.pairwise(levels))
    assert [text for level, text in headings if level <= 2] == [
        "dp_small",
        "What went wrong",
        "Matrix",
        "Speed",
        "Accuracy",
        "Example",
        "Details",
        "Devices",
        "Thresholds and budgets",
        "Where the model comes from",
        "Exported with",
    ]
    picture = browser.screenshot(whole=True)
    height = browser.run("return document.documentElement.scrollHeight")
    assert picture.shape[:2] == (pytest.approx(height, abs=8), pytest.approx(width, abs=16))  # less the scroll bar
    bands = [band.std() for band in np.array_split(picture, 8)]
    assert min(bands) > 5, "a stretch of the page is blank"


@SCREENS
def test_a_wide_matrix_scrolls_in_its_own_box(made, browser, width):
    """The artifact's name stays in sight while the columns scroll past."""
    rows = [replace(made.report.rows[0], device=f"adb://SERIAL-{index}") for index in range(12)]
    browser.open(page_of(replace(made, report=replace(made.report, rows=tuple(rows)))), width, "light")
    assert browser.run("return document.documentElement.scrollWidth") <= width
    box = "const box = document.querySelector('.matrix').parentElement, name = box.querySelector('tbody th');"
    assert browser.run(f"{box} return box.scrollWidth - box.clientWidth") > 100
    before, after = browser.run(
        f"{box} const left = () => name.getBoundingClientRect().left - box.getBoundingClientRect().left;"
        "const before = left(); box.scrollLeft = 500; return [before, left()]"
    )
    assert after == pytest.approx(before, abs=1.5)


def test_a_link_of_the_matrix_opens_the_details(made, browser):
    """Where rows are many, those that pass are closed until somebody asks for them; those that fail are open."""
    row = made.report.rows[2]
    rows = tuple(replace(row, device=f"adb://{index}") for index in range(12))
    failed = replace(made.report.rows[0], device="adb://0")
    browser.open(page_of(replace(made, report=replace(made.report, rows=(*rows, failed)))), 1280, "light")
    seen = "return [...document.querySelectorAll('article')].map(a => a.querySelector('.parts').checkVisibility())"
    assert browser.run(seen) == [False] * 12 + [True]
    browser.run("document.querySelector('.matrix a[href=\"#row-3\"]').click()")
    assert browser.run(seen) == [index in (3, 12) for index in range(13)]
    assert 0 <= browser.run("return document.querySelector('#row-3').getBoundingClientRect().top") < 800


@SCREENS
def test_curves_show_the_slowest_inference(made, browser, width):
    """One slow inference among 100,000 reaches the top of both curves, at its own place in the order."""
    milliseconds = np.full(100_000, 5.0)
    milliseconds[75_000] = 9.0
    row = replace(made.report.rows[0], device=DEVICE, latency=timed(milliseconds))
    browser.open(page_of(replace(made, report=replace(made.report, rows=(row,)))), width, "light")
    ordered, ranked = browser.run(
        "return [...document.querySelectorAll('.curve')].map(path => { const box = path.getBBox();"
        "const points = path.getAttribute('d').slice(1).split('L').map(p => p.split(' ').map(Number));"
        "const top = points.reduce((a, b) => b[1] < a[1] ? b : a); return [...top, box.width, points.length]; })"
    )
    for x, y, wide, points in (ordered, ranked):
        assert points <= 400
        assert y == pytest.approx(2, abs=0.5)
        assert x / wide == pytest.approx(0.75 if (x, y) == tuple(ordered[:2]) else 1.0, abs=0.01)


def test_page_of_failures_in_a_browser(made, browser):
    long = "word" * 200
    rows = tuple(
        replace(row, artifact=long, engine=long, device=long, error=long, statistics={}, pictures={})
        for row in made.report.rows
    )
    report = replace(made.report, model=long, rows=rows, pictures={}, host={long: long}, training={long: long})
    assert browser.problems(write_page(replace(report, budgets=(long,)), made.bundle.folder)) == []


@pytest.mark.parametrize(
    ("pattern", "replacement", "problem"),
    [
        (r"</main>", "<script>undefined_name()</script></main>", "console: .*Content Security Policy"),
        (r"<meta http-equiv.*?>", "<script>undefined_name()</script>", "console: .*undefined_name is not defined"),
        (r"data:image/png;base64,.{99}", "data:image/png;base64,AAAA", "broken image: Left view"),
        (r"</main>", '<img src="http://127.0.0.1:9/a.png"></main>', "console: .*Content Security Policy"),
        (r"<meta http-equiv.*?>", '<img src="http://127.0.0.1:9/a.png">', "request: http://127.0.0.1:9/a.png"),
        (r"</main>", '<div style="width: 500px">wide</div></main>', "scrolls sideways by .* at a width of 360"),
        (r"</main>", '<p style="color: #888; background: #999">pale</p></main>', "too pale in light: pale"),
        (r"(?s)<main>.*</main>", "", "blank at a width of 360"),
    ],
)
def test_the_browser_notices_a_broken_page(made, browser, pattern, replacement, problem):
    page = made.bundle.folder / "broken.html"
    page.write_text(re.sub(pattern, replacement, made.page(), count=1), encoding="utf-8")
    assert re.search(problem, "\n".join(browser.problems(page)))
