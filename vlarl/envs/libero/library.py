"""Functions of libmujoco that compiled code calls."""

import ctypes
from pathlib import Path

import llvmlite.binding
import mujoco
import numba
from numba import types

from vlarl.envs.libero.machine_code import keep_machine_code


def _load_library() -> None:
    """Makes libmujoco's functions known to the compiler, by name, so that the machine code can be cached on disk."""
    folder = Path(mujoco.__file__).parent
    libraries = sorted(folder.glob("libmujoco.so*")) + sorted(folder.glob("libmujoco*.dylib"))
    llvmlite.binding.load_library_permanently(str(libraries[0]))
    ctypes.CDLL(str(libraries[0]))


_load_library()
keep_machine_code()
_POINTER = types.uintp
compiled = numba.njit(cache=True, nogil=True, error_model="numpy")
"""Decorator of the compiled functions."""
compiled_bare = numba.njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
"""The same for functions that make no arrays; counting references to those given took a quarter of the time."""

compiled_loose = numba.njit(
    cache=True, nogil=True, error_model="numpy", _nrt=False, fastmath={"reassoc", "contract", "nsz"}
)
"""Bare, and sums may be taken in any order, so that the processor adds several numbers at a time."""


def _stage(name: str) -> types.ExternalFunction:
    """A function of MuJoCo on (model, data)."""
    return types.ExternalFunction(name, types.void(_POINTER, _POINTER))


# The parts of mj_step1 that the scenes need; between the collisions and their constraints resting objects are left out.
check_pos, check_vel = _stage("mj_checkPos"), _stage("mj_checkVel")
kinematics, com_pos, camlight = _stage("mj_kinematics"), _stage("mj_comPos"), _stage("mj_camlight")
crb, factor_m, collision = _stage("mj_crb"), _stage("mj_factorM"), _stage("mj_collision")
make_constraint, project_constraint = _stage("mj_makeConstraint"), _stage("mj_projectConstraint")
transmission, fwd_velocity = _stage("mj_transmission"), _stage("mj_fwdVelocity")
# Those of mj_step2, but for the sensors, which nobody reads.
fwd_actuation, fwd_acceleration, fwd_constraint = (
    _stage("mj_fwdActuation"), _stage("mj_fwdAcceleration"), _stage("mj_fwdConstraint")
)  # fmt: skip
check_acc, euler = _stage("mj_checkAcc"), _stage("mj_Euler")
geom_distance = types.ExternalFunction(
    "mj_geomDistance", types.float64(_POINTER, _POINTER, types.int32, types.int32, types.float64, _POINTER)
)
jac_site = types.ExternalFunction("mj_jacSite", types.void(_POINTER, _POINTER, _POINTER, _POINTER, types.int32))
local_to_global = types.ExternalFunction(
    "mj_local2Global", types.void(_POINTER, _POINTER, _POINTER, _POINTER, _POINTER, types.int32, types.uint8)
)
