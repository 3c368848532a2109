"""Builds a task once: upstream's model with light visual meshes, its goal, and settled start states. Cached on disk.

Run as `python -m vlarl.envs.libero.build SUITE TASK_ID SEED PROFILE`, one process per task: upstream's simulator and
what it imports stay out of the caller.
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

import numpy as np

from vlarl.configs.env import RenderProfile
from vlarl.envs.libero.cache import TaskFiles, save_model
from vlarl.envs.libero.goals import resolve_goal, resolve_lamps
from vlarl.envs.libero.light_model import build_light_model
from vlarl.envs.libero.starts import make_starts
from vlarl.envs.libero.tasks import LiberoTask, load_task
from vlarl.files import write_atomically


def make_upstream(task: LiberoTask, seed: int, image_size: int | None = None) -> Any:  # noqa: ANN401
    """Makes upstream's own environment (libero's ControlEnv), reset once; without a size it has no cameras."""
    has_cameras = image_size is not None
    cameras = {"camera_heights": image_size, "camera_widths": image_size} if has_cameras else {}
    with contextlib.redirect_stdout(io.StringIO()):
        from libero.libero.envs.env_wrapper import ControlEnv

        upstream = ControlEnv(
            bddl_file_name=str(task.bddl_file),
            has_offscreen_renderer=has_cameras,
            use_camera_obs=has_cameras,
            hard_reset=False,
            **cameras,
        )
    upstream.seed(seed)
    upstream.reset()
    return upstream


def build(task: LiberoTask, files: TaskFiles, seed: int, profile: RenderProfile) -> None:
    """Writes what is missing of the task's files."""
    upstream = make_upstream(task, seed=0)
    build_models(task, files, upstream, profile)
    if not files.starts(seed).is_file():
        arrays = make_starts(task, files, upstream, seed)
        write_atomically(files.starts(seed), lambda path: np.savez(path, **arrays))


def build_models(task: LiberoTask, files: TaskFiles, upstream: Any, profile: RenderProfile) -> None:  # noqa: ANN401
    """Writes what is missing of the models and their description; `upstream` is as `make_upstream` returns it."""
    if profile == "reference" and not files.reference.is_file():
        save_model(upstream.sim.model._model, files.reference)
    if files.model.is_file() and files.description.is_file():
        return
    with tempfile.TemporaryDirectory() as scratch:
        model = build_light_model(upstream, Path(scratch))
    save_model(model, files.model)
    description = {
        "goal": resolve_goal(task, upstream.env),
        "lamps": resolve_lamps(upstream.env),
        "fixture_bodies": fixture_bodies(upstream.env),
        "object_bodies": {name: int(body) for name, body in upstream.env.obj_body_id.items()},
        "default_joints": [float(q) for q in upstream.env.robots[0].init_qpos],
    }
    # Last, because a task whose description exists is complete.
    write_atomically(files.description, lambda path: path.write_text(json.dumps(description)))


def fixture_bodies(env: Any) -> list[int]:  # noqa: ANN401 - libero's domain
    """Bodies whose pose a reset draws into the model."""
    model = env.sim.model
    roots = {getattr(fixture, "root_body", None) for fixture in env.fixtures_dict.values()}
    return sorted(model.body_name2id(name) for name in roots & set(model.body_names))


def main(argv: Sequence[str]) -> None:
    """Builds one task."""
    logging.disable(logging.WARNING)
    suite, task_id, seed, profile = argv[0], int(argv[1]), int(argv[2]), argv[3]
    build(load_task(suite, task_id), TaskFiles.of(suite, task_id), seed, profile)


if __name__ == "__main__":
    os.environ.setdefault("MUJOCO_GL", "egl")
    main(sys.argv[1:])
