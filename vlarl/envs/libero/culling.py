"""Which geoms are near each other: MuJoCo's search for contacts is spared what cannot touch. Compiled, see compiled.py.

In every substep MuJoCo's broad phase goes through every geom of the scene, and its narrow phase through every pair
whose boxes overlap, whether or not they touch: with a bowl in the hand 17 of 23 do not. Here a pair that is known to be
at least g apart is not looked at again before its two bodies together have moved by g (conservative advancement,
Mirtich 1996). What may touch goes to `mj_collision`, with collision masks by which nothing else can meet, so that the
contacts, and with them the motion, are the same to the bit. Geoms are placed here too, those of bodies that have moved.

The distance is bounded by spheres, by the faces of the boxes, or by a plane between two convex geoms that is kept with
them while they move together (a cached witness, Baraff 1990): its normal n and the support of the first geom along it,
exact in the first geom's frame; the support of the second along -n is that of a box, or, for other shapes, what it was
when the plane was found, plus the turn of n since then times the shape's radius.
"""

# ruff: noqa: ANN001, ANN201, ANN202
# Compiled functions get their types from the call; what each takes is said there.
import math

import numpy as np

from vlarl.envs.libero import library
from vlarl.envs.libero.library import compiled_bare

GAP = 1e-5
"""Metres that must lie between two geoms, beyond their contact margins, before they count as apart; MuJoCo's search is
exact to 1e-6."""
PATIENCE = 10
"""Substeps between two searches for a plane; a search costs as much as MuJoCo's own test of the pair."""
CLOSE = 0.01
"""Metres; a bound that is larger is not made tighter."""
MAX_MOTION = 1e6
"""Metres; more than any scene."""
MAX_DISTANCE = 1.0
"""Metres; no pair whose spheres touch is as far apart."""
NUM_BITS = 31
"""Of a collision mask, without its sign."""
PLANE = 0
BOX = 6
MESH = 7
"""MuJoCo's numbers of geom types (mjtGeom)."""
TYPE, RADIUS, CENTRE, HALF = 0, 1, 2, 5
"""Columns of a geom's shape: type, bounding radius, centre and half sizes of its box."""
NORMAL, SUPPORT, OPPOSITE, OTHER_SUPPORT, WAIT = 0, 3, 4, 7, 8
"""Columns of a plane: its normal in the first geom's frame, that geom's support along it, the normal in the other one's
frame when it was found, the other's support against it then, and the substeps until it may be looked for again."""


@compiled_bare
def support(geom, direction, shapes, meshes):
    """How far a geom extends from its position along a direction in its own frame; an upper bound, meshes exact."""
    if shapes[geom, TYPE] != MESH:
        return _box_support(geom, direction, shapes)
    x, y, z = direction
    first_vertex, num_vertices, vertices = meshes
    longest = -np.inf
    for vertex in range(first_vertex[geom], first_vertex[geom] + num_vertices[geom]):
        longest = max(longest, x * vertices[vertex, 0] + y * vertices[vertex, 1] + z * vertices[vertex, 2])
    return longest


@compiled_bare
def _box_support(geom, direction, shapes):
    """How far a geom's box extends from the geom's position along a direction in its own frame."""
    x, y, z = direction
    extent = _dot(_three(shapes, geom, HALF), (abs(x), abs(y), abs(z)))
    return _dot(_three(shapes, geom, CENTRE), direction) + extent


@compiled_bare
def _difference(one, other, positions):
    return (
        positions[other, 0] - positions[one, 0],
        positions[other, 1] - positions[one, 1],
        positions[other, 2] - positions[one, 2],
    )


@compiled_bare
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@compiled_bare
def _multiply(frames, index, vector, down, across):
    """A rotation [9] times a vector: `down` entries from row to row and `across` from column to column."""
    x, y, z = vector
    return (
        frames[index, 0] * x + frames[index, across] * y + frames[index, 2 * across] * z,
        frames[index, down] * x + frames[index, down + across] * y + frames[index, down + 2 * across] * z,
        frames[index, 2 * down] * x + frames[index, 2 * down + across] * y + frames[index, 2 * down + 2 * across] * z,
    )


@compiled_bare
def _into(frames, index, vector):
    """A vector of the world in the axes of a frame [9]."""
    return _multiply(frames, index, vector, 1, 3)


@compiled_bare
def _out_of(frames, index, vector):
    """A vector of a frame [9] in the world's axes."""
    return _multiply(frames, index, vector, 3, 1)


@compiled_bare
def _three(array, index, first=0):
    return array[index, first], array[index, first + 1], array[index, first + 2]


@compiled_bare
def _box_clearance(one, other, offset, frames, shapes):
    """How far the best face of two oriented boxes keeps the geoms, `offset` from each other, apart."""
    clearance = -np.inf
    for first, second, sign in ((one, other, 1.0), (other, one, -1.0)):
        # The second box in the first one's frame: where it is, and how far it extends along each axis.
        x, y, z = _into(frames, first, _out_of(frames, second, _three(shapes, second, CENTRE)))
        dx, dy, dz = _into(frames, first, offset)
        cx, cy, cz = _three(shapes, first, CENTRE)
        along = (sign * dx + x - cx, sign * dy + y - cy, sign * dz + z - cz)
        for face in range(3):
            normal = frames[first, face], frames[first, 3 + face], frames[first, 6 + face]
            a, b, c = _into(frames, second, normal)
            extent = (
                abs(a) * shapes[second, HALF] + abs(b) * shapes[second, HALF + 1] + abs(c) * shapes[second, HALF + 2]
            )
            clearance = max(clearance, abs(along[face]) - extent - shapes[first, HALF + face])
    return clearance


@compiled_bare
def _plane_clearance(one, other, plane, offset, frames, shapes, planes):
    """How far that plane keeps the two geoms apart; one that was never found is zero."""
    normal = _out_of(frames, one, _three(planes, plane, NORMAL))
    x, y, z = _into(frames, other, normal)
    extent = _box_support(other, (-x, -y, -z), shapes)
    if shapes[other, TYPE] != BOX:
        a, b, c = _three(planes, plane, OPPOSITE)
        turn = math.sqrt((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2)
        extent = min(extent, planes[plane, OTHER_SUPPORT] + turn * shapes[other, RADIUS])
    return _dot(normal, offset) - planes[plane, SUPPORT] - extent


@compiled_bare
def _find_plane(model, data, one, other, plane, near):
    """Looks for a plane between two geoms; whether one was found."""
    segment, planes, (_, _, _, frames) = near.segment, near.planes, near.poses
    # The lower type first: MuJoCo 3.3.2 turns the segment round otherwise.
    distance = library.geom_distance(model, data, other, one, MAX_DISTANCE, segment.ctypes.data)
    if not GAP < distance < MAX_DISTANCE:
        return False
    normal = (
        (segment[0] - segment[3]) / distance,
        (segment[1] - segment[4]) / distance,
        (segment[2] - segment[5]) / distance,
    )
    inner, opposite = _into(frames, one, normal), _into(frames, other, normal)
    for i in range(3):
        planes[plane, NORMAL + i], planes[plane, OPPOSITE + i] = inner[i], opposite[i]
    planes[plane, SUPPORT] = support(one, inner, near.shapes, near.meshes)
    planes[plane, OTHER_SUPPORT] = support(other, (-opposite[0], -opposite[1], -opposite[2]), near.shapes, near.meshes)
    return True


@compiled_bare
def _clearance(model, data, one, other, plane, near):
    """A lower bound of the distance between two geoms, in metres; not above GAP if they may touch."""
    shapes, planes, (_, _, positions, frames) = near.shapes, near.planes, near.poses
    if shapes[one, TYPE] < shapes[other, TYPE]:
        # The first one's support is exact, and the other's if it is a box.
        one, other = other, one
    offset = _difference(one, other, positions)
    if shapes[other, TYPE] == PLANE:
        upwards = frames[other, 2], frames[other, 5], frames[other, 8]
        x, y, z = _into(frames, one, upwards)
        return -_dot(upwards, offset) - min(shapes[one, RADIUS], _box_support(one, (-x, -y, -z), shapes))
    clearance = math.sqrt(_dot(offset, offset)) - shapes[one, RADIUS] - shapes[other, RADIUS]
    if clearance > CLOSE:
        return clearance
    clearance = max(clearance, _box_clearance(one, other, offset, frames, shapes))
    if clearance > GAP or plane < 0:
        return clearance
    clearance = _plane_clearance(one, other, plane, offset, frames, shapes, planes)
    if clearance > GAP:
        return clearance
    if planes[plane, WAIT] > 0:
        planes[plane, WAIT] -= 1
        return 0.0
    planes[plane, WAIT] = PATIENCE
    if _find_plane(model, data, one, other, plane, near):
        return _plane_clearance(one, other, plane, offset, frames, shapes, planes)
    return 0.0


@compiled_bare
def _follow(data, near):
    """Adds to `moved` how far any point of a body can have moved since the last call, and places its geoms."""
    bodies, (last_positions, last_frames, centres, moved) = near.bodies, near.motion
    positions, frames, _, _ = near.poses
    for body, number in enumerate(bodies.numbers):
        has_moved, turn = False, 0.0
        for i in range(3):
            has_moved |= positions[number, i] != last_positions[body, i]
            last_positions[body, i] = positions[number, i]
        for i in range(9):
            turn += (frames[number, i] - last_frames[body, i]) ** 2
            last_frames[body, i] = frames[number, i]
        # Written so that NaN counts as motion.
        if not has_moved and turn == 0.0:
            continue
        for row in range(bodies.ends[body], bodies.ends[body + 1]):
            _place_geom(data, number, bodies.geoms[row], near)
        turned, shift = _out_of(frames, number, _three(bodies.centres, body)), 0.0
        for i in range(3):
            centre = positions[number, i] + turned[i]
            shift += (centre - centres[body, i]) ** 2
            centres[body, i] = centre
        length = math.sqrt(shift)
        # A plane's radius is infinite, but it does not turn.
        if turn != 0.0:
            length += bodies.radii[body] * math.sqrt(turn)
        # Not a number counts as far: everything is looked at again, here and when the numbers are back.
        moved[body] += length if length < MAX_MOTION else MAX_MOTION


@compiled_bare
def _place_geom(data, body, geom, near):
    """As mj_kinematics does for all geoms."""
    local_positions, local_quaternions, same_frame = near.placement
    _, _, positions, frames = near.poses
    library.local_to_global(
        *(data, positions[geom].ctypes.data, frames[geom].ctypes.data),
        *(local_positions[geom].ctypes.data, local_quaternions[geom].ctypes.data, body, same_frame[geom]),
    )


@compiled_bare
def _let_meet(one, other, near, num_bits):
    """Lets two geoms meet; returns how many bits of the masks are in use.

    A bit stands for a geom and all that are near it, so that nobody else can meet.
    """
    kinds, partners, body_kinds, body_partners = near.masks
    if kinds[one] == 0:
        if kinds[other] != 0:
            one, other = other, one
        else:
            kinds[one] = 1 << num_bits
            num_bits += 1
    partners[other] |= kinds[one]
    body_kinds[near.geom_body[one]] |= kinds[one]
    body_partners[near.geom_body[other]] |= kinds[one]
    return num_bits


@compiled_bare
def mark_near(model, data, near):
    """Sets the collision masks so that only those geoms meet that may touch, unless their bodies are both still.

    Returns how many bits that takes, 0 if nothing may touch; more than NUM_BITS are not in the masks.
    """
    bodies, (body_limits, geom_limits), (_, _, centres, moved) = near.bodies, near.limits, near.motion
    kinds, partners, body_kinds, body_partners = near.masks
    _follow(data, near)
    for geom in bodies.geoms:
        kinds[geom] = partners[geom] = 0
    for number in bodies.numbers:
        body_kinds[number] = body_partners[number] = 0
    num_bits = 0
    for pair in range(len(bodies.pairs)):
        a, b = bodies.pairs[pair, 0], bodies.pairs[pair, 1]
        motions = moved[a] + moved[b]
        if motions < body_limits[pair] or (near.is_still[a] and near.is_still[b]):
            continue
        offset = _difference(a, b, centres)
        clearance = math.sqrt(_dot(offset, offset)) - bodies.radii[a] - bodies.radii[b] - near.gap
        if clearance > CLOSE:
            body_limits[pair] = motions + clearance
            continue
        lowest, index = np.inf, bodies.first_index[pair]
        for row in range(bodies.ends[a], bodies.ends[a + 1]):
            one = bodies.geoms[row]
            for column in range(bodies.ends[b], bodies.ends[b + 1]):
                if not motions < geom_limits[index]:
                    other = bodies.geoms[column]
                    clearance = _clearance(model, data, one, other, bodies.plane_of_pair[index], near)
                    if clearance > near.gap:
                        geom_limits[index] = motions + clearance - near.gap
                    else:
                        geom_limits[index] = -np.inf
                        num_bits = _let_meet(one, other, near, num_bits)
                lowest = min(lowest, geom_limits[index])
                index += 1
        body_limits[pair] = lowest
    return num_bits
