"""Physical shifts of a scene: what differs on a real robot, without one."""

import mujoco
import numpy as np

from vlarl.configs.shift import Shift
from vlarl.envs.libero.tasks import CAMERA


def apply_shift(model: mujoco.MjModel, shift: Shift) -> None:
    """Changes the model; a delay changes nothing in it."""
    change = {"camera": _move_camera, "light": _scale_light, "friction": _scale_friction, "mass": _scale_mass}
    if shift.kind in change:
        change[shift.kind](model, shift.strength)


def _move_camera(model: mujoco.MjModel, metres: float) -> None:
    camera = model.camera(CAMERA).id
    axes = np.empty(9)
    mujoco.mju_quat2Mat(axes, model.cam_quat[camera])
    model.cam_pos[camera] += metres * axes.reshape(3, 3)[:, 0]


def _scale_light(model: mujoco.MjModel, factor: float) -> None:
    headlight = model.vis.headlight
    for colours in (
        *(model.light_ambient, model.light_diffuse, model.light_specular),
        *(headlight.ambient, headlight.diffuse, headlight.specular),
    ):
        colours[:] *= factor


def _scale_friction(model: mujoco.MjModel, factor: float) -> None:
    # A contact takes the larger of its two geoms' coefficients, so both change.
    model.geom_friction[:, 0] *= factor


def _scale_mass(model: mujoco.MjModel, factor: float) -> None:
    free = model.jnt_bodyid[model.jnt_type == mujoco.mjtJoint.mjJNT_FREE]
    of_objects = np.isin(model.body_rootid, free)
    model.body_mass[of_objects] *= factor
    model.body_inertia[of_objects] *= factor
    # What MuJoCo derives from masses: subtree masses and the constraints' inverse weights.
    mujoco.mj_setConst(model, mujoco.MjData(model))
