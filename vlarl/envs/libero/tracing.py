"""How an episode went: its actions executed again, without rendering."""

from collections.abc import Sequence

import mujoco
import numpy as np

from vlarl.envs.libero.goals import goal_body, unmet_goals
from vlarl.envs.libero.simulation import NO_MOTION, Simulation
from vlarl.types import EpisodeTrace


def trace(simulation: Simulation, actions: Sequence[np.ndarray] | np.ndarray) -> EpisodeTrace:
    """Executes the actions [T, 7] of an episode that fails, from its start.

    Raises:
        ValueError: the goal is met at the end, so it did not fail.
    """
    model, data, goal = simulation.model, simulation.data, simulation.scene.goal
    bodies = [goal_body(predicate, model) for predicate in goal]
    geoms = [_solid_geoms(model, body) for body in bodies]
    heights = data.xpos[bodies, 2].copy()
    rows = []
    for action in actions:
        simulation.step(action)
        hand = data.site_xpos[simulation.robot.site]
        distances = [np.linalg.norm(data.geom_xpos[g] - hand, axis=1).min() for g in geoms]
        rows.append((distances, data.xpos[bodies, 2] - heights))
    unmet = unmet_goals(goal, model, data)
    if not unmet:
        raise ValueError("the episode did not fail")
    is_carried = "joints" not in goal[unmet[0]]
    distance, height = (np.array([row[part][unmet[0]] for row in rows]) for part in (0, 1))
    # A shift can delay what was commanded.
    executed = [NO_MOTION] * simulation.scene.delay + list(actions)
    return EpisodeTrace(
        distance=distance,
        height=height if is_carried else np.zeros_like(height),
        closing=np.array([action[6] > 0 for action in executed[: len(actions)]]),
        is_carried=is_carried,
    )


def _solid_geoms(model: mujoco.MjModel, body: int) -> np.ndarray:
    """Numbers of the geoms that can be touched, of a body and what is welded to it."""
    solid = (model.geom_contype > 0) | (model.geom_conaffinity > 0)
    own = model.body_weldid[model.geom_bodyid] == model.body_weldid[body]
    return np.flatnonzero(solid & own)
