from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlrp.evaluation.charts import HEIGHT, WIDTH, Point, brief, forest, line_chart, ticks
from rlrp.evaluation.statistics import Interval

numbers = st.floats(-1e9, 1e9)


def _dot(interval: Interval, better="higher") -> tuple[ET.Element, float]:
    drawing = ET.fromstring(forest(interval, better, "better", title="t"))
    middle = float(drawing.find("line").get("x1"))
    return drawing, float(drawing.find("circle").get("cx")) - middle


def test_better_is_to_the_right_whichever_way_the_metric_runs():
    assert _dot(Interval(0.2, 0.1, 0.3, 9))[1] > 0
    assert _dot(Interval(-0.2, -0.3, -0.1, 9))[1] < 0
    assert _dot(Interval(-0.2, -0.3, -0.1, 9), "lower")[1] > 0


def test_the_bar_runs_from_end_to_end_around_the_dot():
    drawing, dot = _dot(Interval(0.2, 0.1, 0.3, 9))
    bar = drawing.find("rect")
    left, width = float(bar.get("x")) - 88, float(bar.get("width"))
    # One scale: the ends stand at half and one and a half times the dot's distance from 0.
    assert left == pytest.approx(dot / 2, abs=0.2) and left + width == pytest.approx(dot * 1.5, abs=0.2)


def test_without_an_interval_there_is_no_bar():
    assert _dot(Interval(0.2, None, None, 1, "one"))[0].find("rect") is None
    assert ET.fromstring(forest(Interval(None, None, None, 0, "x"), "higher", "none", title="t")).find("circle") is None


@given(st.lists(st.tuples(numbers, st.none() | st.floats(0, 1e9)), min_size=1, max_size=20), st.none() | numbers)
def test_any_curve_is_well_formed_described_and_inside_its_frame(values, limit):
    points = [Point(i, value, spread) for i, (value, spread) in enumerate(values)]
    drawing = ET.fromstring(line_chart(points, title="a <b> & \u202e", limit=limit, limit_label="<target>"))
    assert drawing.find("title").text == "a <b> & ⟨U+202E⟩"
    assert f"{len(points)} points" in drawing.find("desc").text
    for circle in drawing.iter("circle"):
        assert 0 <= float(circle.get("cx")) <= WIDTH and 0 <= float(circle.get("cy")) <= HEIGHT
    for shape in [*drawing.iter("polygon"), *drawing.iter("polyline")]:
        for corner in shape.get("points").split():
            x, y = map(float, corner.split(","))
            assert 0 <= x <= WIDTH and 0 <= y <= HEIGHT


def test_the_band_has_a_gap_where_no_spread_is_known():
    points = [Point(i, 1.0, None if i == 2 else 0.5) for i in range(5)]
    assert len(list(ET.fromstring(line_chart(points, title="t")).iter("polygon"))) == 2


def test_ticks_are_round_and_within():
    assert ticks(0.0, 1.0, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(-0.03, 0.31, 5) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert ticks(3.0, 3.0, 5) == [3.0]


@given(numbers, numbers)
def test_there_are_never_too_many_ticks(low, high):
    found = ticks(min(low, high), max(low, high), 5)
    assert len(found) <= 7
    slack = 1e-6 * max(1.0, abs(low), abs(high))
    assert all(min(low, high) - slack <= tick <= max(low, high) + slack for tick in found)


@pytest.mark.parametrize(
    ("value", "span", "text"),
    [(0.12345, None, "0.123"), (12345, None, "12.3k"), (1234, None, "1234"), (0.0016, 0.4, "0.00"),
     (-0.001, 0.4, "0.00"), (63.4, 14, "63"), (5.0, 0, "5")],
)  # fmt: skip
def test_numbers_on_axes(value, span, text):
    assert brief(value, span) == text
