"""The report's charts, each a function from a run's numbers to inline SVG."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from markupsafe import Markup

from vlarl.evaluation.statistics import wilson_interval
from vlarl.reporting.svg import Axis, IntervalPoint, Series, color, compact, legend, line_chart, nice_axis, percent_axis

NBSP = "\N{NO-BREAK SPACE}"
Rows = Sequence[Mapping[str, Any]]
"""Rows of metrics.jsonl, one per iteration, in order."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One small multiple: metric, heading, what it means, and whether it is a share (shown in percent)."""

    metric: str
    name: str
    meaning: str
    rate: bool = False


HEALTH_PANELS = (
    Panel(metric="rollout/entropy", name="Entropy", meaning="nats per action token"),
    Panel(metric="losses/approx_kl", name="Approximate KL", meaning="policy change per iteration"),
    Panel(metric="losses/clipfrac", name="Clip fraction", meaning="ratios held back by the clip", rate=True),
    Panel(metric="losses/explained_variance", name="Explained variance", meaning="1 is a perfect value network"),
    Panel(metric="charts/episode_steps", name="Episode length", meaning="env steps; shorter is faster success"),
    Panel(metric="losses/grad_norm", name="Gradient norm", meaning="before clipping"),
)


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar: its name, its class (colour), the success rate and its 95 % interval, all from 0 to 1."""

    name: str
    css: str
    rate: float
    ci95: tuple[float, float]
    note: str


def percent(rate: float) -> str:
    """0.9333 -> "93.3 %", 0.5 -> "50 %" (with a no-break space)."""
    return f"{100 * rate:.1f}".removesuffix(".0") + f"{NBSP}%"


def interval_text(rate: float | None, ci95: Sequence[float] | None) -> str:
    """0.5 with its interval -> "50 % (40 % to 60 %)"; without one the rate alone, and None is "no run"."""
    if rate is None:
        return "no run"
    if ci95 is None:
        return percent(rate)
    low, high = (percent(min(1.0, max(0.0, bound))) for bound in ci95)
    return f"{percent(rate)} ({low} to {high})"


def rate_text(value: Mapping[str, Any] | None) -> str:
    """What `vlarl.evaluation.protocol.rate` returns -> "50 % (40 % to 60 %) of 100"; None is "no run"."""
    return (
        "no run" if value is None else f"{interval_text(value['success_rate'], value['ci95'])} of {value['episodes']}"
    )


def moving_average(values: Sequence[float | None], window: int) -> list[float | None]:
    """Centred mean over `window` values (fewer at both ends), leaving out missing ones; None where all are missing."""
    half = window // 2
    means: list[float | None] = []
    for i in range(len(values)):
        present = [v for v in values[max(0, i - half) : i + half + 1] if v is not None]
        means.append(sum(present) / len(present) if present else None)
    return means


def smoothing_window(num_rows: int) -> int:
    """Odd window of about a sixth of the run, from 1 to 9 iterations."""
    return min(9, max(1, num_rows // 6)) // 2 * 2 + 1


def learning_curve(rows: Rows, *, against: str, sft_sampled: float | None) -> Markup:
    """Training success (each iteration, and smoothed) with the validation points and their Wilson intervals.

    Args:
        rows: metrics rows.
        against: "env_steps" or "time" (minutes since the first iteration began).
        sft_sampled: success of the SFT policy on the evaluation starts, sampled; a dashed line.
    """
    xs = _x_values(rows, against)
    label = "env steps" if against == "env_steps" else "training time, minutes"
    success = column(rows, "charts/success_rate")
    window = smoothing_window(len(rows))
    series = [Series(x=xs, y=moving_average(success, window), css="after thick", title=_training_name(window))]
    if window > 1:
        series.insert(0, Series(x=xs, y=success, css="faint", title="each iteration"))
    return line_chart(
        series,
        x=nice_axis(0.0, max(xs), num_ticks=5, tight=True, label=label),
        y=percent_axis(),
        title=f"Success rate against {label}: {_first_to_last(success)}",
        height=320,
        points=_validation_points(rows, xs),
        shaded_until=_warmup_end(rows, xs),
        reference=None if sft_sampled is None else (sft_sampled, f"SFT, sampled: {percent(sft_sampled)}"),
    )


def learning_curve_legend(rows: Rows) -> Markup:
    """Names of the learning curve's marks that are present."""
    window = smoothing_window(len(rows))
    entries = [("after", _training_name(window))]
    if window > 1:
        entries.append(("faint", "each iteration"))
    if _validation_points(rows, [0.0] * len(rows)):
        entries.append(("dot", f"validation starts, with 95{NBSP}% interval"))
    if _warmup_end(rows, [0.0] * len(rows)) is not None:
        entries.append(("shade", "critic warm-up: the policy is not changed"))
    return legend(entries)


def curriculum(rows: Rows, prefix: str, task_ids: Sequence[str], title: str) -> Markup:
    """One line per task of the rows' `prefix/<task_id>`, against env steps, 0 to 100 %."""
    xs = _x_values(rows, "env_steps")
    series = [
        Series(x=xs, y=column(rows, f"{prefix}/{task}"), css=f"{color(i)} medium", title=f"task {task}")
        for i, task in enumerate(task_ids)
    ]
    x = nice_axis(0.0, max(xs), num_ticks=4, tight=True, label="env steps")
    return line_chart(series, x=x, y=percent_axis(), title=title, height=220)


def small_multiple(rows: Rows, panel: Panel) -> Markup:
    """One metric against env steps on its own axis."""
    xs, ys = _x_values(rows, "env_steps"), column(rows, panel.metric)
    return line_chart(
        [Series(x=xs, y=ys, css="after medium", title=panel.name)],
        x=nice_axis(0.0, max(xs), num_ticks=3, tight=True),
        y=_value_axis(ys, rate=panel.rate),
        title=f"{panel.name} against env steps: {_first_to_last(ys, panel)}",
        height=110,
        shaded_until=_warmup_end(rows, xs),
    )


def sft_curve(rows: Rows) -> Markup:
    """Training and validation loss of supervised fine-tuning against gradient steps."""
    xs = [float(row["step"]) for row in rows]
    train, validation = column(rows, "losses/train_loss"), column(rows, "losses/validation_loss")
    return line_chart(
        [
            Series(x=xs, y=train, css="before medium", title="training loss"),
            # Validation is measured less often: its gaps are bridged.
            _without_gaps(Series(x=xs, y=validation, css="c1 medium", title="validation loss")),
        ],
        x=nice_axis(0.0, max(xs), num_ticks=4, tight=True, label="gradient steps"),
        y=_value_axis([0.0, *train, *validation]),
        title="Cross-entropy against gradient steps",
        height=180,
    )


def rate_bars(bars: Sequence[Bar]) -> Markup:
    """Horizontal bars from 0 to 100 % with 95 % whiskers, the name before and the value behind each."""
    return Markup("".join(_rate_bar(bar) for bar in bars))


def interval_strip(bars: Sequence[Bar]) -> Markup:
    """Rates on one scale from 0 to 100 %, one below the other: a dot each, its 95 % interval as a band."""
    height, last = 20 * len(bars), 20 * len(bars) + 16
    scale = "".join(
        f'<line class="grid" x1="{q}%" x2="{q}%" y1="0" y2="{height}"/>'
        f'<text class="tick" x="{q}%" y="{last}" style="text-anchor:{anchor}">{q}{NBSP}%</text>'
        for q, anchor in ((0, "start"), (25, "middle"), (50, "middle"), (75, "middle"), (100, "end"))
    )
    marks = ""
    for i, bar in enumerate(bars):
        low, high, middle = (f"{100 * value:.2f}%" for value in (*bar.ci95, bar.rate))
        y = 20 * i + 10
        marks += (
            f'<g class="{bar.css}"><title>{escape(bar.name)}: {escape(bar.note)}</title>'
            f'<line class="band" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/><circle cx="{middle}" cy="{y}" r="5.5"/></g>'
        )
    label = "; ".join(f"{bar.name} {percent(bar.rate)}, {bar.note}" for bar in bars)
    return Markup(
        f'<svg class="strip-line" role="img" aria-label="{escape(label)}" height="{last + 4}">{scale}{marks}</svg>'
    )


def stacked_bar(parts: Sequence[tuple[str, float]], title: str) -> Markup:
    """One bar cut into (name, seconds), with a legend of duration and share."""
    total = sum(seconds for _, seconds in parts) or 1.0
    rectangles, items, left = "", "", 0.0
    for i, (name, seconds) in enumerate(parts):
        share = 100 * seconds / total
        text = f"{escape(name)}: {duration(seconds)}, {share:.1f}{NBSP}%"
        rectangles += (
            f'<rect class="{color(i)}" x="{left:.3f}%" width="{share:.3f}%" height="100%"><title>{text}</title></rect>'
        )
        items += (
            f'<li><i class="swatch {color(i)}"></i>{escape(name)}'
            f"<b>{duration(seconds)}</b><span>{share:.1f}{NBSP}%</span></li>"
        )
        left += share
    return Markup(
        f'<svg class="stack" role="img" aria-label="{escape(title)}" height="30">{rectangles}</svg>'
        f'<ul class="legend table">{items}</ul>'
    )


def duration(seconds: float) -> str:
    """4.2 s, 3 min 20 s, 2 h 05 min (with no-break spaces)."""
    if seconds < 59.95:
        return f"{seconds:.1f}{NBSP}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}{NBSP}min{NBSP}{whole % 60:02d}{NBSP}s"
    return f"{whole // 3600}{NBSP}h{NBSP}{whole % 3600 // 60:02d}{NBSP}min"


def column(rows: Rows, name: str) -> list[float | None]:
    """Values of one metric; None where a row lacks it."""
    return [row.get(name) for row in rows]


def latest(rows: Rows, panel: Panel) -> str:
    """The metric's last value as text; a dash when it was never logged."""
    values = [value for value in column(rows, panel.metric) if value is not None]
    return _text(values[-1], panel) if values else "\N{EN DASH}"


def _training_name(window: int) -> str:
    return f"training, mean of {window} iterations" if window > 1 else "training, each iteration"


def _text(value: float, panel: Panel | None) -> str:
    return percent(value) if panel is None or panel.rate else compact(value)


def _first_to_last(values: Sequence[float | None], panel: Panel | None = None) -> str:
    """What a screen reader says of a line; without a panel the values are rates."""
    present = [value for value in values if value is not None]
    return f"from {_text(present[0], panel)} to {_text(present[-1], panel)}" if present else "no values"


def _x_values(rows: Rows, against: str) -> list[float]:
    if against == "env_steps":
        return [float(row["env_steps"]) for row in rows]
    minutes, total = [], 0.0
    for row in rows:
        total += float(row["time/total"]) / 60
        minutes.append(total)
    return minutes


def _validation_points(rows: Rows, xs: Sequence[float]) -> list[IntervalPoint]:
    points = []
    for x, row in zip(xs, rows, strict=True):
        episodes = row.get("evaluation/validation_episodes")
        if not episodes:
            continue
        successes = row["evaluation/validation_successes"]
        low, high = wilson_interval(int(successes), int(episodes))
        title = f"validation after iteration {row['iteration']}: {successes:.0f} of {episodes:.0f}"
        points.append(IntervalPoint(x=x, y=successes / episodes, low=low, high=high, title=title))
    return points


def _warmup_end(rows: Rows, xs: Sequence[float]) -> float | None:
    warmup = [x for x, row in zip(xs, rows, strict=True) if row["critic_warmup"]]
    return max(warmup) if warmup else None


def _value_axis(values: Sequence[float | None], *, rate: bool = False) -> Axis:
    present = [v for v in values if v is not None and math.isfinite(v)] or [0.0]
    if rate:
        return nice_axis(0.0, max(present) or 0.01, num_ticks=2, text=lambda v: f"{100 * v:.3g}{NBSP}%")
    return nice_axis(min(present), max(present), num_ticks=2)


def _without_gaps(line: Series) -> Series:
    kept = [(x, y) for x, y in zip(line.x, line.y, strict=True) if y is not None]
    return Series(x=[x for x, _ in kept], y=[y for _, y in kept], css=line.css, title=line.title)


def _rate_bar(bar: Bar) -> str:
    low, high = (f"{100 * value:.2f}%" for value in bar.ci95)
    return (
        f'<div class="bar"><span class="bar-name">{escape(bar.name)}</span>'
        f'<svg class="{bar.css}" role="img" aria-label="{escape(bar.name)} {percent(bar.rate)}" height="22">'
        f"<title>{escape(bar.note)}</title>"
        f'<rect class="track" width="100%" height="100%" rx="3"/>'
        f'<rect class="fill" width="{100 * bar.rate:.2f}%" height="100%" rx="3"/>'
        f'<line class="whisker" x1="{low}" x2="{high}" y1="50%" y2="50%"/>'
        f'<line class="whisker" x1="{low}" x2="{low}" y1="30%" y2="70%"/>'
        f'<line class="whisker" x1="{high}" x2="{high}" y1="30%" y2="70%"/></svg>'
        f'<b class="bar-value">{percent(bar.rate)}</b></div>'
    )
