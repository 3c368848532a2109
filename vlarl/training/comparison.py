"""Runs side by side: what their settings differ in, and their success on the same starts."""

from collections.abc import Sequence
from typing import Any

from vlarl.errors import UserError
from vlarl.evaluation.protocol import Evaluation, compare
from vlarl.reporting.comparison import STAGES
from vlarl.training.run_folder import RunFolder, differing_keys, read_json


def compare_runs(folders: Sequence[RunFolder]) -> dict[str, Any]:
    """Compares every run with the first, evaluation by evaluation, on paired starts.

    Returns:
        JSON-able {"runs": [...]}, in the order given; each run has its folder, seed, recipe, git_revision, env_steps
        and core_hours (None before its summary is written), "differs" (settings that differ from the first run's) and
        "evaluations": name -> success with its interval, and "difference" to the first run (see
        `vlarl.evaluation.protocol.compare`; not in the first run, nor where that one lacks the evaluation).

    Raises:
        UserError: fewer than two runs, a folder without evaluations, or runs evaluated on different starts.
    """
    if len(folders) < 2:
        raise UserError("name at least two run folders: the first is what the others are compared with")
    configs = [read_json(folder.config) for folder in folders]
    evaluations = [_evaluations(folder) for folder in folders]
    runs = []
    for folder, config, found in zip(folders, configs, evaluations, strict=True):
        suites = configs[0]["env"]["task_suite"], config["env"]["task_suite"]
        if suites[0] != suites[1]:
            raise UserError(
                f"{folders[0].root} is of {suites[0]}, {folder.root} of {suites[1]}: compare runs of one suite"
            )
        results = {}
        for name, evaluation in found.items():
            results[name] = evaluation.summary()
            if folder is not folders[0] and name in evaluations[0]:
                results[name]["difference"] = _difference(folders[0], evaluations[0][name], folder, evaluation)
        runs.append({**_card(folder, config), "differs": differing_keys(configs[0], config), "evaluations": results})
    return {"runs": runs}


def _evaluations(folder: RunFolder) -> dict[str, Evaluation]:
    found = {name: Evaluation.load(path) for name, _ in STAGES if (path := folder.evaluation(name)).is_file()}
    if not found:
        raise UserError(f"{folder.root} holds no evaluation: `vlarl quickstart --output {folder.root}` goes on to it")
    return found


def _difference(first: RunFolder, before: Evaluation, folder: RunFolder, after: Evaluation) -> dict[str, Any]:
    if before.temperature != after.temperature:
        temperatures = f"{before.temperature:g} in {first.root}, {after.temperature:g} in {folder.root}"
        raise UserError(f"the sampling temperatures differ ({temperatures}): evaluate both with one `--temperature`")
    theirs, ours = _starts(before), _starts(after)
    if theirs != ours:
        task_id, split, index = min(theirs ^ ours)
        raise UserError(
            f"{first.root} and {folder.root} were evaluated on different starts ({split} start {index} of task"
            f" {task_id} is in one of them only): compare runs of the same tasks and evaluation.episodes_per_task"
        )
    return compare(before, after)


def _starts(evaluation: Evaluation) -> set[tuple[int, str, int]]:
    return {(e.start.task_id, e.start.split, e.start.index) for e in evaluation.episodes}


def _card(folder: RunFolder, config: dict[str, Any]) -> dict[str, Any]:
    summary = read_json(folder.summary) if folder.summary.is_file() else {}
    kept = {name: summary.get(name) for name in ("git_revision", "env_steps", "core_hours", "truncated_by_time")}
    return {"folder": str(folder.root), "recipe": config["recipe"], "seed": config["seed"], **kept}
