"""Is it LIBERO? Compares our stepping and frames with an episode that upstream recorded."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

# Before anything that loads mujoco: it chooses the GL library.
from vlarl.envs.libero.rendering import Renderer  # isort: skip

from vlarl.configs.env import RenderProfile, Stepping
from vlarl.envs.libero.cache import TaskFiles
from vlarl.envs.libero.recording import CAMERAS, Recording, Request, record
from vlarl.envs.libero.simulation import Scene, Simulation
from vlarl.envs.libero.tasks import NUM_INIT_STATES

FREE_STEPS = 60
"""Actions of `free_and_pressing_actions` that move through the air."""
FREE_TOLERANCE = 1e-5
"""Largest difference in qpos that fast stepping may have after FREE_STEPS of them, metres or radians."""
CONTACT_TOLERANCE = 1e-4
"""The same after pressing the hand onto something."""
SAMPLE: Mapping[str, int] = {"libero_spatial": 0, "libero_object": 0, "libero_goal": 7, "libero_10": 2, "libero_90": 0}
"""Suite -> the task that stands for it in `vlarl doctor --libero` and in the tests."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Differences between ours and upstream over an episode."""

    suite: str
    task_id: int
    stepping: Stepping
    steps: int
    max_qpos_free: float
    """Largest |difference| in qpos while the robot touches nothing, metres or radians."""
    free_steps: int
    """Actions until the robot's first contact."""
    max_qpos: float
    """Largest |difference| in qpos over all steps."""
    max_qvel: float
    """The same of qvel, metres or radians per second."""
    differing_flags: int
    """Steps whose reward or done differs."""
    frames: int
    """Frames compared."""
    differing_pixels: int
    """Pixels of them that differ."""

    @property
    def is_identical(self) -> bool:
        """Whether every bit is equal."""
        return not (self.max_qpos or self.max_qvel or self.differing_flags or self.differing_pixels)

    @property
    def is_within_tolerance(self) -> bool:
        """Whether fast stepping is as near as it promises to be."""
        return self.max_qpos_free <= FREE_TOLERANCE and self.max_qpos <= CONTACT_TOLERANCE and not self.differing_flags


def free_and_pressing_actions(seed: int, steps: int) -> np.ndarray:
    """Random actions [steps, 7]: FREE_STEPS that tend upwards, then down onto whatever is there, in turns."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1.0, 1.0, (steps, 7))
    is_free = np.arange(steps) // FREE_STEPS % 2 == 0
    actions[:, 2] = np.where(is_free, rng.uniform(-0.6, 1.0, steps), -1.0)
    actions[~is_free, :2] *= 0.3
    return actions


def make_request(suite: str, task_id: int, *, steps: int, with_frames: bool, seed: int = 0) -> Request:
    """`free_and_pressing_actions` from the fixed initial state `seed` % 50, perhaps with frames now and then."""
    return Request(
        suite=suite,
        task_id=task_id,
        init_state_id=seed % NUM_INIT_STATES,
        actions=free_and_pressing_actions(seed, steps),
        # The first ones show that the observation's moment is right, the last that it does not drift.
        frame_steps=tuple(sorted({0, 1, 2, steps // 2, steps})) if with_frames else (),
        profile="reference" if with_frames else "fast",
    )


def run_live(request: Request) -> tuple[Comparison, Comparison]:
    """Records upstream now; returns exact and fast stepping against it.

    Our models come from the request's folder, where they are built if they are missing; without one they are built in
    a scratch folder. Exact stepping is compared with reference frames where the request has frames.

    Raises:
        UserError: upstream failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = TaskFiles(request.models or Path(folder))
        recording = record(replace(request, models=files.folder))
        profile = "reference" if request.frame_steps else None
        return compare(recording, files, "exact", profile), compare(recording, files, "fast")


def compare(
    recording: Recording, files: TaskFiles, stepping: Stepping, profile: RenderProfile | None = None
) -> Comparison:
    """Repeats a recorded episode; with a profile also its frames."""
    scene = Scene(files, profile or "fast")
    simulation = Simulation(files, scene, stepping)
    renderer = Renderer(scene.model, scene.lamps, profile) if profile else None
    robot = [scene.model.body(i).name.startswith(("robot0_", "gripper0_")) for i in range(scene.model.nbody)]
    is_robot = np.array(robot)[scene.model.geom_bodyid]
    poses = recording.fixture_positions, recording.fixture_quaternions
    simulation.set_state(recording.state, poses, recording.warm_start)
    frames = dict(zip(recording.frame_steps.tolist(), recording.frames, strict=True)) if renderer else {}
    free_steps, differing_flags, differing_pixels = len(recording.actions), 0, 0
    qpos, qvel = np.zeros(len(recording.actions) + 1), np.zeros(len(recording.actions) + 1)
    for number in range(len(recording.actions) + 1):
        if number:
            success = simulation.step(recording.actions[number - 1])
            expected = bool(recording.rewards[number - 1]), bool(recording.dones[number - 1])
            differing_flags += expected != (success, success)
            qpos[number] = np.abs(simulation.data.qpos - recording.qpos[number - 1]).max()
            qvel[number] = np.abs(simulation.data.qvel - recording.qvel[number - 1]).max()
            touched = is_robot[simulation.data.contact.geom]
            if (touched[:, 0] != touched[:, 1]).any():
                free_steps = min(free_steps, number - 1)
        for camera, expected in zip(CAMERAS, frames.get(number, ()), strict=False):
            size = len(expected)
            frame = renderer.render(simulation.observed, size, camera, simulation.lamp_qpos)
            differing_pixels += int((frame != expected[::-1]).any(axis=-1).sum())
    return Comparison(
        suite=recording.suite,
        task_id=recording.task_id,
        stepping=stepping,
        steps=len(recording.actions),
        max_qpos_free=float(qpos[: free_steps + 1].max()),
        free_steps=free_steps,
        max_qpos=float(qpos.max()),
        max_qvel=float(qvel.max()),
        differing_flags=differing_flags,
        frames=2 * len(frames),
        differing_pixels=differing_pixels,
    )
