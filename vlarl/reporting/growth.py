"""How success grows with training, of one variant of a study: chart and tables."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from vlarl.reporting.plots import percent, rate_text
from vlarl.reporting.svg import IntervalPoint, Series, color, compact, legend, line_chart, nice_axis, percent_axis

Growth = Mapping[str, Any]
"""What `vlarl.studies.growth.describe_growth` returns."""


def growth_chart(growth: Growth) -> Markup:
    """Success at each doubling with its interval, and the fitted laws, against env steps."""
    points = []
    for point in growth["points"]:
        if point["episodes"]:
            low, high = point["ci95"]
            title = f"{compact(point['env_steps'])} env steps: {percent(point['success_rate'])}"
            points.append(IntervalPoint(x=point["env_steps"], y=point["success_rate"], low=low, high=high, title=title))
    names = [(color(i), law["name"]) for i, law in enumerate(growth["laws"])]
    series = [
        Series(x=[x for x, _ in law["line"]], y=[y for _, y in law["line"]], css=f"{color(i)} thick", title=law["name"])
        for i, law in enumerate(growth["laws"])
    ]
    chart = line_chart(
        series,
        x=nice_axis(0.0, growth["points"][-1]["env_steps"], num_ticks=5, tight=True, label="env steps"),
        y=percent_axis(),
        title=f"Success of the rollouts against env steps, {growth['variant']}: doublings, and the fitted laws",
        height=300,
        points=points,
    )
    return legend(names) + chart


def growth_rows(growth: Growth) -> list[dict[str, str]]:
    """The laws and the log-likelihoods of the outcomes by each above the flat one's, nats, as text."""
    flat = growth["laws"][0]
    return [
        {
            "name": law["name"],
            "formula": law["formula"],
            **{key: f"{law[key] - flat[key]:+.1f}" for key in ("held_out", "log_likelihood")},
        }
        for law in growth["laws"]
    ]


def growth_summary(growth: Growth) -> str:
    """One line: which law predicts, the exponent, whether returns diminish."""
    low, high = growth["exponent_ci95"]
    bounds = f"{low:.2g} to {'no bound' if high is None else f'{high:.2g}'}"
    last = growth["diminishes"]
    words = f"predicts best: {' or '.join(growth['predicts'])}; exponent {growth['exponent']:.2g} ({bounds})"
    if last["points"] is None:
        return f"{words}; diminishing returns: {last['verdict']}"
    margin = (last["ci95"][1] - last["ci95"][0]) / 2
    return (
        f"{words}; diminishing returns: {last['verdict']}"
        f" (the last doubling gains {last['points']:+.1f} \N{PLUS-MINUS SIGN} {margin:.1f} points against the one"
        " before)"
    )


def growth_markdown(growth: Growth) -> list[str]:
    """The variant's part of the study's section."""
    lines = [f"Growth of `{growth['variant']}`, seeds: {growth['seeds']}; {growth_summary(growth)}.", ""]
    lines += ["| env steps | success of the rollouts |", "|---|---|"]
    measured = [point for point in growth["points"] if point["episodes"]]
    lines += [f"| {compact(point['env_steps'])} | {rate_text(point)} |" for point in measured]
    lines += [
        "",
        "| law | held-out log-likelihood above the flat law's, nats | of all points, fitted seed by seed |",
        "|---|---|---|",
    ]
    lines += [f"| {r['name']}: {r['formula']} | {r['held_out']} | {r['log_likelihood']} |" for r in growth_rows(growth)]
    return lines
