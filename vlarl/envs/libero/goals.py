"""LIBERO's goal predicates on a raw MuJoCo model."""

from typing import Any

import mujoco
import numpy as np

from vlarl.envs.libero.tasks import LiberoTask
from vlarl.errors import UserError

ON_DISTANCE = 0.03
"""Horizontal distance of two bodies below which one can be on the other, metres."""
UNDER_HEIGHT = 0.10
"""Height above a region in which an object counts as on it, metres."""


def resolve_goal(task: LiberoTask, env: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - libero's domain
    """Turns the task's predicates into numbers of the model, JSON-able, with upstream's environment as the guide.

    Raises:
        UserError: a predicate that is not supported.
    """
    return [_resolve(task, env, predicate) for predicate in task.goal]


def _resolve(task: LiberoTask, env: Any, predicate: tuple[str, ...]) -> dict[str, Any]:  # noqa: ANN401
    if predicate[0] not in ("on", "in") or len(predicate) != 3:
        raise UserError(
            f"{task.suite} task {task.task_id} ({task.name}) has the goal predicate {predicate[0]!r}, which is not"
            " supported; tasks with On and In are"
        )
    name, subject, target = predicate
    resolved: dict[str, Any] = {"predicate": name, "object": int(env.obj_body_id[subject])}
    state = env.object_states_dict[target]
    if state.object_state_type == "site":
        region = env.object_sites_dict[target]
        resolved |= {"site": target, "size": [float(x) for x in region.size]}
        if name == "on":
            resolved["parent"] = int(env.obj_body_id[state.parent_name])
    else:
        if name == "in":
            raise UserError(f"{task.name}: In with the object {target!r} is not supported, only with a region")
        resolved["target"] = int(env.obj_body_id[target])
    return resolved


def goal_reached(goal: list[dict[str, Any]], model: mujoco.MjModel, data: mujoco.MjData) -> bool:
    """True when every predicate holds in the last computed kinematics and contacts, as upstream reads them."""
    return all(_holds(predicate, model, data) for predicate in goal)


def _holds(predicate: dict[str, Any], model: mujoco.MjModel, data: mujoco.MjData) -> bool:
    position = data.xpos[predicate["object"]]
    if "site" not in predicate:
        target = data.xpos[predicate["target"]]
        distance = np.hypot(*(position[:2] - target[:2]))
        return bool(
            target[2] <= position[2]
            and distance < ON_DISTANCE
            and _in_contact(predicate["object"], predicate["target"], model, data)
        )
    site = model.site(predicate["site"]).id
    center, rotation = data.site_xpos[site], data.site_xmat[site].reshape(3, 3)
    size = np.array(predicate["size"])
    if predicate["predicate"] == "in":
        extent = np.abs(rotation @ size)
        low, high = center - extent, center + extent
        low[2] -= 0.01
        return bool((position > low).all() and (position < high).all())
    offset = rotation @ (position - center)
    above = size[2] - 0.005 < offset[2] < size[2] + UNDER_HEIGHT and (np.abs(offset[:2]) < size[:2]).all()
    return bool(above and _in_contact(predicate["object"], predicate["parent"], model, data))


def _in_contact(one: int, other: int, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
    """True if any geoms of the two top-level bodies touch."""
    if data.ncon == 0:
        return False
    roots = model.body_rootid[model.geom_bodyid[data.contact.geom[: data.ncon]]]
    roots = np.sort(roots, axis=1)
    return bool((roots == sorted((one, other))).all(axis=1).any())
