"""report.html: a run folder's figures, charts and videos as one self-contained page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vlarl.evaluation.statistics import wilson_interval
from vlarl.files import write_text
from vlarl.reporting import plots
from vlarl.reporting.page import render_page
from vlarl.reporting.plots import NBSP, Bar, percent
from vlarl.reporting.run_card import run_card
from vlarl.reporting.run_files import RunFiles, load_run_files
from vlarl.reporting.svg import color, compact, legend

SIGNIFICANT = 0.05
"""McNemar's p below which the headline speaks of a change."""
STAGES = (("sft", "SFT", "before"), ("rl", "SFT + RL", "after"))
PROBES = (
    ("normal", "normal", "after"),
    ("swapped_instruction", "another task's instruction", "before"),
    ("blank_images", "a blank camera image", "before"),
)
PHASE_NAMES = {
    "environments": "preparing environments",
    "demonstrations": "demonstrations",
    "sft": "SFT",
    "evaluate_sft": "evaluation of SFT",
    "train_start": "starting training",
    "train": "PPO with validation",
    "evaluate_rl": "evaluation of RL",
    "probes": "probes",
    "videos": "videos",
    "report": "report",
}


def write_report(folder: Path) -> Path:
    """Writes folder/report.html from the run's files, atomically, and returns its path.

    A file that is missing leaves out its section: a run in progress has a report too.

    Raises:
        UserError: the folder holds no run, or a file in it is damaged.
    """
    path = folder / "report.html"
    write_text(path, render(load_run_files(folder)))
    return path


def render(files: RunFiles) -> str:
    """Returns the page as HTML."""
    return render_page(
        "template.html.j2",
        title=f"vlarl: {files.name}",
        headline=headline(files),
        subtitle=_subtitle(files),
        truncated=files.summary.get("truncated_by_time", False),
        modes=_modes(files.summary),
        facts=_facts(files),
        videos=[_video(entry) for entry in files.videos],
        learning=_learning(files),
        tasks=_tasks(files),
        curriculum=_curriculum(files),
        health=_health(files),
        probes=_probes(files.summary),
        failures=_failures(files),
        warnings=files.summary.get("warnings"),
        sft=_sft(files),
        times=_times(files),
        card=run_card(files.summary, files.config),
    )


def headline(files: RunFiles) -> str:
    """The result in one sentence; "raised" and "lowered" only where the paired test supports it."""
    summary = files.summary
    if "lift" in summary and summary.get("iterations"):
        before, after = (percent(summary[stage]["success_rate"]) for stage in ("sft", "rl"))
        lift = summary["lift"]["greedy"]
        if lift["p_value"] >= SIGNIFICANT:
            return f"No clear change by reinforcement learning: {before} before, {after} after"
        verb = "raised" if lift["points"] > 0 else "lowered"
        return f"Reinforcement learning {verb} success from {before} to {after}"
    for key, name, _ in STAGES:
        if key in summary:
            return f"{name} succeeds in {percent(summary[key]['success_rate'])} of episodes"
    if files.rows:
        first, last = (percent(files.rows[i]["charts/success_rate"]) for i in (0, -1))
        return f"Success in training: {first} at first, {last} now"
    return "A run that has not been evaluated yet"


def p_text(p: float) -> str:
    """0.0312 -> "p = 0.031", 3.1e-9 -> "p = 3·10⁻⁹"."""
    if p >= 0.001:
        return f"p{NBSP}={NBSP}{p:.3f}"
    mantissa, exponent = f"{p:.0e}".split("e")
    superscript = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"p{NBSP}={NBSP}{mantissa}·10{superscript}"


def _subtitle(files: RunFiles) -> str:
    config = files.config
    suite = files.summary.get("task_suite") or config.get("env", {}).get("task_suite", "")
    tasks = files.task_ids
    parts = [suite, f"task{'s' if len(tasks) > 1 else ''} {', '.join(tasks)}" if tasks else ""]
    seed = files.summary.get("seed", config.get("seed"))
    parts += [f"recipe {files.summary.get('recipe') or config.get('recipe')}", f"seed {seed}"]
    return " · ".join(part for part in parts if part)


def _modes(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Greedy and sampled success of the evaluated stages."""
    stages = [(name, css, summary[key]) for key, name, css in STAGES if key in summary]
    if not stages:
        return []
    meanings = {"greedy": "the likeliest token at every step", "sampled": "tokens drawn as in training"}
    modes = []
    for mode, meaning in meanings.items():
        bars = [rate_bar(name, css, stage if mode == "greedy" else stage["sampled"]) for name, css, stage in stages]
        lift = summary.get("lift", {}).get(mode)
        modes.append(
            {
                "name": mode.capitalize(),
                "meaning": meaning,
                "bars": bars,
                "strip": plots.interval_strip(bars),
                "lift": lift and lift_text(lift),
            }
        )
    return modes


def lift_text(lift: Mapping[str, Any]) -> dict[str, str]:
    """A paired comparison (`vlarl.evaluation.protocol.compare`) as text: points, and a note with interval and p."""
    low, high = (_signed(value) for value in lift["ci95"])
    return {"points": _points(lift["points"]), "note": f"95{NBSP}% {low} to {high}, {p_text(lift['p_value'])}"}


def _points(value: float) -> str:
    return f"{_signed(value)}{NBSP}points"


def _signed(value: float) -> str:
    # An integer has no minus zero.
    return f"{round(value):+d}".replace("-", "\N{MINUS SIGN}")


def rate_bar(name: str, css: str, rate: Mapping[str, Any]) -> Bar:
    """Bar of a success rate (`vlarl.evaluation.protocol.rate`), its counts and interval as the note."""
    low, high = rate["ci95"]
    note = f"{rate['successes']} of {rate['episodes']}, 95{NBSP}% {percent(low)} to {percent(high)}"
    return Bar(name=name, css=css, rate=rate["success_rate"], ci95=(low, high), note=note)


def _facts(files: RunFiles) -> list[tuple[str, str]]:
    """Tiles below the result: (value, what it is)."""
    summary, facts = files.summary, []
    if "sft" in summary and "rl" in summary:
        before, after = (f"{summary[key]['mean_episode_steps']:.0f}" for key in ("sft", "rl"))
        facts.append((f"{before} → {after}", "env steps per greedy episode"))
    if files.rows:
        facts.append((compact(files.rows[-1]["env_steps"]), "env steps of training"))
    if "env_steps_per_second" in summary:
        facts.append((f"{summary['env_steps_per_second']:,.0f}", "env steps per second of rollout"))
    if "wall_seconds" in summary:
        facts.append((plots.duration(summary["wall_seconds"]["total"]), "from start to report"))
    if "peak_rss_bytes" in summary:
        facts.append((f"{summary['peak_rss_bytes'] / 2**30:.1f}{NBSP}GiB", "memory of all processes, at most"))
    return facts


def _video(entry: Mapping[str, Any]) -> dict[str, Any]:
    words = {key: "success" if entry[f"{key}_success"] else "failure" for key in ("before", "after")}
    label = f"{entry['instruction']}, start {entry['start_index']}: SFT {words['before']}, SFT + RL {words['after']}"
    return {**entry, **words, "label": label}


def _learning(files: RunFiles) -> dict[str, Any] | None:
    if not files.rows:
        return None
    sampled = files.summary["sft"]["sampled"]["success_rate"] if "sft" in files.summary else None
    charts = [plots.learning_curve(files.rows, against=x, sft_sampled=sampled) for x in ("env_steps", "time")]
    return {"charts": charts, "legend": plots.learning_curve_legend(files.rows)}


def _tasks(files: RunFiles) -> list[dict[str, Any]]:
    summary, cards = files.summary, []
    for task in files.task_ids:
        groups = []
        for mode in ("greedy", "sampled"):
            stages = [(name, css, summary[key]) for key, name, css in STAGES if key in summary]
            rates = [(n, c, (s if mode == "greedy" else s["sampled"])["per_task"].get(task)) for n, c, s in stages]
            groups.append((mode, plots.rate_bars([rate_bar(n, c, rate) for n, c, rate in rates if rate])))
        if any(bars for _, bars in groups):
            cards.append({"id": task, "instruction": files.instruction(task), "groups": groups})
    return cards


def _curriculum(files: RunFiles) -> dict[str, Any] | None:
    tasks = [task for task in files.task_ids if files.rows and f"curriculum/probability/{task}" in files.rows[-1]]
    if len(tasks) < 2:
        return None
    charts = [
        (title, plots.curriculum(files.rows, f"curriculum/{key}", tasks, title))
        for key, title in (("probability", "Probability of being sampled"), ("success", "Estimated success"))
    ]
    names = legend([(color(i), f"{task}: {files.instruction(task)}") for i, task in enumerate(tasks)])
    return {"charts": charts, "legend": names}


def _health(files: RunFiles) -> list[dict[str, Any]]:
    if not files.rows:
        return []
    return [
        {
            "name": panel.name,
            "meaning": panel.meaning,
            "latest": plots.latest(files.rows, panel),
            "chart": plots.small_multiple(files.rows, panel),
        }
        for panel in plots.HEALTH_PANELS
    ]


def _probes(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    rates = summary.get("probes", {}).get("greedy", {})
    if not rates:
        return None
    present = [(key, name, css) for key, name, css in PROBES if key in rates]
    normal = rates["normal"]["success_rate"]
    drops = [(name, _points(100 * (rates[key]["success_rate"] - normal))) for key, name, _ in present[1:]]
    return {"bars": plots.rate_bars([rate_bar(name, css, rates[key]) for key, name, css in present]), "drops": drops}


def _failures(files: RunFiles) -> dict[str, Any] | None:
    if not files.failures:
        return None
    counts = files.failures["counts"]
    rows = [(kind, counts["sft"][kind], counts["rl"][kind]) for kind in counts["sft"]]
    names = {key: name for key, name, _ in STAGES}
    videos = [
        {
            **entry,
            "title": f"{names[entry['stage']]}: {entry['kind']}",
            "instruction": files.instruction(str(entry["task_id"])),
        }
        for entry in files.failures["videos"]
    ]
    return {"rows": rows, "videos": videos}


def _sft(files: RunFiles) -> dict[str, Any] | None:
    bars = []
    for task, counts in files.summary.get("demonstrations", {}).items():
        successes, attempts = counts["successes"], counts["attempts"]
        rate = {"successes": successes, "episodes": attempts, "success_rate": successes / attempts}
        bars.append(rate_bar(files.instruction(task), "c2", rate | {"ci95": wilson_interval(successes, attempts)}))
    if not bars and not files.sft_rows:
        return None
    return {
        "experts": plots.rate_bars(bars),
        "curve": plots.sft_curve(files.sft_rows) if files.sft_rows else "",
        "legend": legend([("before", "training loss"), ("c1", "validation loss")]),
    }


def _times(files: RunFiles) -> list[tuple[str, Markup]]:
    bars = []
    phases = {key: value for key, value in files.summary.get("wall_seconds", {}).items() if key != "total"}
    if phases:
        total = sum(phases.values())
        shown = {key: value for key, value in phases.items() if value >= 0.01 * total}
        parts = [(PHASE_NAMES.get(key, key), value) for key, value in shown.items()]
        other = total - sum(shown.values())
        bars.append(
            ("The whole run", plots.stacked_bar([*parts, ("other", other)] if other else parts, "time per phase"))
        )
    if files.rows:
        names = {"rollout": "rollout", "learn": "learning", "rest": "rest"}
        parts = [(name, sum(row[f"time/{key}"] for row in files.rows)) for key, name in names.items()]
        bars.append(("The training loop, validation left out", plots.stacked_bar(parts, "time in the training loop")))
    return bars
