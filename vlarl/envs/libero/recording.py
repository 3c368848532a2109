"""Records an episode of upstream's LIBERO, as the yardstick for ours.

Run as `python -m vlarl.envs.libero.recording REQUEST.npz RECORDING.npz` with a request of `Request.save`: upstream's
simulator, its imports and its GL context stay out of the caller.
"""

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlarl.configs.env import RenderProfile
from vlarl.envs.libero.cache import TaskFiles
from vlarl.envs.libero.tasks import load_task
from vlarl.errors import UserError
from vlarl.files import write_atomically

CAMERAS = ("agentview", "robot0_eye_in_hand")
"""Upstream's two."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to record."""

    suite: str
    task_id: int
    init_state_id: int
    """Of LIBERO's fixed initial states; it is set after a reset, and nothing settles before the first action."""
    actions: np.ndarray
    """[T, 7] float64."""
    frame_steps: tuple[int, ...] = ()
    """Frames are kept of the observation after so many actions, ascending; 0 is the initial one."""
    image_size: int = 256
    """Pixels."""
    models: Path | None = None
    """Folder where ours are built if they are missing, see `TaskFiles`; None builds nothing."""
    profile: RenderProfile = "reference"
    """Models to build."""
    redraws_fixtures: bool = True
    """Whether a second reset gives other fixture poses than those of the built models."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Upstream's episode. T actions, F frames, B fixtures."""

    suite: str
    task_id: int
    state: np.ndarray
    """[1 + nq + nv] initial time, qpos and qvel."""
    warm_start: np.ndarray
    """[nv] accelerations that upstream's reset left to the solver."""
    fixture_positions: np.ndarray
    """[B, 3] metres."""
    fixture_quaternions: np.ndarray
    """[B, 4]."""
    actions: np.ndarray
    """[T, 7]."""
    qpos: np.ndarray
    """[T, nq] after each action."""
    qvel: np.ndarray
    """[T, nv]."""
    rewards: np.ndarray
    """[T]."""
    dones: np.ndarray
    """[T] bool."""
    frame_steps: np.ndarray
    """[F] int64."""
    frames: np.ndarray
    """[F, 2, H, H, 3] uint8, of `CAMERAS`, rows bottom-up as upstream's."""

    def save(self, path: Path) -> None:
        """Writes a compressed npz."""
        write_atomically(path, lambda scratch: np.savez_compressed(scratch, **asdict(self)))

    @classmethod
    def load(cls, path: Path) -> "Recording":
        """Reads what `save` wrote; nothing is unpickled."""
        with np.load(path, allow_pickle=False) as raw:
            fields = {name: raw[name] for name in raw.files}
        return cls(**fields | {"suite": str(fields["suite"]), "task_id": int(fields["task_id"])})


def record(request: Request) -> Recording:
    """Runs upstream in a process of its own.

    Raises:
        UserError: it failed; the message is the last line of its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "request.npz", Path(folder) / "recording.npz"
        fields = {name: value for name, value in asdict(request).items() if value is not None}
        np.savez(paths[0], **fields | ({"models": str(request.models)} if request.models else {}))
        command = [sys.executable, "-m", "vlarl.envs.libero.recording", *map(str, paths)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            reason = lines[-1] if lines else f"exit code {done.returncode}"
            raise UserError(f"upstream's {request.suite} task {request.task_id} could not be recorded: {reason}")
        return Recording.load(paths[1])


def _run_upstream(request: Request) -> Recording:
    # Only in the recording process: they import the simulator's builder.
    from vlarl.envs.libero.build import build_models, fixture_bodies, make_upstream

    task = load_task(request.suite, request.task_id)
    upstream = make_upstream(task, seed=0, image_size=request.image_size if request.frame_steps else None)
    if request.models:
        build_models(task, TaskFiles(request.models), upstream, request.profile)
    if request.redraws_fixtures:
        upstream.reset()
    sim = upstream.sim
    model, data, bodies = sim.model._model, sim.data, fixture_bodies(upstream.env)
    state = np.load(task.init_states_file, allow_pickle=False)["states"][request.init_state_id]
    warm_start = data.qacc_warmstart.copy()
    render, blank = sim.render, np.zeros((request.image_size, request.image_size, 3), dtype=np.uint8)
    steps: dict[str, list[Any]] = {name: [] for name in ("qpos", "qvel", "rewards", "dones", "frames")}
    for number in range(len(request.actions) + 1):
        # Frames that nobody asked for are not drawn; nothing else depends on them.
        is_kept = number in request.frame_steps
        sim.render = render if is_kept else lambda **_: blank
        if number == 0:
            observation = upstream.set_init_state(state)
        else:
            observation, reward, done, _ = upstream.step(request.actions[number - 1])
            for name, value in (("qpos", data.qpos), ("qvel", data.qvel), ("rewards", reward), ("dones", done)):
                steps[name].append(np.array(value))
        if is_kept:
            steps["frames"].append([observation[f"{camera}_image"] for camera in CAMERAS])
    return Recording(
        suite=request.suite,
        task_id=request.task_id,
        state=state,
        warm_start=warm_start,
        fixture_positions=model.body_pos[bodies],
        fixture_quaternions=model.body_quat[bodies],
        actions=request.actions,
        frame_steps=np.array(request.frame_steps, dtype=np.int64),
        **{name: np.array(values) for name, values in steps.items()},
    )


def main(argv: Sequence[str]) -> None:
    """Reads the request, writes the recording."""
    logging.disable(logging.WARNING)
    with np.load(argv[0], allow_pickle=False) as raw:
        fields: dict[str, Any] = {name: raw[name] for name in raw.files}
    for name in ("task_id", "init_state_id", "image_size"):
        fields[name] = int(fields[name])
    for name in ("suite", "profile"):
        fields[name] = str(fields[name])
    fields["redraws_fixtures"] = bool(fields["redraws_fixtures"])
    models = Path(str(fields.pop("models"))) if "models" in fields else None
    frame_steps = tuple(int(step) for step in fields.pop("frame_steps"))
    _run_upstream(Request(**fields, frame_steps=frame_steps, models=models)).save(Path(argv[1]))


if __name__ == "__main__":
    os.environ.setdefault("MUJOCO_GL", "egl")
    main(sys.argv[1:])
