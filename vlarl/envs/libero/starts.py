"""Start states: LIBERO's fixed ones for evaluation, upstream resets for training and validation, all settled."""

from typing import Any

import numpy as np

from vlarl.envs.libero.cache import TaskFiles
from vlarl.envs.libero.simulation import Simulation
from vlarl.envs.libero.tasks import NUM_INIT_STATES, SETTLE_STEPS, LiberoTask
from vlarl.types import Split

NUM_STARTS: dict[Split, int] = {"train": 200, "validation": 50, "evaluation": NUM_INIT_STATES}
JOINT_NOISE = 0.02
"""Standard deviation of the arm's joints in LIBERO's fixed initial states, radians; a reset draws none."""
NO_MOTION = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])


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
    for number, split in enumerate(("train", "validation")):
        # robosuite draws from numpy's global generator.
        np.random.seed(np.random.SeedSequence([seed, task.task_id, number]).generate_state(1)[0])
        noise = np.random.default_rng([seed, task.task_id, number])
        drawn[split] = [_draw(upstream, simulation, noise) for _ in range(NUM_STARTS[split])]
    arrays = {}
    for split, states in drawn.items():
        snapshots = [_settle(simulation, state, poses) for state, poses in states]
        for field in snapshots[0]:
            arrays[f"{split}/{field}"] = np.stack([snapshot[field] for snapshot in snapshots])
    return arrays


def _draw(upstream: Any, simulation: Simulation, rng: np.random.Generator) -> tuple[np.ndarray, tuple]:  # noqa: ANN401
    upstream.reset()
    state = upstream.sim.get_state().flatten()
    # The state is time, qpos, qvel.
    state[1 + simulation.robot.qpos_index] += rng.normal(0.0, JOINT_NOISE, size=len(simulation.robot.qpos_index))
    return state, _fixture_poses(upstream, simulation)


def _fixture_poses(upstream: Any, simulation: Simulation) -> tuple[np.ndarray, np.ndarray]:  # noqa: ANN401
    model, bodies = upstream.sim.model._model, simulation.fixture_bodies
    return model.body_pos[bodies].copy(), model.body_quat[bodies].copy()


def _settle(simulation: Simulation, state: np.ndarray, poses: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    """Rests from a raw state as the evaluation protocol does; returns the snapshot."""
    simulation.set_state(state, poses)
    for _ in range(SETTLE_STEPS):
        simulation.step(NO_MOTION)
    return simulation.snapshot()
