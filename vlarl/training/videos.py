"""Videos of the same start before and after RL, side by side."""

from collections.abc import Mapping
from typing import Any
from zipfile import BadZipFile

import numpy as np

from vlarl.configs.training import TrainConfig
from vlarl.envs.base import environment_module
from vlarl.errors import UserError
from vlarl.evaluation.protocol import Evaluation
from vlarl.reporting.video import side_by_side, write_mp4
from vlarl.training.run_folder import RunFolder
from vlarl.types import Start

EVERY = 3
"""Env steps between frames of a video; LIBERO's control rate is 20 Hz."""
SPEED = 2
"""Times real time."""


def write_comparisons(
    folder: RunFolder, config: TrainConfig, instructions: Mapping[int, str], before: Evaluation, after: Evaluation
) -> list[dict[str, Any]]:
    """Writes the videos of `evaluation.video_starts_per_task` starts; returns what the report needs of each.

    Raises:
        UserError: the recorded actions are missing or damaged.
    """
    entries = []
    for task_id in sorted(config.env.task_ids):
        both = zip(before.episodes, after.episodes, strict=True)
        pairs = [(b, a) for b, a in both if b.start.task_id == task_id]
        pairs.sort(key=lambda pair: (not (pair[1].success and not pair[0].success), pair[0].start.index))
        for b, a in pairs[: config.evaluation.video_starts_per_task]:
            name = f"task_{task_id}_start_{b.start.index:02d}.mp4"
            frames = side_by_side(
                _replay(folder, config, "sft_greedy", b.start),
                _replay(folder, config, "rl_greedy", a.start),
                before_success=b.success,
                after_success=a.success,
                start_index=b.start.index,
            )
            write_mp4(folder.videos / name, frames, fps=20 / EVERY * SPEED)
            entries.append(
                {
                    "file": name,
                    "task_id": task_id,
                    "instruction": instructions[task_id],
                    "start_index": b.start.index,
                    "before_success": b.success,
                    "after_success": a.success,
                }
            )
    return entries


def _replay(folder: RunFolder, config: TrainConfig, name: str, start: Start) -> np.ndarray:
    executed = load_actions(folder, name, start)
    return environment_module(config.env.name).replay_frames(config.env, start, executed, every=EVERY)


def load_actions(folder: RunFolder, name: str, start: Start) -> np.ndarray:
    """The actions [T, action_dim] that an evaluation executed from a start.

    Raises:
        UserError: they are missing or damaged.
    """
    path = folder.actions(name)
    try:
        with np.load(path, allow_pickle=False) as actions:
            return actions[f"{start.task_id}_{start.index}"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise UserError(
            f"{path} is missing or damaged ({error}): delete {folder.evaluation(name)}, then the same command"
            " evaluates again"
        ) from error
