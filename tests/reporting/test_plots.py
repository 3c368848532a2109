"""Charts: axes, gaps, smoothing, and figures written for a person."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlarl.reporting.plots import Bar, duration, interval_strip, learning_curve, moving_average, percent, stacked_bar
from vlarl.reporting.svg import Band, Series, compact, line_chart, nice_axis, percent_axis


def paths(chart) -> list[str]:
    return [path.get("d") for path in ElementTree.fromstring(chart).iter("path")]


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.integers(1, 8), st.booleans())
def test_axis_holds_its_range_with_few_ticks(low, width, num_ticks, tight):
    axis = nice_axis(low, low + width, num_ticks=num_ticks, tight=tight)
    assert axis.low < axis.high
    slack = 1e-6 * (axis.high - axis.low)
    assert axis.low <= low + slack
    assert axis.high >= low + width - slack
    assert len(axis.ticks) <= num_ticks + 3
    assert all(axis.low - slack <= value <= axis.high + slack for value, _ in axis.ticks)


def test_missing_values_leave_gaps():
    series = Series(x=[0, 1, 2, 3], y=[0.0, None, float("nan"), 1.0], css="after")
    (path,) = paths(line_chart([series], x=nice_axis(0, 3), y=percent_axis(), title="chart"))
    assert path.count("M") == 2
    # The vertical axis points up: 0 is at the bottom (1000), 1 at the top (0).
    assert re.findall(r"M([\d.]+) ([\d.]+)", path) == [("0.0", "1000.0"), ("1000.0", "0.0")]


def test_a_band_goes_along_its_upper_edge_and_back_along_its_lower():
    band = Band(x=[0, 3], low=[0.0, 0.25], high=[0.5, 1.0], css="c1")
    (path,) = paths(line_chart([], x=nice_axis(0, 3, tight=True), y=percent_axis(), title="chart", bands=[band]))
    assert path == "M0.0 500.0L1000.0 0.0L1000.0 750.0L0.0 1000.0Z"


def test_moving_average():
    assert moving_average([0.0, 3.0, 6.0, None], 3) == [1.5, 3.0, 4.5, 6.0]
    assert moving_average([None, None], 3) == [None, None]


def row(iteration: int, **values) -> dict:
    base = {"iteration": iteration, "env_steps": 100 * (iteration + 1), "critic_warmup": int(iteration == 0)}
    return base | {"charts/success_rate": 0.5, "time/total": 60.0} | values


def test_learning_curve_marks_validation_and_warmup():
    rows = [row(0), row(1, **{"evaluation/validation_episodes": 40, "evaluation/validation_successes": 30})]
    chart = ElementTree.fromstring(learning_curve(rows, against="time", sft_sampled=0.4))
    (circle,) = chart.iter("circle")
    assert (circle.get("cx"), circle.get("cy")) == ("100.00%", "25.00%")
    (shade,) = (rect for rect in chart.iter("rect") if rect.get("class") == "shade")
    # One of two minutes was critic warm-up.
    assert shade.get("width") == "50.00%"
    assert "SFT, sampled: 40\xa0%" in "".join(chart.itertext())


def test_interval_strip_places_rate_and_interval():
    bar = Bar(name="SFT", css="before", rate=0.5, ci95=(0.4, 0.6), note="50 of 100")
    strip = ElementTree.fromstring(interval_strip([bar, bar]))
    band = next(line for line in strip.iter("line") if line.get("class") == "band")
    assert (band.get("x1"), band.get("x2")) == ("40.00%", "60.00%")
    assert "SFT 50\xa0%, 50 of 100" in strip.get("aria-label")
    first, second = (circle.get("cy") for circle in strip.iter("circle"))
    assert first != second


def test_stacked_bar_fills_the_width():
    bar = stacked_bar([("rollout", 30.0), ("learning", 9.0), ("rest", 1.0)], "time")
    widths = [float(width) for width in re.findall(r'<rect[^>]* width="([\d.]+)%"', bar)]
    assert widths == [75.0, 22.5, 2.5]
    # No time at all is drawn as nothing instead of failing.
    assert "0.0\xa0%" in stacked_bar([("rollout", 0.0)], "time")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.21, "4.2 s"), (59.99, "1 min 00 s"), (200, "3 min 20 s"), (3599.7, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_duration(seconds, text):
    assert duration(seconds).replace("\xa0", " ") == text


def test_figures():
    assert [percent(x).replace("\xa0", " ") for x in (0, 0.9333, 1)] == ["0 %", "93.3 %", "100 %"]
    assert [compact(x) for x in (0, 0.25, 40, 20_000, 999_999, 3e-5)] == ["0", "0.25", "40", "20k", "1M", "3e-5"]
