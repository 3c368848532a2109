"""One compiled call per env step: 25 physics substeps under LIBERO's OSC_POSE controller.

The controller is robosuite's operational space controller (Khatib 1987) with LIBERO's gains. Upstream solves the
dynamics three times per substep (forward, forward, step); here `mj_step1`, controller, `mj_step2` solve it once, which
leaves the motion the same up to the constraint solver's warm start.
"""

# ruff: noqa: ANN001, ANN202
# Compiled functions get their types from the call; what each takes is said where it is called.
import ctypes
from dataclasses import dataclass
from pathlib import Path

import llvmlite.binding
import mujoco
import numba
import numpy as np
from numba import types

from vlarl.envs.libero.controller import ARM_DOF, write_torques
from vlarl.envs.libero.resting import Objects, balance_gravity, leave_out_resting

SUBSTEPS = 25
"""Physics steps of 2 ms per env step: control at 20 Hz."""
POSITION_SCALE = 0.05
"""Metres per unit of action."""
ROTATION_SCALE = 0.5
"""Radians per unit of action."""
GRIPPER_SPEED = 0.01
"""Change of the gripper's command per substep, of a range from -1 to 1."""
GRIP_SITE = "gripper0_grip_site"


def _load_library() -> None:
    """Makes libmujoco's functions known to the compiler, by name, so that the machine code can be cached on disk."""
    folder = Path(mujoco.__file__).parent
    libraries = sorted(folder.glob("libmujoco.so*")) + sorted(folder.glob("libmujoco*.dylib"))
    llvmlite.binding.load_library_permanently(str(libraries[0]))
    ctypes.CDLL(str(libraries[0]))


_load_library()
_POINTER = types.uintp


def _stage(name: str) -> types.ExternalFunction:
    """A function of MuJoCo on (model, data)."""
    return types.ExternalFunction(name, types.void(_POINTER, _POINTER))


# The parts of mj_step1 that the scenes need; between the collisions and their constraints resting objects are left out.
_mj_check_pos, _mj_check_vel = _stage("mj_checkPos"), _stage("mj_checkVel")
_mj_kinematics, _mj_com_pos, _mj_camlight = _stage("mj_kinematics"), _stage("mj_comPos"), _stage("mj_camlight")
_mj_crb, _mj_factor_m, _mj_collision = _stage("mj_crb"), _stage("mj_factorM"), _stage("mj_collision")
_mj_make_constraint, _mj_project_constraint = _stage("mj_makeConstraint"), _stage("mj_projectConstraint")
_mj_transmission, _mj_fwd_velocity = _stage("mj_transmission"), _stage("mj_fwdVelocity")
_mj_step2 = _stage("mj_step2")
_mj_full_m = types.ExternalFunction("mj_fullM", types.void(_POINTER, _POINTER, _POINTER))
_mj_jac_site = types.ExternalFunction("mj_jacSite", types.void(_POINTER, _POINTER, _POINTER, _POINTER, types.int32))


@dataclass
class StaleState:
    """What upstream's controller still sees in an episode's first substep: the robot's default pose.

    After a reset upstream sets the initial state without updating the controller. Part of LIBERO as it is.
    """

    position: np.ndarray
    """[3] grip site."""
    rotation: np.ndarray
    """[3, 3] grip site."""
    jacobian: np.ndarray
    """[6, 7]."""
    mass: np.ndarray
    """[7, 7]."""
    joints: np.ndarray
    """[7] default arm joints, also the null space's target."""


@numba.njit(cache=True, nogil=True)
def _rotate(axis_angle, rotation):
    """Rotation matrix of an axis-angle vector (Rodrigues) times `rotation`."""
    angle = np.sqrt(np.sum(axis_angle * axis_angle))
    if angle == 0.0:
        return rotation.copy()
    x, y, z = axis_angle / angle
    s, c = np.sin(angle), np.cos(angle)
    t = 1.0 - c
    matrix = np.array(
        [
            [t * x * x + c, t * x * y - z * s, t * x * z + y * s],
            [t * x * y + z * s, t * y * y + c, t * y * z - x * s],
            [t * x * z - y * s, t * y * z + x * s, t * z * z + c],
        ]
    )
    return matrix @ rotation


@numba.njit(cache=True, nogil=True)
def _env_step(
    model,
    data,
    qm,
    site,
    qpos,
    qvel,
    ctrl,
    bias,
    site_xpos,
    site_xmat,
    qpos_index,
    dof_index,
    ctrl_range,
    action,
    goal_ori,
    gripper,
    full_mass,
    jac_pos,
    jac_rot,
    stale_pos,
    stale_rot,
    stale_jac,
    stale_mass,
    default_joints,
    num_contacts,
    contacts,
    geom_body,
    kind,
    free_bodies,
    first_dof,
    resting,
    applied,
    is_stale,
):
    """Runs the substeps; changes goal_ori [3, 3] and gripper [1] in place."""
    joints, velocities, arm_bias = np.empty(ARM_DOF), np.empty(ARM_DOF), np.empty(ARM_DOF)
    jac, mass = np.empty((6, ARM_DOF)), np.empty((ARM_DOF, ARM_DOF))
    torques = np.empty(ARM_DOF)
    pos, rot, goal_pos = np.empty(3), np.empty((3, 3)), np.empty(3)
    for substep in range(SUBSTEPS):
        _mj_check_pos(model, data)
        _mj_check_vel(model, data)
        _mj_kinematics(model, data)
        _mj_com_pos(model, data)
        _mj_camlight(model, data)
        _mj_crb(model, data)
        _mj_factor_m(model, data)
        _mj_collision(model, data)
        leave_out_resting(num_contacts, contacts, geom_body, kind, free_bodies, first_dof, resting, qvel)
        _mj_make_constraint(model, data)
        _mj_project_constraint(model, data)
        _mj_transmission(model, data)
        _mj_fwd_velocity(model, data)
        balance_gravity(free_bodies, first_dof, resting, bias, applied)
        for i in range(ARM_DOF):
            arm_bias[i] = bias[dof_index[i]]
        if is_stale and substep == 0:
            pos[:], rot[:], jac[:], mass[:], joints[:] = stale_pos, stale_rot, stale_jac, stale_mass, default_joints
            velocities[:] = 0.0
        else:
            _mj_full_m(model, full_mass.ctypes.data, qm)
            _mj_jac_site(model, data, jac_pos.ctypes.data, jac_rot.ctypes.data, site)
            for i in range(3):
                pos[i] = site_xpos[site, i]
                for j in range(3):
                    rot[i, j] = site_xmat[site, 3 * i + j]
            for i in range(ARM_DOF):
                joints[i] = qpos[qpos_index[i]]
                velocities[i] = qvel[dof_index[i]]
                for j in range(3):
                    jac[j, i] = jac_pos[j, dof_index[i]]
                    jac[3 + j, i] = jac_rot[j, dof_index[i]]
                for j in range(ARM_DOF):
                    mass[i, j] = full_mass[dof_index[i], dof_index[j]]
        if substep == 0:
            for i in range(3):
                goal_pos[i] = pos[i] + POSITION_SCALE * min(1.0, max(-1.0, action[i]))
            turn = ROTATION_SCALE * np.minimum(1.0, np.maximum(-1.0, action[3:6]))
            if turn[0] != 0.0 or turn[1] != 0.0 or turn[2] != 0.0:
                goal_ori[:] = _rotate(turn, rot)
        write_torques(goal_pos, goal_ori, pos, rot, jac, mass, joints, velocities, default_joints, arm_bias, torques)
        for i in range(ARM_DOF):
            ctrl[i] = min(ctrl_range[i, 1], max(ctrl_range[i, 0], torques[i]))
        gripper[0] = min(1.0, max(-1.0, gripper[0] + GRIPPER_SPEED * np.sign(action[6])))
        for finger in range(2):
            low, high = ctrl_range[ARM_DOF + finger]
            # The two fingers move in opposite directions.
            command = -gripper[0] if finger == 0 else gripper[0]
            ctrl[ARM_DOF + finger] = 0.5 * (high + low) + 0.5 * (high - low) * command
        _mj_step2(model, data)


class Robot:
    """Steps one MjData of one MjModel with the Panda arm; several robots may share a model."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, stale: StaleState) -> None:
        self.model, self.data, self._stale = model, data, stale
        self.goal_ori = stale.rotation.copy()
        """[3, 3] orientation the hand keeps until an action turns it."""
        self.gripper = np.zeros(1)
        """[1] gripper command, from -1 (open) to 1 (closed)."""
        self.site = model.site(GRIP_SITE).id
        self.qpos_index, self.dof_index, self.finger_index = joint_indices(model)
        self.objects = Objects(model, data)
        self._full_mass = np.zeros((model.nv, model.nv))
        self._jac_pos, self._jac_rot = np.zeros((3, model.nv)), np.zeros((3, model.nv))

    def step(self, action: np.ndarray, *, is_stale: bool = False) -> None:
        """Executes one action [7] float64; `is_stale` is for the very first step after an initial state."""
        data, stale, objects = self.data, self._stale, self.objects
        _env_step(
            self.model._address, data._address, data.qM.ctypes.data, self.site,
            data.qpos, data.qvel, data.ctrl, data.qfrc_bias, data.site_xpos, data.site_xmat,
            self.qpos_index, self.dof_index, self.model.actuator_ctrlrange, action, self.goal_ori, self.gripper,
            self._full_mass, self._jac_pos, self._jac_rot,
            stale.position, stale.rotation, stale.jacobian, stale.mass, stale.joints,
            objects.num_contacts, objects.contacts, objects.geom_body, objects.kind, objects.free_bodies,
            objects.first_dof, objects.resting, data.qfrc_applied, is_stale,
        )  # fmt: skip


def joint_indices(model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Addresses of the arm's 7 joints in qpos and in qvel, and of the 2 finger joints in qpos, int64."""
    arm = [model.joint(f"robot0_joint{i + 1}") for i in range(ARM_DOF)]
    fingers = [model.joint(f"gripper0_finger_joint{i + 1}") for i in range(2)]
    return (
        np.array([j.qposadr[0] for j in arm]),
        np.array([j.dofadr[0] for j in arm]),
        np.array([j.qposadr[0] for j in fingers]),
    )


def make_stale_state(model: mujoco.MjModel, joints: np.ndarray) -> StaleState:
    """Computes the controller's view of the default pose: arm joints [7], fingers where the model has them."""
    data = mujoco.MjData(model)
    qpos_index, dof_index, _ = joint_indices(model)
    data.qpos[qpos_index] = joints
    mujoco.mj_forward(model, data)
    mass, jac_pos, jac_rot = np.zeros((model.nv, model.nv)), np.zeros((3, model.nv)), np.zeros((3, model.nv))
    mujoco.mj_fullM(model, mass, data.qM)
    site = model.site(GRIP_SITE).id
    mujoco.mj_jacSite(model, data, jac_pos, jac_rot, site)
    return StaleState(
        position=data.site_xpos[site].copy(),
        rotation=data.site_xmat[site].reshape(3, 3).copy(),
        jacobian=np.concatenate([jac_pos, jac_rot])[:, dof_index].copy(),
        mass=mass[np.ix_(dof_index, dof_index)].copy(),
        joints=np.array(joints, dtype=float),
    )
