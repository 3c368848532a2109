"""The page of one study, and its tables as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from vlarl.reporting.growth import growth_chart, growth_markdown, growth_rows, growth_summary
from vlarl.reporting.page import render_page
from vlarl.reporting.plots import interval_text, moving_average, percent, rate_text, smoothing_window
from vlarl.reporting.svg import Band, Series, color, legend, line_chart, nice_axis, percent_axis

Analysis = Mapping[str, Any]
_FIGURES = ("runs", "sft", "final", "iqm", "area", "warnings")


def render_study(analysis: Analysis, command: str) -> str:
    """Returns a self-contained HTML page of what `vlarl.studies.analysis.analyse` found; `command` remakes it."""
    curves = [v for v in analysis["variants"] if v["curves"]]
    return render_page(
        "study.html.j2",
        study=analysis,
        command=command,
        names=legend([(color(i), v["name"]) for i, v in enumerate(analysis["variants"]) if v["curves"]]),
        curve=_learning_curves(analysis["variants"]) if curves else None,
        rows=[_row(v) for v in analysis["variants"]],
        claims=[_claim(c) for c in analysis["claims"]],
        tasks=_tasks(analysis),
        growths=[
            {"variant": g["variant"], "chart": growth_chart(g), "rows": growth_rows(g), "summary": growth_summary(g)}
            for g in analysis["growth"]
        ],
    )


def study_markdown(analysis: Analysis, command: str) -> str:
    """The study's section of docs/results.md."""
    lines = [f"### {analysis['study']}", "", analysis["question"], "", "```", command, "```", ""]
    lines += ["| variant | runs | SFT | after RL, greedy | interquartile mean | curve | monitor warned of |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for row in (_row(v) for v in analysis["variants"]):
        cells = (f"{row['name']}: {row['about']}", *(row[key] for key in _FIGURES))
        lines.append(f"| {' | '.join(cells)} |")
    tasks = _tasks(analysis)
    if tasks["rows"]:
        lines += ["", f"| after RL, greedy, by task | {' | '.join(tasks['names'])} |"]
        lines += ["|---" * (1 + len(tasks["names"])) + "|"]
        lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in tasks["rows"]]
    cards = [v["card"] for v in analysis["variants"] if "card" in v]
    if cards:
        steps, hours = sum(c["env_steps"] for c in cards), sum(c["core_hours"] for c in cards)
        memory = max(c["peak_rss_bytes"] for c in cards) / 2**30
        packages = ", ".join(f"{name} {version}" for name, version in cards[0]["packages"].items() if version)
        lines += ["", f"Seeds {', '.join(map(str, analysis['seeds']))}; {steps:,} env steps, {hours:.1f} core-hours,"
                      f" {memory:.1f} GiB at most; {packages}."]  # fmt: skip
    for growth in analysis["growth"]:
        lines += ["", *growth_markdown(growth)]
    if analysis["missing"]:
        lines += ["", f"Not run yet: {_missing(analysis['missing'])}."]
    lines += [f"\nCrashed: {name} seed {seed} ({error})." for name, seed, error in analysis["crashed"]]
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def claims_markdown(analyses: Sequence[Analysis]) -> str:
    """The table of all claims."""
    lines = [
        "| claim | source's confidence | study | difference, points | seeds | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for analysis in analyses:
        for claim in (_claim(c) for c in analysis["claims"]):
            lines.append(
                f"| {claim['claim']} | {claim['confidence']} | {analysis['study']}: {claim['pair']} |"
                f" {claim['difference']} | {claim['seeds']} | {claim['verdict']} |"
            )
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def _missing(runs: Sequence[tuple[str, int]]) -> str:
    seeds: dict[str, list[str]] = {}
    for name, seed in runs:
        seeds.setdefault(name, []).append(str(seed))
    return "; ".join(f"{name} seed{'s' * (len(of) > 1)} {', '.join(of)}" for name, of in seeds.items())


def _row(variant: Mapping[str, Any]) -> dict[str, str]:
    return {
        "name": variant["name"],
        "about": variant["about"],
        "runs": f"{variant['runs']}" + (f", {variant['crashed']} crashed" if variant["crashed"] else ""),
        **{stage: rate_text(variant[stage]) for stage in ("sft", "final")},
        "iqm": interval_text(variant["iqm"], variant["iqm_ci95"]),
        "area": _curve(variant),
        "warnings": ", ".join(variant["warnings"]) or ("nothing" if variant["runs"] else "no run"),
    }


def _curve(variant: Mapping[str, Any]) -> str:
    if variant["elsewhere"]:
        return "that of its training"
    if variant["final"] is not None and not variant["curves"]:
        return "SFT alone"
    return interval_text(variant["area"], variant["area_ci95"])


def _tasks(analysis: Analysis) -> dict[str, Any]:
    """Success by task of every variant that has runs: names of the columns, and (variant, cells) by row."""
    names = sorted({task for variant in analysis["variants"] for task in variant["tasks"]})
    rows = [
        (variant["name"], [percent(variant["tasks"][task]) if task in variant["tasks"] else "" for task in names])
        for variant in analysis["variants"]
        if variant["tasks"]
    ]
    return {"names": [str(task) for task in names], "rows": rows}


def _claim(claim: Mapping[str, Any]) -> dict[str, Any]:
    if claim["points"] is None:
        difference = f"{claim['worse']} crashed" if claim["crashed"] else "crashed" if claim["seeds"] else "no runs"
    elif claim["ci95"] is None:
        difference = f"{claim['points']:+.1f}, one seed: no interval"
    else:
        low, high = claim["ci95"]
        difference = f"{claim['points']:+.1f} ({low:+.1f} to {high:+.1f})"
    pair = f"{claim['better']} minus {claim['worse']}"
    if claim["metric"] == "growth":
        pair = f"{claim['better']}, last tenth minus first"
    if claim["metric"] == "lift":
        pair = f"{claim['better']}, RL minus {'' if claim['better'] == claim['worse'] else claim['worse'] + ', '}SFT"
    return {**claim, "difference": difference, "pair": pair}


def _learning_curves(variants: Sequence[Mapping[str, Any]]) -> Markup:
    """Mean over the seeds, smoothed, within a band from the lowest seed to the highest, against env steps."""
    series, bands, longest = [], [], 0.0
    for i, variant in enumerate(variants):
        curves = [np.array(curve) for curve in variant["curves"]]
        if not curves:
            continue
        length = min(len(curve) for curve in curves)
        window = smoothing_window(length)
        # Seeds take a few more or fewer env steps per iteration: a band is drawn at their mean.
        steps = np.mean([curve[:length, 0] for curve in curves], axis=0).tolist()
        smooth = np.array([moving_average(curve[:length, 1].tolist(), window) for curve in curves])
        name, css = variant["name"], color(i)
        series.append(Series(x=steps, y=smooth.mean(0).tolist(), css=f"{css} thick", title=name))
        if len(curves) > 1:
            bands.append(Band(x=steps, low=smooth.min(0).tolist(), high=smooth.max(0).tolist(), css=css))
        longest = max(longest, steps[-1])
    return line_chart(
        series,
        x=nice_axis(0.0, longest, num_ticks=5, tight=True, label="env steps"),
        y=percent_axis(),
        title="Success of the sampled rollouts against env steps: mean over the seeds, from the lowest to the highest",
        height=340,
        bands=bands,
    )
