"""LIBERO's goal predicates on a raw MuJoCo model."""

from collections.abc import Callable, Iterable
from typing import Any

import mujoco
import numpy as np

from vlarl.envs.libero.tasks import LiberoTask
from vlarl.errors import UserError

ON_DISTANCE = 0.03
"""Horizontal distance of two bodies below which one can be on the other, metres."""
UNDER_HEIGHT = 0.10
"""Height above a region in which an object counts as on it, metres."""
JOINT_TESTS: dict[str, tuple[str, bool]] = {
    "open": ("is_open", False),
    "close": ("is_close", True),
    "turnon": ("turn_on", False),
    "turnoff": ("turn_off", True),
}
"""Predicate on joints -> upstream's test of one joint position, and whether all joints have to pass or any."""


def resolve_goal(task: LiberoTask, env: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - libero's domain
    """Turns the task's predicates into numbers of the model, JSON-able, with upstream's environment as the guide.

    Sites keep their names, which `number_sites` replaces.

    Raises:
        UserError: a predicate that is not supported.
    """
    return [_resolve(task, env, predicate) for predicate in task.goal]


def resolve_lamps(env: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - libero's domain
    """Sites that upstream shows only while something is turned on (a stove's burner), JSON-able."""
    lamps = []
    for name, thing in (env.fixtures_dict | env.objects_dict).items():
        sites = [site for site, _ in getattr(thing, "object_properties", {}).get("vis_site_names", {}).values()]
        if sites and hasattr(thing, "turn_on"):
            lamps += [{"site": site, **_resolve_joints("turnon", env, name)} for site in sites]
    return lamps


def _resolve(task: LiberoTask, env: Any, predicate: tuple[str, ...]) -> dict[str, Any]:  # noqa: ANN401
    if len(predicate) == 2 and predicate[0] in JOINT_TESTS:
        return _resolve_joints(predicate[0], env, predicate[1])
    if predicate[0] not in ("on", "in") or len(predicate) != 3:
        raise UserError(
            f"{task.suite} task {task.task_id} ({task.name}) has the goal predicate {predicate[0]!r}, which is not"
            f" supported; tasks with on, in, {', '.join(JOINT_TESTS)} are"
        )
    name, subject, target = predicate
    resolved: dict[str, Any] = {"predicate": name, "object": int(env.obj_body_id[subject])}
    state = env.object_states_dict[target]
    if state.object_state_type == "site":
        region = env.object_sites_dict[target]
        resolved |= {"site": target, "size": [float(x) for x in region.size]}
        # A zone of the table belongs to no object: nothing has to be touched there.
        if name == "on" and state.parent_name is not None:
            resolved["parent"] = int(env.obj_body_id[state.parent_name])
    else:
        if name == "in":
            raise UserError(f"{task.name}: In with the object {target!r} is not supported, only with a region")
        resolved["target"] = int(env.obj_body_id[target])
    return resolved


def _resolve_joints(predicate: str, env: Any, target: str) -> dict[str, Any]:  # noqa: ANN401 - libero's domain
    """The joints of an object or of the part around a region, and the bound that upstream compares them with."""
    state = env.object_states_dict[target]
    if state.object_state_type == "site":
        thing, joints = env.get_object(state.parent_name), env.object_sites_dict[target].joints
    else:
        thing = env.get_object(target)
        joints = thing.joints
    test, is_all = JOINT_TESTS[predicate]
    ranges = thing.object_properties["articulation"].values()
    bound, is_lower = _find_bound(getattr(thing, test), {float(limit) for pair in ranges for limit in pair})
    return {
        "predicate": predicate,
        "joints": [int(env.sim.model.get_joint_qpos_addr(joint)) for joint in joints],
        "bound": bound,
        "is_lower": is_lower,
        "is_all": is_all,
    }


def _find_bound(test: Callable[[float], bool], limits: Iterable[float]) -> tuple[float, bool]:
    """Finds b such that test(q) is q >= b (returns b, True) or q <= b (b, False).

    Upstream compares with one end of one of the object's ranges; each kind of object has its own end and direction.

    Raises:
        UserError: no limit is the bound, which means an unknown version of the package.
    """
    for limit in limits:
        below, above = float(np.nextafter(limit, -np.inf)), float(np.nextafter(limit, np.inf))
        if test(below) != test(above):
            passing = [position for position in (below, limit, above) if test(position)]
            return (min(passing), True) if test(above) else (max(passing), False)
    raise UserError("LIBERO compares a joint in an unknown way: install the versions of constraints.txt")


def number_sites(goal: list[dict[str, Any]], model: mujoco.MjModel) -> list[dict[str, Any]]:
    """The goal with the numbers of its sites in the place of their names."""
    return [p | {"site": model.site(p["site"]).id} if "site" in p else p for p in goal]


def goal_reached(goal: list[dict[str, Any]], model: mujoco.MjModel, data: mujoco.MjData) -> bool:
    """True when every predicate holds in the last computed kinematics and contacts, as upstream reads them."""
    return all(_holds(predicate, model, data) for predicate in goal)


def unmet_goals(goal: list[dict[str, Any]], model: mujoco.MjModel, data: mujoco.MjData) -> list[int]:
    """Numbers of the predicates that do not hold in the last computed kinematics and contacts."""
    return [number for number, predicate in enumerate(goal) if not _holds(predicate, model, data)]


def goal_body(predicate: dict[str, Any], model: mujoco.MjModel) -> int:
    """The body that a predicate is about: the object, or the part on the first of the joints."""
    if "joints" not in predicate:
        return predicate["object"]
    return int(model.jnt_bodyid[np.flatnonzero(model.jnt_qposadr == predicate["joints"][0])[0]])


def joints_pass(predicate: dict[str, Any], qpos: np.ndarray) -> bool:
    """True if the joints of a predicate from `JOINT_TESTS` are beyond its bound; qpos [nq]."""
    positions = qpos[predicate["joints"]]
    passing = positions >= predicate["bound"] if predicate["is_lower"] else positions <= predicate["bound"]
    return bool(passing.all() if predicate["is_all"] else passing.any())


def _holds(predicate: dict[str, Any], model: mujoco.MjModel, data: mujoco.MjData) -> bool:
    if "joints" in predicate:
        return joints_pass(predicate, data.qpos)
    position = data.xpos[predicate["object"]]
    if "site" not in predicate:
        target = data.xpos[predicate["target"]]
        distance = np.hypot(*(position[:2] - target[:2]))
        return bool(
            target[2] <= position[2]
            and distance < ON_DISTANCE
            and _in_contact(predicate["object"], predicate["target"], model, data)
        )
    # A number is found in a tenth of the time of a name, and this is asked in every env step.
    center, rotation = data.site_xpos[predicate["site"]], data.site_xmat[predicate["site"]].reshape(3, 3)
    if predicate["predicate"] == "in":
        extent = np.abs(rotation @ np.array(predicate["size"]))
        low, high = center - extent, center + extent
        low[2] -= 0.01
        return bool((position > low).all() and (position < high).all())
    width, depth, height = predicate["size"]
    x, y, z = (rotation @ (position - center)).tolist()
    above = height - 0.005 < z < height + UNDER_HEIGHT and abs(x) < width and abs(y) < depth
    return above and ("parent" not in predicate or _in_contact(predicate["object"], predicate["parent"], model, data))


def _in_contact(one: int, other: int, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
    """True if any geoms of the two top-level bodies touch."""
    if data.ncon == 0:
        return False
    roots = model.body_rootid[model.geom_bodyid[data.contact.geom[: data.ncon]]]
    roots = np.sort(roots, axis=1)
    return bool((roots == sorted((one, other))).all(axis=1).any())
