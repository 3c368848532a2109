"""summary.json: the figures of a run, from the files in its folder."""

import sys
from typing import Any

from vlarl import __version__
from vlarl.configs.training import TrainConfig
from vlarl.envs.base import EnvSpec
from vlarl.evaluation.protocol import Evaluation, compare, rate
from vlarl.system import cpu_cores, git_revision, machine_card
from vlarl.training.run_folder import RunFolder, read_json, write_json


def write_summary(folder: RunFolder, config: TrainConfig, spec: EnvSpec) -> dict[str, Any]:
    """Writes and returns the summary; stages that were not evaluated are left out."""
    ledger = read_json(folder.phases)
    card = machine_card()
    task_ids = sorted(config.env.task_ids)
    summary: dict[str, Any] = {
        "recipe": config.recipe,
        "task_suite": config.env.task_suite,
        "task_ids": task_ids,
        "instructions": {str(t): spec.instructions[t] for t in task_ids},
        "seed": config.seed,
    }
    if folder.demonstration_rates.is_file():
        summary["demonstrations"] = read_json(folder.demonstration_rates)
    summary |= _stages(folder) | _training(folder)
    total = sum(ledger["seconds"].values())
    return _written(
        folder,
        summary
        | {
            "wall_seconds": ledger["seconds"] | {"total": total},
            "core_hours": total * cpu_cores() / 3600,
            "peak_rss_bytes": ledger["peak_rss_bytes"],
            "version": __version__,
            "git_revision": git_revision(),
            "machine": {k: v for k, v in card.items() if k != "packages"},
            "versions": card["packages"],
            "command": " ".join(["vlarl", *sys.argv[1:]]),
        },
    )


def _written(folder: RunFolder, summary: dict[str, Any]) -> dict[str, Any]:
    write_json(folder.summary, summary)
    return summary


def _stages(folder: RunFolder) -> dict[str, Any]:
    """Success before and after, their paired comparison, and the probes."""
    found = {path.stem: Evaluation.load(path) for path in sorted(folder.evaluations.glob("*.json"))}
    result: dict[str, Any] = {}
    for stage in ("sft", "rl"):
        if f"{stage}_greedy" in found and f"{stage}_sampled" in found:
            result[stage] = found[f"{stage}_greedy"].summary() | {"sampled": found[f"{stage}_sampled"].summary()}
    if "sft" in result and "rl" in result:
        lift = {mode: compare(found[f"sft_{mode}"], found[f"rl_{mode}"]) for mode in ("greedy", "sampled")}
        result["lift"] = lift
        result["p_value"] = {mode: value["p_value"] for mode, value in lift.items()}
    probes = {name: found[f"rl_{name}"] for name in ("swapped_instruction", "blank_images") if f"rl_{name}" in found}
    if probes and "rl_greedy" in found:
        starts = {e.start for e in next(iter(probes.values())).episodes}
        normal = rate([e.success for e in found["rl_greedy"].episodes if e.start in starts])
        result["probes"] = {"greedy": {"normal": normal} | {name: p.summary() for name, p in probes.items()}}
    return result


def _training(folder: RunFolder) -> dict[str, Any]:
    """Counters and rates of the training loop."""
    if not folder.train_summary.is_file():
        return {}
    state = read_json(folder.train_summary)
    history = folder.history()
    seconds = {name: sum(row[f"time/{key}"] for row in history) for name, key in _TIMES.items()}
    loop = sum(seconds.values()) or 1.0
    return {
        "env_steps": state["env_steps"],
        "env_steps_per_second": state["env_steps"] / (seconds["rollout"] or 1.0),
        "iterations": state["iteration"],
        "chosen_iteration": state["chosen_iteration"],
        "time_split": {name: value / loop for name, value in seconds.items()},
        "truncated_by_time": state["truncated_by_time"],
        "restarted_episodes": state["restarted_episodes"],
        "warnings": state["warnings"],
    }


_TIMES = {"rollout": "rollout", "learning": "learn", "rest": "rest"}
