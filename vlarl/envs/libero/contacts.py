"""Contacts of the fast stepping: who is at rest, and which contacts are looked for. Compiled, see compiled.py."""

# ruff: noqa: ANN001, ANN201, ANN202
# Compiled functions get their types from the call; what each takes is said there.
from vlarl.envs.libero import library
from vlarl.envs.libero.culling import mark_near
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
PASSING = 4
"""Collision mask of objects at rest that what is fixed or at rest passes through, and of what may still meet them."""
CONTACTS_DISABLED = 16
"""MuJoCo's mjDSBL_CONTACT."""


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
def balance_gravity(sleepers, kind, first_dof, resting, bias, applied):
    """To be called after the velocities: the applied force of objects at rest is their bias force, of others zero."""
    for body in sleepers:
        if kind[body] != FREE:
            continue
        for i in range(first_dof[body], first_dof[body] + 6):
            applied[i] = bias[i] if resting[body] == REST_SUBSTEPS else 0.0


@compiled
def _set_masks(is_still, kind, bodies, wanted, awake, masks):
    """Only what is wanted can be found; of that, what is at rest passes through what is fixed or at rest."""
    ends, geoms, numbers, welds = bodies[2], bodies[3], bodies[4], bodies[5]
    kinds, partners, body_kinds, body_partners = masks
    for body in range(len(numbers)):
        rests = is_still[body] and kind[welds[body]] != FIXED
        body_kinds[numbers[body]] = body_partners[numbers[body]] = 0
        for row in range(ends[body], ends[body + 1]):
            geom = geoms[row]
            if not wanted[geom]:
                kinds[geom], partners[geom] = 0, 0
            elif rests:
                kinds[geom], partners[geom] = PASSING, 0
            else:
                kinds[geom], partners[geom] = awake[0][geom], awake[1][geom]
            body_kinds[numbers[body]] |= kinds[geom]
            body_partners[numbers[body]] |= partners[geom]


@compiled
def find_near_contacts(model, data, objects, finds_all):
    """mj_collision, spared what cannot touch and, unless it is to find all, what is at rest or fixed among itself."""
    kind, resting, near = objects[4], objects[7], objects[9]
    bodies, shapes, meshes, poses, motion, limits, planes, wanted, is_still, awake, masks, disabled = near
    for body, weld in enumerate(bodies[5]):
        is_still[body] = not finds_all and (kind[weld] == FIXED or resting[weld] == REST_SUBSTEPS)
    if mark_near(model, data, is_still, bodies, shapes, meshes, poses, motion, limits, planes, wanted) == 0:
        # What mj_collision leaves when nothing touches.
        disabled[0] |= CONTACTS_DISABLED
        library.collision(model, data)
        disabled[0] ^= CONTACTS_DISABLED
        return
    _set_masks(is_still, kind, bodies, wanted, awake, masks)
    library.collision(model, data)
    # A loop: numba takes two seconds longer to compile an assignment to a slice.
    for mask, value in ((masks[0], awake[0]), (masks[1], awake[1]), (masks[2], awake[2]), (masks[3], awake[3])):
        for index in range(len(mask)):
            mask[index] = value[index]


@compiled
def find_contacts(model, data, objects, finds_all):
    """Finds all contacts, or those of what moves; all, too, when that touches what rests.

    More than half of a substep went into finding contacts, or that there are none.
    """
    num_contacts, contacts, (stride, geom, _), geom_body, _, _, _, resting, _, _ = objects
    # One call in a loop: with True and with False written out, all of it would be compiled twice.
    while True:
        find_near_contacts(model, data, objects, finds_all)
        if finds_all:
            return
        for contact in range(num_contacts[0]):
            for side in range(2):
                finds_all |= resting[geom_body[contacts[contact * stride + geom + side]]] == REST_SUBSTEPS
        if not finds_all:
            return
