"""Inline SVG charts that stretch to the width they are given: positions in percent, text and strokes in pixels.

Colours come from the page's style sheet by class name (`c0` to `c9`, `before`, `after`), so a chart follows light,
dark and print.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

NUM_COLORS = 10


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A linear axis from `low` to `high` with labelled ticks (value, text)."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    label: str = ""

    def percent(self, value: float) -> float:
        """Position of `value`: 0 at `low`, 100 at `high`."""
        return 100 * (value - self.low) / (self.high - self.low)


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line; None or a non-finite y leaves a gap. `css` is its class, `title` what a pointer resting on it shows."""

    x: Sequence[float]
    y: Sequence[float | None]
    css: str
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Band:
    """An area between two lines; `css` is its class."""

    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    css: str


@dataclass(frozen=True, kw_only=True)
class IntervalPoint:
    """A point with an interval around it."""

    x: float
    y: float
    low: float
    high: float
    title: str


def compact(value: float) -> str:
    """Shortest readable form: 0.25, 40, 20k, 1.2M, 3e-5."""
    value = float(f"{value:.3g}")
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    text = f"{value:.3g}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        return f"{mantissa}e{int(exponent)}"
    return text


def percent_axis(label: str = "") -> Axis:
    """Rates from 0 to 1, shown as percentages."""
    ticks = tuple((q / 4, f"{25 * q}\N{NO-BREAK SPACE}%") for q in range(5))
    return Axis(low=0.0, high=1.0, ticks=ticks, label=label)


def nice_axis(
    low: float,
    high: float,
    *,
    num_ticks: int = 4,
    tight: bool = False,
    label: str = "",
    text: Callable[[float], str] = compact,
) -> Axis:
    """Axis around [low, high] with ticks at multiples of 1, 2 or 5 times a power of ten.

    Args:
        low: smallest value shown.
        high: largest value shown; where it cannot be told from `low`, the range is widened.
        num_ticks: how many ticks to aim at.
        tight: end the axis at `low` and `high` instead of at the next tick.
        label: name and unit.
        text: writes a tick's value.
    """
    if high - low <= max(1e-12, 1e-9 * max(abs(low), abs(high))):
        margin = abs(low) / 2 or 1.0
        low, high = low - (0 if tight else margin), high + margin
    raw = (high - low) / num_ticks
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= 0.999 * raw)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    # Without rounding 3 * 0.1 would be labelled as it is stored.
    digits = 12 - math.floor(math.log10(step))
    values = [round(i * step, digits) for i in range(first, last + 1)]
    if tight:
        values = [v for v in values if low - 1e-9 * step <= v <= high + 1e-9 * step]
        return Axis(low=low, high=high, ticks=tuple((v, text(v)) for v in values), label=label)
    return Axis(low=values[0], high=values[-1], ticks=tuple((v, text(v)) for v in values), label=label)


def line_chart(
    series: Sequence[Series],
    *,
    x: Axis,
    y: Axis,
    title: str,
    height: int = 280,
    bands: Sequence[Band] = (),
    points: Sequence[IntervalPoint] = (),
    shaded_until: float | None = None,
    reference: tuple[float, str] | None = None,
) -> Markup:
    """Draws bands, lines, points with intervals, a shaded beginning and a dashed reference line with its name.

    Args:
        series: lines, drawn in order.
        x: horizontal axis.
        y: vertical axis.
        title: read out by a screen reader.
        height: height of the plotting area in pixels.
        bands: drawn below the lines.
        points: drawn above the lines.
        shaded_until: x up to which the background is shaded.
        reference: (y, name) of a dashed horizontal line.
    """
    parts = []
    if shaded_until is not None:
        parts.append(f'<rect class="shade" width="{_clipped(x, shaded_until):.2f}%" height="100%"/>')
    parts += _axes(x, y)
    if reference is not None:
        at = f"{100 - _clipped(y, reference[0]):.2f}%"
        parts.append(f'<line class="reference" x1="0" x2="100%" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="reference-name" x="100%" dx="-4" y="{at}" dy="-6">{escape(reference[1])}</text>')
    paths = "".join([*(_area(band, x, y) for band in bands), *(_path(line, x, y) for line in series)])
    parts.append(f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" width="100%" height="100%">{paths}</svg>')
    parts += [_interval_point(point, x, y) for point in points]
    body = "".join(parts)
    return Markup(
        f'<div class="plot"><svg role="img" aria-label="{escape(title)}" height="{height}">{body}</svg></div>'
    )


def legend(entries: Sequence[tuple[str, str]]) -> Markup:
    """List of (class, name): each name behind a swatch of its class."""
    items = "".join(f'<li><i class="swatch {css}"></i>{escape(name)}</li>' for css, name in entries)
    return Markup(f'<ul class="legend">{items}</ul>')


def color(index: int) -> str:
    """Class of the index-th colour; they repeat after NUM_COLORS."""
    return f"c{index % NUM_COLORS}"


def _axes(x: Axis, y: Axis) -> list[str]:
    parts = []
    for value, text in y.ticks:
        at = f"{100 - y.percent(value):.2f}%"
        parts.append(f'<line class="grid" x1="0" x2="100%" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="tick y" x="-8" y="{at}" dy="0.35em">{escape(text)}</text>')
    for value, text in x.ticks:
        parts.append(f'<text class="tick x" x="{x.percent(value):.2f}%" y="100%" dy="18">{escape(text)}</text>')
    if x.label:
        parts.append(f'<text class="axis-name" x="100%" y="100%" dy="36">{escape(x.label)}</text>')
    return parts


def _area(band: Band, x: Axis, y: Axis) -> str:
    there = [_place(*point, x, y) for point in zip(band.x, band.high, strict=True)]
    back = [_place(*point, x, y) for point in zip(band.x, band.low, strict=True)]
    return f'<path class="band {band.css}" d="M{"L".join([*there, *reversed(back)])}Z"/>'


def _place(value_x: float, value_y: float, x: Axis, y: Axis) -> str:
    return f"{10 * _clipped(x, value_x):.1f} {1000 - 10 * _clipped(y, value_y):.1f}"


def _path(line: Series, x: Axis, y: Axis) -> str:
    commands, pen_up = [], True
    for value_x, value_y in zip(line.x, line.y, strict=True):
        if value_y is None or not math.isfinite(value_y):
            pen_up = True
            continue
        place = _place(value_x, value_y, x, y)
        # A lone point is a line of no length: its round cap makes it a dot.
        commands.append(f"M{place}l0 0L{place}" if pen_up else f"L{place}")
        pen_up = False
    return f'<path class="line {line.css}" d="{"".join(commands)}"><title>{escape(line.title)}</title></path>'


def _interval_point(point: IntervalPoint, x: Axis, y: Axis) -> str:
    at = f"{_clipped(x, point.x):.2f}%"
    low, middle, high = (f"{100 - _clipped(y, value):.2f}%" for value in (point.low, point.y, point.high))
    return (
        f'<g class="point"><title>{escape(point.title)}</title>'
        f'<line x1="{at}" x2="{at}" y1="{low}" y2="{high}"/><circle cx="{at}" cy="{middle}" r="4.5"/></g>'
    )


def _clipped(axis: Axis, value: float) -> float:
    return min(max(axis.percent(value), 0.0), 100.0)
