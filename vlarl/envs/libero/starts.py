"""Start states: LIBERO's fixed ones for evaluation, upstream resets for training and validation, all settled."""

from typing import Any

import mujoco
import numpy as np

from vlarl.envs.libero.cache import TaskFiles
from vlarl.envs.libero.simulation import NO_MOTION, Simulation
from vlarl.envs.libero.tasks import NUM_INIT_STATES, SETTLE_STEPS, LiberoTask
from vlarl.types import Split

NUM_STARTS: dict[Split, int] = {"train": 200, "validation": 50, "evaluation": NUM_INIT_STATES}
JOINT_NOISE = 0.02
"""Standard deviation of the arm's joints in LIBERO's fixed initial states, radians; a reset draws none."""


def make_starts(task: LiberoTask, files: TaskFiles, upstream: Any, seed: int) -> dict[str, np.ndarray]:  # noqa: ANN401
    """Returns the snapshots of every split, `{split}/{field}` -> [n, ...]; deterministic in (task, seed).

    Args:
        task: what is built.
        files: of the task; model and description exist.
        upstream: libero's ControlEnv after construction, `seed(0)` and one `reset()`; its state is changed.
        seed: of the training and validation starts.
    """
    simulation = Simulation(files)
    fixed = np.load(task.init_states_file, allow_pickle=False)["states"][:NUM_INIT_STATES]
    # The fixed states hold no fixture poses: upstream's first reset defines them.
    reference = _fixture_poses(upstream, simulation)
    drawn = {"evaluation": [(state, reference) for state in fixed]}
    files_poses = _poses_of_the_files(upstream, simulation)
    for number, split in enumerate(("train", "validation")):
        # robosuite draws from numpy's global generator.
        np.random.seed(np.random.SeedSequence([seed, task.task_id, number]).generate_state(1)[0])
        noise = np.random.default_rng([seed, task.task_id, number])
        drawn[split] = [_draw(upstream, simulation, files_poses, noise) for _ in range(NUM_STARTS[split])]
    arrays = {}
    for split, states in drawn.items():
        snapshots = [_settle(simulation, state, poses) for state, poses in states]
        for field in snapshots[0]:
            arrays[f"{split}/{field}"] = np.stack([snapshot[field] for snapshot in snapshots])
    return arrays


def _draw(
    upstream: Any,  # noqa: ANN401
    simulation: Simulation,
    files_poses: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    # Upstream places an object on a fixture by adding the fixture's drawn pose to where the model has the region. That
    # is right in a model just loaded from its files; otherwise the pose of the last reset is added too, and bowls that
    # should be on the stove are in the air behind the robot.
    model, bodies = upstream.sim.model._model, simulation.fixture_bodies
    model.body_pos[bodies], model.body_quat[bodies] = files_poses
    upstream.reset()
    state = upstream.sim.get_state().flatten()
    # The state is time, qpos, qvel.
    state[1 + simulation.robot.qpos_index] += rng.normal(0.0, JOINT_NOISE, size=len(simulation.robot.qpos_index))
    return state, _fixture_poses(upstream, simulation)


def _poses_of_the_files(upstream: Any, simulation: Simulation) -> tuple[np.ndarray, np.ndarray]:  # noqa: ANN401
    """Fixture poses before any was drawn, [F, 3] and [F, 4]."""
    spec = mujoco.MjSpec.from_string(upstream.env.model.get_xml())
    bodies = [spec.body(simulation.model.body(number).name) for number in simulation.fixture_bodies]
    return np.array([body.pos for body in bodies]).reshape(-1, 3), np.array([b.quat for b in bodies]).reshape(-1, 4)


def _fixture_poses(upstream: Any, simulation: Simulation) -> tuple[np.ndarray, np.ndarray]:  # noqa: ANN401
    model, bodies = upstream.sim.model._model, simulation.fixture_bodies
    return model.body_pos[bodies].copy(), model.body_quat[bodies].copy()


def _settle(simulation: Simulation, state: np.ndarray, poses: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    """Rests from a raw state as the evaluation protocol does; returns the snapshot."""
    simulation.set_state(state, poses)
    for _ in range(SETTLE_STEPS):
        simulation.step(NO_MOTION)
    return simulation.snapshot()
