"""The page of `vlarl compare`: success of several runs, and their learning curves."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from vlarl.reporting.page import render_page
from vlarl.reporting.plots import NBSP, Rows, column, interval_strip, moving_average, percent, smoothing_window
from vlarl.reporting.report import lift_text, rate_bar
from vlarl.reporting.svg import Series, color, legend, line_chart, nice_axis, percent_axis

STAGES = (
    ("sft_greedy", "SFT greedy"),
    ("sft_sampled", "SFT sampled"),
    ("rl_greedy", "RL greedy"),
    ("rl_sampled", "RL sampled"),
)
"""Evaluations by their file's name, and what the table calls them."""


def render_comparison(comparison: Mapping[str, Any], histories: Sequence[Rows]) -> str:
    """Returns a self-contained HTML page.

    Args:
        comparison: what `vlarl.training.comparison.compare_runs` returns.
        histories: rows of every run's metrics.jsonl, in the same order; empty where it has none.
    """
    runs = comparison["runs"]
    return render_page(
        "comparison.html.j2",
        runs=runs,
        stages=[_stage(name, label, runs) for name, label in STAGES if any(name in r["evaluations"] for r in runs)],
        names=legend([(color(i), run["folder"]) for i, run in enumerate(runs)]),
        curve=_curve(runs, histories),
    )


def _stage(name: str, label: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    present = [(i, run, run["evaluations"][name]) for i, run in enumerate(runs) if name in run["evaluations"]]
    bars = [rate_bar(run["folder"], color(i), value) for i, run, value in present]
    rows = []
    for bar, (_, _, value) in zip(bars, present, strict=True):
        difference = lift_text(value["difference"]) if "difference" in value else None
        rows.append({"css": bar.css, "name": bar.name, "rate": percent(bar.rate), "note": bar.note, "lift": difference})
    return {"label": label, "strip": interval_strip(bars), "rows": rows}


def _curve(runs: Sequence[Mapping[str, Any]], histories: Sequence[Rows]) -> Markup | None:
    """Smoothed success of the sampled rollouts against env steps, one line per run."""
    series = []
    for i, (run, rows) in enumerate(zip(runs, histories, strict=True)):
        if rows:
            ys = moving_average(column(rows, "charts/success_rate"), smoothing_window(len(rows)))
            xs = [float(row["env_steps"]) for row in rows]
            series.append(Series(x=xs, y=ys, css=f"{color(i)} thick", title=run["folder"]))
    if not series:
        return None
    return line_chart(
        series,
        x=nice_axis(0.0, max(max(line.x) for line in series), num_ticks=5, tight=True, label="env steps"),
        y=percent_axis(),
        title=f"Success of the sampled rollouts against env steps, {len(series)}{NBSP}runs",
        height=320,
    )
