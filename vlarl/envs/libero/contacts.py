"""Contacts of the fast stepping: who is at rest, and which contacts are looked for. Compiled, see compiled.py."""

# ruff: noqa: ANN001, ANN201, ANN202
# Compiled functions get their types from the call; what each takes is said there.
import mujoco

from vlarl.envs.libero import library
from vlarl.envs.libero.culling import NUM_BITS, mark_near
from vlarl.envs.libero.library import compiled

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


@compiled
def leave_out_resting(num_contacts, contacts, layout, geom_body, kind, sleepers, first_dof, resting, qvel):
    """To be called after the collisions: updates `resting` and takes contacts of objects at rest from the solver."""
    stride, geom, exclude = layout
    for body in sleepers:
        is_slow = True
        for i in range(first_dof[body], first_dof[body] + (6 if kind[body] == FREE else 1)):
            # Written so that NaN counts as motion.
            is_slow = is_slow and abs(qvel[i]) < SPEED_LIMIT
        resting[body] = min(resting[body] + 1, REST_SUBSTEPS) if is_slow else 0
    has_changed = True
    while has_changed:
        has_changed = False
        for contact in range(num_contacts[0]):
            first = geom_body[contacts[contact * stride + geom]]
            second = geom_body[contacts[contact * stride + geom + 1]]
            # Nothing has been at rest for longer than what it touches.
            for body, other in ((first, second), (second, first)):
                if kind[body] == FREE and kind[other] != FIXED:
                    longest = resting[other] if kind[other] == FREE else 0
                    if resting[body] > longest:
                        resting[body] = longest
                        has_changed = True
                elif kind[body] == PART:
                    resting[body] = 0
    for contact in range(num_contacts[0]):
        first = geom_body[contacts[contact * stride + geom]]
        second = geom_body[contacts[contact * stride + geom + 1]]
        if _is_still(kind, resting, first) and _is_still(kind, resting, second):
            contacts[contact * stride + exclude] = 1
    for body in sleepers:
        if kind[body] == FREE and resting[body] == REST_SUBSTEPS:
            qvel[first_dof[body] : first_dof[body] + 6] = 0.0


@compiled
def _is_still(kind, resting, body):
    return kind[body] == FIXED or (kind[body] == FREE and resting[body] == REST_SUBSTEPS)


@compiled
def find_velocities(model, data, objects):
    """mj_fwdVelocity, spared the drag of the air on what stands still, which is zero: a tenth of the physics."""
    kind, resting, (welds, own, mass) = objects[4], objects[7], objects[10]
    for body, weld in enumerate(welds):
        if _is_still(kind, resting, weld):
            # MuJoCo looks for drag on what has mass.
            mass[body] = 0.0
    library.fwd_velocity(model, data)
    for body in range(len(mass)):
        mass[body] = own[body]


@compiled
def balance_gravity(sleepers, kind, first_dof, resting, bias, applied):
    """To be called after the velocities: the applied force of objects at rest is their bias force, of others zero."""
    for body in sleepers:
        if kind[body] != FREE:
            continue
        for i in range(first_dof[body], first_dof[body] + 6):
            applied[i] = bias[i] if resting[body] == REST_SUBSTEPS else 0.0


@compiled
def place_bodies(model, data, objects, places_all):
    """mj_kinematics; unless it is to place all, without the geoms: find_contacts places those that may touch."""
    (_, num_geoms), nums = objects[9][11:]
    if not places_all:
        num_geoms[0] = nums[1]
    library.kinematics(model, data)
    num_geoms[0] = nums[0]


@compiled
def find_near_contacts(model, data, objects, finds_all):
    """mj_collision, spared what cannot touch and, unless it is to find all, what is at rest or fixed among itself.

    Returns whether it has found all.
    """
    kind, resting, near = objects[4], objects[7], objects[9]
    bodies, placement, shapes, meshes, poses, motion, limits, planes, is_still, own, masks, switches, nums = near
    disabled, num_geoms = switches
    for body, weld in enumerate(bodies[5]):
        is_still[body] = not finds_all and (kind[weld] == FIXED or resting[weld] == REST_SUBSTEPS)
    num_bits = mark_near(
        model, data, is_still, bodies, placement, shapes, meshes, poses, motion, limits, planes, masks
    )
    is_full = num_bits > NUM_BITS
    # What mj_collision leaves when nothing touches; the boxes around geoms would tell what is known already.
    spared = CONTACTS_DISABLED if num_bits == 0 else 0 if is_full else MIDPHASE_DISABLED
    if is_full:
        _write_masks(own, masks)
    else:
        num_geoms[0] = nums[1]
    disabled[0] |= spared
    library.collision(model, data)
    disabled[0] ^= spared
    num_geoms[0] = nums[0]
    _write_masks(own, masks)
    return finds_all or is_full


@compiled
def _write_masks(values, masks):
    # A loop: numba takes two seconds longer to compile an assignment to a slice.
    for value, mask in ((values[0], masks[0]), (values[1], masks[1]), (values[2], masks[2]), (values[3], masks[3])):
        for index in range(len(mask)):
            mask[index] = value[index]


@compiled
def find_contacts(model, data, objects, finds_all):
    """Finds all contacts, or those of what moves; all, too, when that touches what rests.

    More than half of a substep went into finding contacts, or that there are none.
    """
    num_contacts, contacts, (stride, geom, _), geom_body, _, _, _, resting, _, _, _ = objects
    # One call in a loop: with True and with False written out, all of it would be compiled twice.
    while True:
        finds_all |= find_near_contacts(model, data, objects, finds_all)
        if finds_all:
            return
        for contact in range(num_contacts[0]):
            for side in range(2):
                finds_all |= resting[geom_body[contacts[contact * stride + geom + side]]] == REST_SUBSTEPS
        if not finds_all:
            return
