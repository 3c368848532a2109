"""The compiled env step of the fast stepping; contacts.py, culling.py and library.py belong to it.

An env step is one call: 25 physics substeps under LIBERO's OSC_POSE controller (robosuite's operational space
controller, Khatib 1987, with LIBERO's gains). Upstream solves the dynamics three times per substep (forward, forward,
step); here once, which leaves the motion the same up to the constraint solver's warm start.

The controller, without allocations or LAPACK: with J = [Jp; Jr], x = M^-1 J^T and Lambda = (J x)^-1, upstream's null
space torque N^T M v, N = I - x Lambda J, is M v - J^T Lambda J v, because x^T M = J. One factorisation of M and one of
J x are all that is needed; the inverses for position and rotation are those of the diagonal blocks of J x.
"""

# ruff: noqa: ANN001, ANN201, ANN202
# Compiled functions get their types from the call; what each takes is said there.
import math

import numpy as np

from vlarl.envs.libero import library
from vlarl.envs.libero.constraints import solve_constraints
from vlarl.envs.libero.contacts import (
    balance_gravity,
    find_contacts,
    find_velocities,
    leave_out_resting,
    place_bodies,
)
from vlarl.envs.libero.library import compiled, compiled_bare

SUBSTEPS = 25
"""Physics steps of 2 ms per env step: control at 20 Hz."""
POSITION_SCALE = 0.05
"""Metres per unit of action."""
ROTATION_SCALE = 0.5
"""Radians per unit of action."""
GRIPPER_SPEED = 0.01
"""Change of the gripper's command per substep, of a range from -1 to 1."""
ARM_DOF = 7
KP = 150.0
KD = 2.0 * math.sqrt(KP)
NULLSPACE_KP = 10.0
NULLSPACE_KD = 2.0 * math.sqrt(NULLSPACE_KP)


@compiled_bare
def _factorise(matrix, size):
    """Cholesky factor of the lower triangle, in place; the diagonal holds the inverses of the factor's."""
    for i in range(size):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= matrix[i, k] * matrix[j, k]
            matrix[i, j] = 1.0 / math.sqrt(total) if i == j else total * matrix[j, j]


@compiled_bare
def _solve(factor, x):
    """Solves L L^T x = x in place, with what _factorise left."""
    size = len(x)
    for i in range(size):
        for k in range(i):
            x[i] -= factor[i, k] * x[k]
        x[i] *= factor[i, i]
    for i in range(size - 1, -1, -1):
        for k in range(i + 1, size):
            x[i] -= factor[k, i] * x[k]
        x[i] *= factor[i, i]


@compiled
def _write_projected_inverse(jac, mass, projected):
    """Writes J M^-1 J^T into projected [6, 6]."""
    factor, half = mass.copy(), np.empty((6, ARM_DOF))
    _factorise(factor, ARM_DOF)
    for row in range(6):
        # half[row] is L^-1 times that row of J.
        for i in range(ARM_DOF):
            total = jac[row, i]
            for k in range(i):
                total -= factor[i, k] * half[row, k]
            half[row, i] = total * factor[i, i]
        for other in range(row + 1):
            total = 0.0
            for k in range(ARM_DOF):
                total += half[row, k] * half[other, k]
            projected[row, other] = projected[other, row] = total


@compiled
def orientation_error(desired, current, error):
    """Writes half the sum of the cross products of the columns of two rotations [3, 3] into error [3]."""
    error[:] = 0.0
    for c in range(3):
        error[0] += 0.5 * (current[1, c] * desired[2, c] - current[2, c] * desired[1, c])
        error[1] += 0.5 * (current[2, c] * desired[0, c] - current[0, c] * desired[2, c])
        error[2] += 0.5 * (current[0, c] * desired[1, c] - current[1, c] * desired[0, c])


@compiled
def write_torques(goal_pos, goal_ori, pos, rot, jac, mass, joints, velocities, default_joints, bias, torques):
    """Writes the arm's torques [7] before their limits; goal and pose [3] and [3, 3], jac [6, 7], mass [7, 7]."""
    projected, block = np.empty((6, 6)), np.empty((3, 3))
    wrench, null, posture = np.empty(6), np.empty(6), np.empty(ARM_DOF)
    _write_projected_inverse(jac, mass, projected)
    for i in range(ARM_DOF):
        posture[i] = NULLSPACE_KP * (default_joints[i] - joints[i]) - NULLSPACE_KD * velocities[i]
    orientation_error(goal_ori, rot, wrench[3:])
    for i in range(3):
        wrench[i] = goal_pos[i] - pos[i]
    for row in range(6):
        wrench[row] *= KP
        null[row] = 0.0
        for i in range(ARM_DOF):
            wrench[row] -= KD * jac[row, i] * velocities[i]
            null[row] += jac[row, i] * posture[i]
    for first in (0, 3):
        block[:] = projected[first : first + 3, first : first + 3]
        _factorise(block, 3)
        _solve(block, wrench[first : first + 3])
    _factorise(projected, 6)
    _solve(projected, null)
    for i in range(ARM_DOF):
        torques[i] = bias[i]
        for row in range(6):
            torques[i] += jac[row, i] * (wrench[row] - null[row])
        for k in range(ARM_DOF):
            torques[i] += mass[i, k] * posture[k]


@compiled_bare
def run_first_half(model, data, qvel, bias, objects, is_last):
    """mj_step1 without the objects at rest: everything up to the controls; `objects` is contacts.Objects.

    Contacts are complete, and cameras and lights placed, if `is_last`, for whoever looks then; the motion is the same
    to the bit if not.
    """
    library.check_pos(model, data)
    library.check_vel(model, data)
    place_bodies(model, data, objects.near, is_last)
    library.com_pos(model, data)
    if is_last:
        library.camlight(model, data)
    library.crb(model, data)
    library.factor_m(model, data)
    find_contacts(model, data, objects, is_last)
    leave_out_resting(objects, qvel)
    library.make_constraint(model, data)
    library.project_constraint(model, data)
    library.transmission(model, data)
    find_velocities(model, data, objects)
    balance_gravity(objects, bias)


@compiled_bare
def run_second_half(model, data, constraints):
    """mj_step2 without sensors and with our own solver: from the controls to the next state."""
    library.fwd_actuation(model, data)
    library.fwd_acceleration(model, data)
    solve_constraints(model, data, constraints)
    library.check_acc(model, data)
    library.euler(model, data)


@compiled
def _rotate(axis_angle, rotation):
    """Rotation matrix of an axis-angle vector (Rodrigues) times `rotation`."""
    angle = math.sqrt(np.sum(axis_angle * axis_angle))
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


@compiled_bare
def _read_arm(qpos, qvel, site_xpos, site_xmat, qm, mass_index, jac_pos, jac_rot, site, qpos_index, dof_index, arm):
    """Copies the arm's part of MuJoCo's present arrays into `arm`."""
    pos, rot, jac, mass, joints, velocities = arm
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
            mass[i, j] = qm[mass_index[i, j]]


@compiled
def _command_fingers(ctrl, ctrl_range, gripper, direction):
    """Moves the gripper's command [1] towards open or closed and writes both fingers' controls."""
    gripper[0] = min(1.0, max(-1.0, gripper[0] + GRIPPER_SPEED * np.sign(direction)))
    for finger in range(2):
        low, high = ctrl_range[ARM_DOF + finger]
        # The two fingers move in opposite directions.
        command = -gripper[0] if finger == 0 else gripper[0]
        ctrl[ARM_DOF + finger] = 0.5 * (high + low) + 0.5 * (high - low) * command


@compiled
def run_env_step(
    model, data, qm, site,
    qpos, qvel, ctrl, bias, site_xpos, site_xmat,
    qpos_index, dof_index, mass_index, ctrl_range, action, goal_ori, gripper,
    jac_pos, jac_rot,
    stale_pos, stale_rot, stale_jac, stale_mass, default_joints,
    objects, constraints, is_stale,
):  # fmt: skip
    """Runs the substeps; changes goal_ori [3, 3] and gripper [1] in place."""
    joints, velocities, arm_bias = np.empty(ARM_DOF), np.empty(ARM_DOF), np.empty(ARM_DOF)
    jac, mass = np.empty((6, ARM_DOF)), np.empty((ARM_DOF, ARM_DOF))
    torques = np.empty(ARM_DOF)
    pos, rot, goal_pos = np.empty(3), np.empty((3, 3)), np.empty(3)
    for substep in range(SUBSTEPS):
        # Goals and cameras look between env steps.
        run_first_half(model, data, qvel, bias, objects, substep == SUBSTEPS - 1)
        for i in range(ARM_DOF):
            arm_bias[i] = bias[dof_index[i]]
        if is_stale and substep == 0:
            pos[:], rot[:], jac[:], mass[:], joints[:] = stale_pos, stale_rot, stale_jac, stale_mass, default_joints
            velocities[:] = 0.0
        else:
            library.jac_site(model, data, jac_pos.ctypes.data, jac_rot.ctypes.data, site)
            arm = (pos, rot, jac, mass, joints, velocities)
            _read_arm(
                qpos, qvel, site_xpos, site_xmat, qm, mass_index, jac_pos, jac_rot, site, qpos_index, dof_index, arm
            )
        if substep == 0:
            for i in range(3):
                goal_pos[i] = pos[i] + POSITION_SCALE * min(1.0, max(-1.0, action[i]))
            turn = ROTATION_SCALE * np.minimum(1.0, np.maximum(-1.0, action[3:6]))
            if turn[0] != 0.0 or turn[1] != 0.0 or turn[2] != 0.0:
                goal_ori[:] = _rotate(turn, rot)
        write_torques(goal_pos, goal_ori, pos, rot, jac, mass, joints, velocities, default_joints, arm_bias, torques)
        for i in range(ARM_DOF):
            ctrl[i] = min(ctrl_range[i, 1], max(ctrl_range[i, 0], torques[i]))
        _command_fingers(ctrl, ctrl_range, gripper, action[6])
        run_second_half(model, data, constraints)
