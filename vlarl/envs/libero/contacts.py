"""Contacts of the fast stepping: who is at rest, and which contacts are looked for. Compiled, see compiled.py."""

# ruff: noqa: ANN001, ANN201, ANN202
# Compiled functions get their types from the call; what each takes is said there.
from typing import NamedTuple

import mujoco
import numpy as np

from vlarl.envs.libero import library
from vlarl.envs.libero.culling import NUM_BITS, mark_near
from vlarl.envs.libero.library import compiled_bare
from vlarl.envs.libero.near import Near

SPEED_LIMIT = 1e-8
"""Metres and radians per second."""
REST_SUBSTEPS = 10
"""20 ms: gravity alone would give 0.2 m/s."""
FIXED = 0
"""Kind of bodies: welded to the world."""
FREE = 1
"""Kind of bodies: an object with one free joint."""
OTHER = 2
"""Kind of bodies: anything else that moves (the robot)."""
PART = 3
"""Kind of bodies: a fixture's part with one joint (a drawer, a knob)."""
CONTACTS_DISABLED = int(mujoco.mjtDisableBit.mjDSBL_CONTACT)
MIDPHASE_DISABLED = int(mujoco.mjtDisableBit.mjDSBL_MIDPHASE)


class Objects(NamedTuple):
    """Which objects, and which parts of fixtures, of one MjData are at rest; resting.make_objects makes it."""

    num_contacts: np.ndarray
    """[1] int32, the data's ncon."""
    contacts: np.ndarray
    """int32, the data's contacts as words."""
    layout: tuple[int, int, int]
    """A contact's size and the places of its two geoms and of its exclusion, in words."""
    kind: np.ndarray
    """[nbody] int64, FIXED and so on."""
    sleepers: np.ndarray
    """int64, bodies that can rest."""
    first_dof: np.ndarray
    """[nbody] int64."""
    resting: np.ndarray
    """[nbody] int64, substeps for which an object has been at rest, at most REST_SUBSTEPS."""
    applied: np.ndarray
    """The data's qfrc_applied."""
    welds: np.ndarray
    """[nbody] int64, body that it is welded to."""
    masses: np.ndarray
    """The model's body_mass; changing it changes the model."""
    own_masses: np.ndarray
    """Those of the scene."""
    near: Near


@compiled_bare
def leave_out_resting(objects, qvel):
    """To be called after the collisions: updates `resting` and takes contacts of objects at rest from the solver."""
    kind, resting, contacts = objects.kind, objects.resting, objects.contacts
    stride, _, exclude = objects.layout
    for body in objects.sleepers:
        first, is_slow = objects.first_dof[body], True
        for i in range(first, first + (6 if kind[body] == FREE else 1)):
            # Written so that NaN counts as motion.
            is_slow = is_slow and abs(qvel[i]) < SPEED_LIMIT
        resting[body] = min(resting[body] + 1, REST_SUBSTEPS) if is_slow else 0
    has_changed = True
    while has_changed:
        has_changed = False
        for contact in range(objects.num_contacts[0]):
            first, second = _bodies_of(objects, contact)
            # Nothing has been at rest for longer than what it touches.
            for body, other in ((first, second), (second, first)):
                if kind[body] == FREE and kind[other] != FIXED:
                    longest = resting[other] if kind[other] == FREE else 0
                    if resting[body] > longest:
                        resting[body] = longest
                        has_changed = True
                elif kind[body] == PART:
                    resting[body] = 0
    for contact in range(objects.num_contacts[0]):
        first, second = _bodies_of(objects, contact)
        if _is_still(objects, first) and _is_still(objects, second):
            contacts[contact * stride + exclude] = 1
    for body in objects.sleepers:
        if kind[body] == FREE and resting[body] == REST_SUBSTEPS:
            qvel[objects.first_dof[body] : objects.first_dof[body] + 6] = 0.0


@compiled_bare
def _bodies_of(objects, contact):
    """The bodies that the two geoms of a contact are welded to."""
    stride, geom, _ = objects.layout
    first, second = objects.contacts[contact * stride + geom], objects.contacts[contact * stride + geom + 1]
    return objects.welds[objects.near.geom_body[first]], objects.welds[objects.near.geom_body[second]]


@compiled_bare
def _is_still(objects, body):
    kind = objects.kind[body]
    return kind == FIXED or (kind == FREE and objects.resting[body] == REST_SUBSTEPS)


@compiled_bare
def find_velocities(model, data, objects):
    """mj_fwdVelocity, spared the drag of the air on what stands still, which is zero: a tenth of the physics."""
    for body, weld in enumerate(objects.welds):
        if _is_still(objects, weld):
            # MuJoCo looks for drag on what has mass.
            objects.masses[body] = 0.0
    library.fwd_velocity(model, data)
    for body in range(len(objects.welds)):
        objects.masses[body] = objects.own_masses[body]


@compiled_bare
def balance_gravity(objects, bias):
    """To be called after the velocities: the applied force of objects at rest is their bias force, of others zero."""
    for body in objects.sleepers:
        if objects.kind[body] != FREE:
            continue
        for i in range(objects.first_dof[body], objects.first_dof[body] + 6):
            objects.applied[i] = bias[i] if objects.resting[body] == REST_SUBSTEPS else 0.0


@compiled_bare
def place_bodies(model, data, near, places_all):
    """mj_kinematics; unless it is to place all, without the geoms: mark_near places those that may touch."""
    if not places_all:
        near.num_geoms[0] = near.few_geoms
    library.kinematics(model, data)
    near.num_geoms[0] = near.all_geoms


@compiled_bare
def find_near_contacts(model, data, objects, finds_all):
    """mj_collision, spared what cannot touch and, unless it is to find all, what is at rest or fixed among itself.

    Returns whether it has found all.
    """
    near = objects.near
    for body, weld in enumerate(near.bodies.welds):
        near.is_still[body] = not finds_all and (objects.kind[weld] == FIXED or objects.resting[weld] == REST_SUBSTEPS)
    num_bits = mark_near(model, data, near)
    spared = MIDPHASE_DISABLED
    if num_bits == 0:
        # What mj_collision leaves when nothing touches.
        spared = CONTACTS_DISABLED
    elif num_bits > NUM_BITS:
        # MuJoCo's own search of everything.
        spared, finds_all = 0, True
        _write_masks(near)
    near.disabled[0] |= spared
    near.num_geoms[0] = near.few_geoms
    library.collision(model, data)
    near.num_geoms[0] = near.all_geoms
    near.disabled[0] ^= spared
    _write_masks(near)
    _sort_contacts(objects)
    return finds_all


@compiled_bare
def _sort_contacts(objects):
    """Sorts the contacts of each two bodies by the numbers of their geoms, as MuJoCo does after its midphase.

    Their order decides in which order forces are added, and with it the last bits.
    """
    contacts, (stride, geom, _) = objects.contacts, objects.layout
    for contact in range(1, objects.num_contacts[0]):
        later = contact * stride
        while later > 0 and _is_before(later + geom, later - stride + geom, contacts, objects.near.geom_body):
            for word in range(later, later + stride):
                contacts[word], contacts[word - stride] = contacts[word - stride], contacts[word]
            later -= stride


@compiled_bare
def _is_before(one, other, contacts, geom_body):
    """Whether the geoms at word `one` are of the same bodies as those at `other` and come before them."""
    a, b, c, d = contacts[one], contacts[one + 1], contacts[other], contacts[other + 1]
    if a > c or (a == c and b >= d):
        return False
    bodies, others = (geom_body[a], geom_body[b]), (geom_body[c], geom_body[d])
    return bodies == others or bodies == (others[1], others[0])


@compiled_bare
def _write_masks(near):
    """Puts the scene's own collision masks into the model."""
    kinds, partners, body_kinds, body_partners = near.masks
    own_kinds, own_partners, own_body_kinds, own_body_partners = near.own_masks
    # Loops: numba takes two seconds longer to compile an assignment to a slice.
    for geom in range(near.all_geoms):
        kinds[geom], partners[geom] = own_kinds[geom], own_partners[geom]
    for body in range(len(body_kinds)):
        body_kinds[body], body_partners[body] = own_body_kinds[body], own_body_partners[body]


@compiled_bare
def find_contacts(model, data, objects, finds_all):
    """Finds all contacts, or those of what moves; all, too, when that touches what rests.

    More than half of a substep went into finding contacts, or that there are none.
    """
    # One call in a loop: with True and with False written out, all of it would be compiled twice.
    while True:
        finds_all |= find_near_contacts(model, data, objects, finds_all)
        if finds_all:
            return
        for contact in range(objects.num_contacts[0]):
            for body in _bodies_of(objects, contact):
                finds_all |= objects.resting[body] == REST_SUBSTEPS
        if not finds_all:
            return
