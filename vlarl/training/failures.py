"""Where a run's policies fail, before and after RL, with a video of each kind."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from vlarl.configs.env import EnvConfig
from vlarl.envs.base import environment_module
from vlarl.errors import UserError
from vlarl.evaluation.failures import KINDS, classify, count_failures
from vlarl.evaluation.protocol import Evaluation
from vlarl.reporting.progress import Console
from vlarl.reporting.video import write_mp4
from vlarl.training.run_folder import RunFolder, write_json
from vlarl.training.videos import EVERY, SPEED, load_actions
from vlarl.types import EpisodeTrace, Start

STAGES = ("sft", "rl")


def require_traces(name: str) -> Callable[..., Iterator[EpisodeTrace]]:
    """The environment's `trace_episodes`.

    Raises:
        UserError: it cannot tell failures apart.
    """
    trace_episodes = getattr(environment_module(name), "trace_episodes", None)
    if trace_episodes is None:
        raise UserError(f"failures are told apart in LIBERO only, not in the environment {name!r}")
    return trace_episodes


def classify_failures(
    config: EnvConfig, evaluation: Evaluation, actions: Mapping[Start, np.ndarray], console: Console
) -> dict[Start, str]:
    """The kind of every failed episode, by replaying it.

    Raises:
        UserError: the environment cannot tell failures apart.
    """
    failed = [(episode.start, actions[episode.start]) for episode in evaluation.episodes if not episode.success]
    kinds = {}
    with console.bar("replaying failed episodes", len(failed), "episode") as update:
        traces = require_traces(config.name)(config, failed)
        for number, ((start, _), trace) in enumerate(zip(failed, traces, strict=True), 1):
            kinds[start] = classify(trace)
            update(number)
    return kinds


def write_failures(folder: RunFolder, config: EnvConfig, console: Console) -> dict[str, Any]:
    """Counts the failures of the greedy evaluations before and after RL, and writes a video of each kind.

    Raises:
        UserError: the run was not evaluated, or recorded actions are missing.
    """
    result: dict[str, Any] = {"counts": {}, "videos": []}
    for stage in STAGES:
        name = f"{stage}_greedy"
        evaluation = Evaluation.load(folder.evaluation(name))
        actions = {e.start: load_actions(folder, name, e.start) for e in evaluation.episodes if not e.success}
        kinds = classify_failures(config, evaluation, actions, console)
        result["counts"][stage] = count_failures(kinds.values())
        for kind in KINDS:
            start = next((start for start, found in kinds.items() if found == kind), None)
            if start is not None:
                file = f"failure_{stage}_{kind.replace(' ', '_')}.mp4"
                frames = environment_module(config.name).replay_frames(config, start, actions[start], every=EVERY)
                write_mp4(folder.videos / file, frames, fps=20 / EVERY * SPEED)
                entry = {"file": file, "stage": stage, "kind": kind}
                result["videos"].append(entry | {"task_id": start.task_id, "start_index": start.index})
    write_json(folder.failures, result)
    return result
