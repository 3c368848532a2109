"""The run card: what was run, on what, with which versions."""

from collections.abc import Mapping
from typing import Any

from vlarl.reporting.plots import NBSP, duration

Group = tuple[str, list[tuple[str, str]]]


def run_card(summary: Mapping[str, Any], config: Mapping[str, Any]) -> list[Group]:
    """Returns groups of (name, value), those that are known."""
    groups = (
        ("Run", _run(summary, config)),
        ("Cost", _cost(summary)),
        ("Machine", _machine(summary.get("machine", {}))),
        ("Versions", [*_code(summary), *summary.get("versions", {}).items()]),
    )
    known = [(name, [(key, str(value)) for key, value in rows if value is not None]) for name, rows in groups]
    return [(name, rows) for name, rows in known if rows]


def _run(summary: Mapping[str, Any], config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    known = {**config.get("env", {}), **{key: config.get(key) for key in ("recipe", "seed")}, **summary}
    tasks = known.get("task_ids")
    return [
        ("recipe", known.get("recipe")),
        ("task suite", known.get("task_suite")),
        ("task ids", ", ".join(str(task) for task in sorted(tasks)) if tasks else None),
        ("seed", known.get("seed")),
        ("iterations", summary.get("iterations")),
        ("checkpoint chosen on validation starts", _after(summary.get("chosen_iteration"))),
        ("truncated by time", _yes_no(summary.get("truncated_by_time"))),
        ("episodes run again after a worker ended", summary.get("restarted_episodes")),
        ("command", summary.get("command")),
    ]


def _cost(summary: Mapping[str, Any]) -> list[tuple[str, Any]]:
    wall, memory, rate = summary.get("wall_seconds"), summary.get("peak_rss_bytes"), summary.get("env_steps_per_second")
    return [
        ("wall time", duration(wall["total"]) if wall else None),
        ("core-hours", _number(summary.get("core_hours"), 2)),
        ("env steps of training", _number(summary.get("env_steps"), 0)),
        ("env steps per second of rollout", _number(rate, 0)),
        ("peak memory, all processes", _gibibytes(memory)),
    ]


def _machine(machine: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [
        ("CPU", machine.get("cpu")),
        ("CPU cores", machine.get("cpu_cores")),
        ("memory", _gibibytes(machine.get("memory_bytes"))),
        ("system", machine.get("os")),
        ("Python", machine.get("python")),
    ]


def _code(summary: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [("vlarl", summary.get("version")), ("git revision", summary.get("git_revision"))]


def _after(iteration: int | None) -> str | None:
    return None if iteration is None else f"after iteration {iteration}"


def _yes_no(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"


def _number(value: float | None, decimals: int) -> str | None:
    return None if value is None else f"{value:,.{decimals}f}"


def _gibibytes(size: int | None) -> str | None:
    return None if size is None else f"{size / 2**30:.1f}{NBSP}GiB"
