"""The report's drawings as numbers: axes, curves, histograms and chains of layers, against what they are drawn from."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_dp.runtime.blame import Blame, Layer
from edge_dp.runtime.parity import compare
from edge_dp.runtime.report import chart, histogram
from edge_dp.runtime.report.axis import Axis
from edge_dp.runtime.report.chain import make_chain
from edge_dp.runtime.report.chart import latency_chart, latency_curves, thin

from .made_report import timed

TIMES = st.lists(st.floats(1e-3, 1e5), min_size=1, max_size=700)


def points(path: str) -> list[tuple[float, float]]:
    return [tuple(map(float, point.split())) for point in path[1:].split("L")]


@given(TIMES)
def test_an_axis_holds_every_value_in_order(values):
    axis = Axis.of(values)
    places = [axis.place(value) for value in sorted(values)]
    assert places == sorted(places)
    assert 0 <= places[0] <= places[-1] <= 1
    ticks = axis.ticks(5)
    assert len(ticks) <= 5
    for place, label in ticks:
        assert 0 <= place <= 1
        assert axis.place(float(label)) == pytest.approx(place, abs=1e-5)


def test_ticks_are_round():
    assert [label for _, label in Axis(3.0, 6.0).ticks()] == ["0", "2", "4", "6"]
    assert [label for _, label in Axis(3.0, 200.0).ticks()] == ["5", "10", "20", "50", "100", "200"]
    assert [label for _, label in Axis(3.0, 200.0).ticks(5)] == ["10", "100"]
    assert [label for _, label in Axis(1.0, 1e5).ticks()] == ["1", "10", "100", "1000", "10000", "100000"]
    assert not Axis(3.0, 6.0).logarithmic
    assert Axis(3.0, 24.0).logarithmic


def test_strips_of_one_device_share_their_axis():
    near, far = timed([3.0, 4.0, 6.0]), timed([100.0, 200.0])
    linear = latency_chart("local", [("row-0", "near", near)])
    assert not linear.logarithmic
    assert linear.strips[0].p50 == pytest.approx(linear.ticks[2][0], abs=0.1)
    both = latency_chart("local", [("row-0", "near", near), ("row-1", "far", far)])
    assert both.logarithmic
    places = [float(x) for strip in both.strips for x in re.findall(r"M([\d.]+)", strip.marks)]
    assert places == sorted(places)
    assert len(places) == 5
    assert 0 <= places[0] < places[-1] <= 1000


@given(st.lists(st.floats(0.1, 1e3), min_size=1, max_size=2000))
def test_a_thinned_curve_keeps_its_ends_and_extremes(values):
    kept = thin(values)
    assert kept == sorted(set(kept))
    assert len(kept) <= 282
    assert {0, len(values) - 1} <= set(kept)
    assert min(values[index] for index in kept) == min(values)
    assert max(values[index] for index in kept) == max(values)
    if len(values) <= 280:
        assert kept == list(range(len(values)))


def test_curves_run_through_the_inferences():
    """Short enough to keep every point: each at its place in the order, and by its rank, on the linear axis from zero."""
    milliseconds = [5.0, 4.0, 7.0, 4.5, 6.0, 4.25, 8.0, 5.5, 4.75]
    curves = latency_curves(milliseconds)
    for path, values in ((curves.ordered, milliseconds), (curves.ranked, sorted(milliseconds))):
        x, y = zip(*points(path), strict=True)
        assert x == pytest.approx(np.linspace(0, chart.WIDTH, 9), abs=0.06)
        assert y == pytest.approx([chart.HEIGHT * (1 - 0.98 * value / 8) for value in values], abs=0.06)
    assert latency_curves(milliseconds[:7]) is None


def test_bars_count_what_was_compared():
    """One value of 10,000 is 15 steps off and still seen; a hundred times as many are a hundred times higher in decades."""
    error = np.zeros(10_000, np.float32)
    error[:100], error[100], error[101] = 1.0, 3.0, 99.0
    found = histogram.histogram("disparity", compare([error], [np.zeros_like(error)], 1.0))
    assert [bar.count for bar in found.bars] == [9898, 100, 0, 1, *[0] * 11, 1]
    assert found.bars[-1].label == "15+"
    assert (found.exact, found.within_one, found.total) == (9898, 9998, 10_000)
    assert found.bars[1].height == pytest.approx(histogram.HEIGHT * 2 / 4)
    assert found.bars[2].height == 0
    assert found.bars[3].height > 0
    assert [label for _, label in found.ticks] == [1, 100, 10_000]
    assert all(0 <= bar.x and bar.x + bar.width <= histogram.WIDTH for bar in found.bars)
    exact = compare([error * 0], [error * 0], 1.0)
    assert histogram.histogram("disparity", exact) is None


def test_the_chain_marks_the_guilty_layer():
    layers = tuple(Layer(f"layer.{index}", "conv", float(10 * (index >= 8)), 0.0) for index in range(20))
    chain = make_chain(Blame(layers[8], 0.0, layers))
    assert [link.number for link in chain.links if link.guilty] == [9]
    assert [link.number for link in chain.around] == [6, 7, 8, 9, 10, 11, 12]
    heights = [link.height for link in chain.links]
    assert min(heights[8:]) > 10 * max(heights[:8]) > 0
    innocent = make_chain(Blame(None, 0.0, layers))
    assert innocent.around == innocent.links
    elsewhere = make_chain(Blame(replace(layers[8], module="unknown"), 0.0, layers))
    assert not any(link.guilty for link in elsewhere.links)
    assert make_chain(Blame(None, 0.0, ())).links == ()
