"""Objects at rest leave the solver until something moves them: most of a scene, most of the time.

An object that stands still stays where it is to the last bits (its speed falls to 1e-14), but its contacts with the
table cost more than everything else. Once all six velocities of a free object have been below `SPEED_LIMIT` for
`REST_SUBSTEPS`, and it touches only fixed bodies and objects at rest, its velocity is set to zero, its contacts are
left out of the solver, and gravity is balanced. Nor are its contacts looked for, except with what moves: in the substep
in which anything that moves touches it, the object, and whatever rests against it, is back with its contacts as they
are. Parts of fixtures (drawers, knobs) stay in the solver; their contacts are not looked for either while they stand
still and touch nothing.
"""

import ctypes

import mujoco
import numpy as np

from vlarl.envs.libero.contacts import FIXED, FREE, OTHER, PART, Objects
from vlarl.envs.libero.near import make_near
from vlarl.envs.libero.structs import c_struct

_CONTACT = c_struct("mjContact")
_DATA = c_struct("mjData", last="arena")
_LAYOUT = (ctypes.sizeof(_CONTACT) // 4, _CONTACT.geom.offset // 4, _CONTACT.exclude.offset // 4)


def make_objects(model: mujoco.MjModel, data: mujoco.MjData) -> Objects:
    """What compiled functions take of one MjData; nothing is at rest.

    Raises:
        ValueError: see near.make_near; or the model compensates gravity.
    """
    if model.ngravcomp:
        raise ValueError("the model compensates gravity, and what is at rest is to lose its mass for a moment")
    address = data._address
    arena = ctypes.c_void_p.from_address(address + _DATA.arena.offset).value
    kind = _find_kinds(model)
    return Objects(
        num_contacts=np.ctypeslib.as_array(ctypes.c_int.from_address(address + _DATA.ncon.offset)).reshape(1),
        # Contacts lie at the arena's beginning, one struct after the other; read and written as 4-byte words.
        contacts=np.ctypeslib.as_array((ctypes.c_int * (data.narena // 4)).from_address(arena)),
        layout=_LAYOUT,
        kind=kind,
        sleepers=np.flatnonzero((kind == FREE) | (kind == PART)),
        first_dof=model.body_dofadr.astype(np.int64),
        resting=np.zeros(model.nbody, dtype=np.int64),
        applied=data.qfrc_applied,
        welds=model.body_weldid.astype(np.int64),
        masses=model.body_mass,
        own_masses=model.body_mass.copy(),
        near=make_near(model, data),
    )


def _find_kinds(model: mujoco.MjModel) -> np.ndarray:
    """[nbody] int64, FIXED and so on; of bodies that are welded to an object only the object's own has its kind."""
    kind = np.where(model.body_weldid == 0, FIXED, OTHER).astype(np.int64)
    jointed = np.flatnonzero(model.body_jntnum)
    carriers = model.body_weldid[model.body_parentid[jointed]]
    for body, carrier in zip(jointed, carriers, strict=True):
        if model.body_jntnum[body] == 1 and carrier == 0 and body not in carriers:
            is_free = model.jnt_type[model.body_jntadr[body]] == mujoco.mjtJoint.mjJNT_FREE
            kind[body] = FREE if is_free else PART
    return kind
