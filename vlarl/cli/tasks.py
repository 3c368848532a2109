"""`vlarl tasks [SUITE]`: what there is to do, and how it looks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from vlarl.cli.options import parse, print_json
from vlarl.envs.libero.cache import TaskFiles
from vlarl.envs.libero.tasks import PERTURBATIONS, STANDARD_LIMITS, STEP_LIMITS, load_task, num_tasks
from vlarl.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TasksOptions:
    """Lists LIBERO's suites; with a SUITE its tasks."""

    suite: tyro.conf.Positional[str | None] = None
    """Suite to list, for example libero_goal or libero_goal_swap."""
    sheet: Path | None = None
    """PNG file for a contact sheet of the suite: one start of every task; tasks that lack are built (20 s each)."""
    json: bool = False
    """Print the list as JSON."""


def main(command: str, argv: Sequence[str]) -> int:
    """Prints the list, writes the sheet."""
    options = parse(TasksOptions, argv, command)
    if options.sheet is not None and options.suite is None:
        raise UserError("--sheet shows one suite: name it, for example `vlarl tasks libero_goal --sheet goal.png`")
    rows = [_suite_row(suite) for suite in STEP_LIMITS] if options.suite is None else _task_rows(options.suite)
    if options.sheet is not None:
        from vlarl.reporting.contact_sheet import write_contact_sheet

        write_contact_sheet(options.suite, options.sheet)
    if options.json:
        print_json(rows)
        return 0
    for row in rows:
        print(_suite_line(row) if options.suite is None else _task_line(row))
    if options.sheet is not None:
        print(f"contact sheet: {options.sheet}")
    return 0


def _suite_row(suite: str) -> dict[str, Any]:
    base, _, name = suite.rpartition("_")
    meaning = "" if suite in STANDARD_LIMITS else f"LIBERO-PRO on {base}: {PERTURBATIONS[name]}"
    return {"suite": suite, "tasks": num_tasks(suite), "max_episode_steps": STEP_LIMITS[suite], "meaning": meaning}


def _task_rows(suite: str) -> list[dict[str, Any]]:
    # Only here: a list of suites needs no experts.
    from vlarl.experts.tasks import EXPERTS

    tasks = [load_task(suite, task_id) for task_id in range(num_tasks(suite))]
    return [
        {
            "task_id": task.task_id,
            "instruction": task.instruction,
            "name": task.name,
            "goal": [list(predicate) for predicate in task.goal],
            "has_expert": suite in STANDARD_LIMITS and task.name in EXPERTS,
            "is_built": TaskFiles.of(suite, task.task_id).description.is_file(),
        }
        for task in tasks
    ]


def _suite_line(row: dict[str, Any]) -> str:
    return f"{row['suite']:<24}{row['tasks']:>3} tasks, {row['max_episode_steps']} steps  {row['meaning']}".rstrip()


def _task_line(row: dict[str, Any]) -> str:
    marks = [name for name in ("has_expert", "is_built") if row[name]]
    words = {"has_expert": "expert", "is_built": "built"}
    return f"{row['task_id']:>3}  {row['instruction']}  [{', '.join(words[m] for m in marks)}]".replace("  []", "")
