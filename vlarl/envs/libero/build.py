"""Builds a task once: upstream's model with light visual meshes, its goal, and settled start states. Cached on disk.

Run as `python -m vlarl.envs.libero.build SUITE TASK_ID SEED`, one process per task: upstream's simulator and what it
imports stay out of the caller.
"""

import contextlib
import io
import json
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from vlarl.envs.libero.cache import TaskFiles, write_atomically
from vlarl.envs.libero.goals import resolve_goal, resolve_lamps
from vlarl.envs.libero.light_model import build_light_model
from vlarl.envs.libero.starts import make_starts
from vlarl.envs.libero.tasks import LiberoTask, load_task


def make_upstream(task: LiberoTask, seed: int) -> Any:  # noqa: ANN401 - libero's ControlEnv
    """Makes upstream's own environment of the task without cameras, reset once."""
    with contextlib.redirect_stdout(io.StringIO()):
        from libero.libero.envs.env_wrapper import ControlEnv

        upstream = ControlEnv(
            bddl_file_name=str(task.bddl_file), has_offscreen_renderer=False, use_camera_obs=False, hard_reset=False
        )
    upstream.seed(seed)
    upstream.reset()
    return upstream


def build(task: LiberoTask, files: TaskFiles, seed: int) -> None:
    """Writes what is missing of the task's files."""
    upstream = make_upstream(task, seed=0)
    if not (files.model.is_file() and files.description.is_file()):
        with tempfile.TemporaryDirectory() as scratch:
            model = build_light_model(upstream, Path(scratch))
        write_atomically(files.model, lambda path: mujoco.mj_saveModel(model, str(path), None))
        description = {
            "goal": resolve_goal(task, upstream.env),
            "lamps": resolve_lamps(upstream.env),
            "fixture_bodies": _fixture_bodies(upstream.env),
            "object_bodies": {name: int(body) for name, body in upstream.env.obj_body_id.items()},
            "default_joints": [float(q) for q in upstream.env.robots[0].init_qpos],
            "default_fingers": [float(q) for q in upstream.env.robots[0].gripper.init_qpos],
        }
        # Last, because a task whose description exists is complete.
        write_atomically(files.description, lambda path: path.write_text(json.dumps(description)))
    if not files.starts(seed).is_file():
        arrays = make_starts(task, files, upstream, seed)
        write_atomically(files.starts(seed), lambda path: np.savez(path, **arrays))


def _fixture_bodies(env: Any) -> list[int]:  # noqa: ANN401 - libero's domain
    """Bodies whose pose a reset draws into the model."""
    model = env.sim.model
    roots = {getattr(fixture, "root_body", None) for fixture in env.fixtures_dict.values()}
    return sorted(model.body_name2id(name) for name in roots & set(model.body_names))


def main(argv: Sequence[str]) -> None:
    """Builds one task."""
    logging.disable(logging.WARNING)
    suite, task_id, seed = argv[0], int(argv[1]), int(argv[2])
    task = load_task(suite, task_id)
    build(task, TaskFiles.of(suite, task_id), seed)


if __name__ == "__main__":
    os.environ.setdefault("MUJOCO_GL", "egl")
    main(sys.argv[1:])
