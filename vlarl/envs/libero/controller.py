"""Robosuite's operational space controller (Khatib 1987) with LIBERO's gains, without allocations or LAPACK.

With J = [Jp; Jr], x = M^-1 J^T and Lambda = (J x)^-1, upstream's null space torque N^T p, N = I - x Lambda J, of
p = M v is M v - J^T Lambda J v, because x^T M = J: one factorisation of M and one of J x are all that is needed, and
the inverses for position and rotation are those of the diagonal blocks of J x.
"""

# ruff: noqa: ANN001, ANN201, ANN202
# Compiled functions get their types from the call; what each takes is said there.
import numba
import numpy as np

ARM_DOF = 7
KP = 150.0
KD = 2.0 * np.sqrt(KP)
NULLSPACE_KP = 10.0
NULLSPACE_KD = 2.0 * np.sqrt(NULLSPACE_KP)


@numba.njit(cache=True, nogil=True)
def _factorise(matrix, size):
    """Cholesky factor of the lower triangle, in place; the diagonal holds the inverses of the factor's."""
    for i in range(size):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= matrix[i, k] * matrix[j, k]
            matrix[i, j] = 1.0 / np.sqrt(total) if i == j else total * matrix[j, j]


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
def orientation_error(desired, current, error):
    """Writes half the sum of the cross products of the columns of two rotations [3, 3] into error [3]."""
    error[:] = 0.0
    for c in range(3):
        error[0] += 0.5 * (current[1, c] * desired[2, c] - current[2, c] * desired[1, c])
        error[1] += 0.5 * (current[2, c] * desired[0, c] - current[0, c] * desired[2, c])
        error[2] += 0.5 * (current[0, c] * desired[1, c] - current[1, c] * desired[0, c])


@numba.njit(cache=True, nogil=True)
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
