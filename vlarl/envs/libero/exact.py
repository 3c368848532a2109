"""Exact stepping: upstream's sequence of solver calls and its arithmetic, bit for bit.

Per physics step of 2 ms upstream (robosuite 1.4.0) runs `mj_forward` twice, computes its controller, and runs
`mj_step`. Every one of the three solves starts from the last one's solution, so all three are needed for equal bits;
positions and velocities do not change between them, so only the first one computes what depends on those.

The controller's matrices go through numba's linear algebra where upstream's do (`opspace`, `posture_torques`, the
rotation of an action) and through numpy's where upstream's do: the two call different BLAS libraries, whose last bits
differ. For the same reason arrays keep upstream's memory order.
"""

# ruff: noqa: ANN001, ANN202
# Compiled functions get their types from the call; what each takes is said where it is called.
import math

import mujoco
import numpy as np

from vlarl.envs.libero.compiled import ARM_DOF, GRIPPER_SPEED, NULLSPACE_KP, POSITION_SCALE, ROTATION_SCALE, SUBSTEPS
from vlarl.envs.libero.library import compiled
from vlarl.envs.libero.stepping import GRIP_SITE, StaleState, joint_indices

TIMESTEP = 0.002
"""Seconds per substep, in upstream's clock of observations."""
SAMPLING_PERIOD = 1.0 / 20
"""Seconds between two observations."""
_SCALE = np.array([POSITION_SCALE] * 3 + [ROTATION_SCALE] * 3)
_KP = np.ones(3) * 150
_KD = 2 * np.sqrt(_KP)
_VIEW_FIELDS = (
    *("qpos", "qvel", "xpos", "xquat", "xmat", "xipos", "ximat", "geom_xpos", "geom_xmat", "site_xpos", "site_xmat"),
    *("cam_xpos", "cam_xmat", "light_xpos", "light_xdir", "subtree_com"),
)
"""What frames and proprioception are made from."""


@compiled
def _opspace(mass, jac, jac_pos, jac_rot):
    """Inverse task-space inertias [6, 6], [3, 3], [3, 3] and null-space projector [7, 7]."""
    inverse = np.linalg.inv(mass)
    full = np.linalg.pinv(np.dot(np.dot(jac, inverse), jac.transpose()))
    pos = np.linalg.pinv(np.dot(np.dot(jac_pos, inverse), jac_pos.transpose()))
    rot = np.linalg.pinv(np.dot(np.dot(jac_rot, inverse), jac_rot.transpose()))
    jac_bar = np.dot(np.dot(inverse, jac.transpose()), full)
    return pos, rot, np.eye(jac.shape[-1]) - np.dot(jac_bar, jac)


@compiled
def _posture_torques(mass, nullspace, target, joints, velocities, stiffness):
    damping = np.sqrt(stiffness) * 2
    return np.dot(nullspace.transpose(), np.dot(mass, stiffness * (target - joints) - damping * velocities))


@compiled
def _orientation_error(desired, current):
    """Half the sum of the axes' cross products, [3]."""
    total = np.cross(current[0:3, 0], desired[0:3, 0]) + np.cross(current[0:3, 1], desired[0:3, 1])
    return 0.5 * (total + np.cross(current[0:3, 2], desired[0:3, 2]))


@compiled
def _quaternion_matrix(quaternion):
    """Rotation matrix [3, 3] of (x, y, z, w), through single precision as upstream's."""
    w_first = quaternion.copy().astype(np.float32)[np.array([3, 0, 1, 2])]
    square = np.dot(w_first, w_first)
    w_first *= math.sqrt(2.0 / square)
    p = np.outer(w_first, w_first)
    return np.array(
        [
            [1.0 - p[2, 2] - p[3, 3], p[1, 2] - p[3, 0], p[1, 3] + p[2, 0]],
            [p[1, 2] + p[3, 0], 1.0 - p[1, 1] - p[3, 3], p[2, 3] - p[1, 0]],
            [p[1, 3] - p[2, 0], p[2, 3] + p[1, 0], 1.0 - p[1, 1] - p[2, 2]],
        ]
    )


def _turn(axis_angle: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Rotation [3, 3] turned by an axis-angle vector [3] that is not zero."""
    angle = np.linalg.norm(axis_angle)
    quaternion = np.zeros(4)
    quaternion[3] = np.cos(angle / 2.0)
    quaternion[:3] = axis_angle / angle * np.sin(angle / 2.0)
    return np.dot(_quaternion_matrix(quaternion), rotation)


class ObservationClock:
    """When within an env step upstream's observations are taken: near its end, one or two substeps early.

    Each observation happens in the substep after the one in which 50 ms, added up in floating point, have passed.
    """

    def __init__(self) -> None:
        # The observations that upstream's reset and set_init_state make count as a substep each.
        self._time = TIMESTEP + TIMESTEP
        self._is_sampled = True

    def tick(self) -> bool:
        """Counts a substep; returns whether an observation is taken after it."""
        self._time += TIMESTEP
        samples = not self._is_sampled and self._time <= SAMPLING_PERIOD
        self._is_sampled |= samples
        if self._time >= SAMPLING_PERIOD:
            self._time %= SAMPLING_PERIOD
            self._is_sampled = False
        return samples


class ExactRobot:
    """Steps one MjData of one MjModel with the Panda arm as upstream does; the interface of `stepping.Robot`."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, stale: StaleState) -> None:
        self.model, self.data, self._stale = model, data, stale
        self.goal_ori = stale.rotation.copy()
        """[3, 3] orientation the hand keeps until an action turns it."""
        self.gripper = np.zeros(1)
        """[1] gripper command, from -1 (open) to 1 (closed)."""
        self.resting = np.zeros(model.nbody, dtype=np.int64)
        """[nbody] zero: upstream solves for objects at rest too."""
        self.site = model.site(GRIP_SITE).id
        self.qpos_index, self.dof_index, self.finger_index = joint_indices(model)
        self.view = mujoco.MjData(model)
        """The moment that upstream's observation of the last env step shows."""
        self.lamp_qpos = np.zeros(model.nq)
        """[nq] positions whose lamps the view shows: upstream switches them after the observation of a step."""
        self._clock = ObservationClock()
        self._low, self._high = model.actuator_ctrlrange.T.copy()

    def begin_observing(self, env_steps: int = 0) -> None:
        """Takes the current state as observed, `env_steps` after an initial state was set."""
        self._clock = ObservationClock()
        for _ in range(env_steps * SUBSTEPS):
            self._clock.tick()
        self.lamp_qpos[:] = self.data.qpos
        self._observe()

    def _observe(self) -> None:
        self.view.time = self.data.time
        for field in _VIEW_FIELDS:
            getattr(self.view, field)[:] = getattr(self.data, field)

    def step(self, action: np.ndarray, *, is_stale: bool = False) -> None:
        """Executes one action [7] float64; `is_stale` is for the very first step after an initial state."""
        model, data = self.model, self.data
        delta = np.clip(action[:6], -1.0, 1.0) * _SCALE + 0.0
        self.lamp_qpos[:] = data.qpos
        for substep in range(SUBSTEPS):
            mujoco.mj_forward(model, data)
            if is_stale and substep == 0:
                state = self._stale_kinematics()
            else:
                mujoco.mj_forwardSkip(model, data, mujoco.mjtStage.mjSTAGE_VEL, 1)
                state = self._kinematics()
            if substep == 0:
                position, rotation = state[:2]
                goal = position + delta[:3]
                if delta[3:].any():
                    self.goal_ori[:] = _turn(delta[3:], rotation)
            torques = self._torques(goal, *state)
            data.ctrl[:ARM_DOF] = np.clip(torques, self._low[:ARM_DOF], self._high[:ARM_DOF])
            self._move_gripper(action[6])
            mujoco.mj_step2(model, data)
            if self._clock.tick():
                self._observe()

    def _kinematics(self) -> tuple[np.ndarray, ...]:
        """What upstream's controller reads.

        Grip site's position [3], rotation [3, 3], linear and angular velocity [3]; joints and their velocities [7];
        Jacobians [3, 7], [3, 7]; mass matrix [7, 7].
        """
        model, data, index = self.model, self.data, self.dof_index
        jac_pos, jac_rot = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        mujoco.mj_jacSite(model, data, jac_pos, jac_rot, self.site)
        mass = np.empty((model.nv, model.nv))
        mujoco.mj_fullM(model, mass, data.qM)
        return (
            np.array(data.site_xpos[self.site]),
            np.array(data.site_xmat[self.site].reshape([3, 3])),
            np.dot(jac_pos, data.qvel),
            np.dot(jac_rot, data.qvel),
            data.qpos[self.qpos_index],
            data.qvel[index],
            np.array(jac_pos[:, index]),
            np.array(jac_rot[:, index]),
            mass[index, :][:, index],
        )

    def _stale_kinematics(self) -> tuple[np.ndarray, ...]:
        stale, rest = self._stale, np.zeros(3)
        # Column-major, as indexing leaves the Jacobians of all other substeps.
        jac_pos, jac_rot = (np.asfortranarray(part) for part in np.split(stale.jacobian, 2))
        mass = np.asfortranarray(stale.mass)
        return stale.position, stale.rotation, rest, rest, stale.joints, np.zeros(ARM_DOF), jac_pos, jac_rot, mass

    def _torques(
        self,
        goal: np.ndarray,
        position: np.ndarray,
        rotation: np.ndarray,
        linear: np.ndarray,
        angular: np.ndarray,
        joints: np.ndarray,
        velocities: np.ndarray,
        jac_pos: np.ndarray,
        jac_rot: np.ndarray,
        mass: np.ndarray,
    ) -> np.ndarray:
        """Joint torques [7], see `_kinematics`; `goal` [3] is a position."""
        jac = np.vstack([jac_pos, jac_rot])
        force = (goal - position) * _KP + -linear * _KD
        torque = _orientation_error(self.goal_ori, rotation) * _KP + -angular * _KD
        lambda_pos, lambda_rot, nullspace = _opspace(mass, jac, jac_pos, jac_rot)
        wrench = np.concatenate([np.dot(lambda_pos, force), np.dot(lambda_rot, torque)])
        torques = np.dot(jac.T, wrench) + self.data.qfrc_bias[self.dof_index]
        torques += _posture_torques(mass, nullspace, self._stale.joints, joints, velocities, int(NULLSPACE_KP))
        return torques

    def _move_gripper(self, command: float) -> None:
        self.gripper[:] = np.clip(self.gripper + GRIPPER_SPEED * np.sign(command), -1.0, 1.0)
        low, high = self._low[ARM_DOF:], self._high[ARM_DOF:]
        # The two fingers move in opposite directions.
        fingers = np.concatenate([-self.gripper, self.gripper])
        self.data.ctrl[ARM_DOF:] = 0.5 * (high + low) + 0.5 * (high - low) * fingers
