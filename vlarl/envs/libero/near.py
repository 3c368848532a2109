"""What culling.py knows of a scene: which bodies may meet, the shapes of their geoms, planes between them."""

import ctypes
from typing import NamedTuple

import mujoco
import numpy as np

from vlarl.envs.libero.culling import GAP, MESH, PLANE
from vlarl.envs.libero.structs import c_struct

FIRST_CONVEX = int(mujoco.mjtGeom.mjGEOM_ELLIPSOID)
"""Ellipsoids, cylinders, boxes and meshes: what MuJoCo tests with GJK or by 15 axes."""
_MODEL = c_struct("mjModel", last="opt")
_OPTION = c_struct("mjOption")
_UNKNOWN_TYPES = (mujoco.mjtGeom.mjGEOM_HFIELD, mujoco.mjtGeom.mjGEOM_SDF)


class Bodies(NamedTuple):
    """The B bodies that can touch others: their geoms, and the P pairs that can meet."""

    pairs: np.ndarray
    """[P, 2] int64 bodies."""
    first_index: np.ndarray
    """[P] int64, number of a pair's first pair of geoms."""
    ends: np.ndarray
    """[B + 1] int64, where each body's geoms begin in `geoms`, and where the last one's end."""
    geoms: np.ndarray
    """int64, numbers in the model."""
    numbers: np.ndarray
    """[B] int64 in the model."""
    welds: np.ndarray
    """[B] int64, body that it is welded to."""
    centres: np.ndarray
    """[B, 3] of a sphere around its geoms, in the body's frame."""
    radii: np.ndarray
    """[B] of that sphere, metres."""
    plane_of_pair: np.ndarray
    """int32, of each pair of geoms, -1 for none."""


class Near(NamedTuple):
    """What is known of one MjData; make_near makes it. The arrays of the model change it."""

    bodies: Bodies
    placement: tuple[np.ndarray, ...]
    """The model's geom_pos, geom_quat and geom_sameframe."""
    shapes: np.ndarray
    """[ngeom, 8]: type, bounding radius, box."""
    meshes: tuple[np.ndarray, ...]
    """First vertex and number of vertices, [ngeom] each, and all vertices."""
    geom_body: np.ndarray
    """[ngeom] int64."""
    poses: tuple[np.ndarray, ...]
    """The data's xpos, xmat, geom_xpos and geom_xmat."""
    motion: tuple[np.ndarray, ...]
    """Of the bodies: last positions, frames and centres, and how far each has moved since the start, metres."""
    limits: tuple[np.ndarray, np.ndarray]
    """How far a pair of bodies, and of geoms, must have moved before it is looked at again; -inf: it is near."""
    planes: np.ndarray
    """[planes, 9], see culling.NORMAL."""
    segment: np.ndarray
    """[6] scratch."""
    gap: float
    """GAP and the contact margins, metres."""
    is_still: np.ndarray
    """[B] bool: two of them are not to be looked at."""
    masks: tuple[np.ndarray, ...]
    """The model's geom_contype, geom_conaffinity, body_contype and body_conaffinity."""
    own_masks: tuple[np.ndarray, ...]
    """Those of the scene."""
    disabled: np.ndarray
    """[1] int32, the model's disableflags."""
    num_geoms: np.ndarray
    """[1] int32, the model's ngeom."""
    all_geoms: int
    few_geoms: int
    """Up to the first one that is not the world's: MuJoCo's broad phase needs one."""


def make_near(model: mujoco.MjModel, data: mujoco.MjData) -> Near:
    """What compiled functions take of one MjData.

    Raises:
        ValueError: the model has contacts that the search does not know: explicit pairs, flexes, fields.
    """
    solid = (model.geom_contype > 0) | (model.geom_conaffinity > 0)
    if model.npair or model.nflex:
        raise ValueError("the model has contact pairs or flexes")
    if np.isin(model.geom_type[solid], _UNKNOWN_TYPES).any():
        raise ValueError("the model has height fields or signed distance fields")
    bodies, can_meet = _find_bodies(model, solid)
    num_bodies, num_planes = len(bodies.numbers), bodies.plane_of_pair.max(initial=-1) + 1
    masks = (model.geom_contype, model.geom_conaffinity, model.body_contype, model.body_conaffinity)
    return Near(
        bodies=bodies,
        placement=(model.geom_pos, model.geom_quat, model.geom_sameframe),
        shapes=_shapes(model),
        meshes=_meshes(model),
        geom_body=model.geom_bodyid.astype(np.int64),
        poses=(data.xpos, data.xmat, data.geom_xpos, data.geom_xmat),
        motion=(*(np.zeros((num_bodies, size)) for size in (3, 9, 3)), np.zeros(num_bodies)),
        limits=(np.zeros(len(bodies.pairs)), np.where(can_meet, 0.0, np.inf)),
        planes=np.zeros((num_planes, 9)),
        segment=np.zeros(6),
        # Later versions of MuJoCo add the margins of two geoms, 3.3.2 takes the larger one.
        gap=GAP + 2.0 * float(model.geom_margin[solid].max(initial=0.0)),
        is_still=np.zeros(num_bodies, dtype=np.bool_),
        masks=masks,
        own_masks=tuple(mask.copy() for mask in masks),
        disabled=_number_in(model, _MODEL.opt.offset + _OPTION.disableflags.offset),
        num_geoms=_number_in(model, _MODEL.ngeom.offset),
        all_geoms=int(model.ngeom),
        few_geoms=int(np.flatnonzero(model.geom_bodyid)[0]) + 1,
    )


def _find_bodies(model: mujoco.MjModel, solid: np.ndarray) -> tuple[Bodies, np.ndarray]:
    """The bodies of the geoms [ngeom] that are solid, and which pairs of their geoms may meet, bool."""
    numbers = np.unique(model.geom_bodyid[solid]).astype(np.int64)
    members = [np.flatnonzero(solid & (model.geom_bodyid == body)) for body in numbers]
    spheres = [_bounding_sphere(model, geoms) for geoms in members]
    pairs = _pairs_that_can_meet(model, numbers)
    can_meet = [_can_meet(model, members[a], members[b]).ravel() for a, b in pairs]
    num_geom_pairs = np.array([len(geom_pairs) for geom_pairs in can_meet], dtype=np.int64)
    bodies = Bodies(
        pairs=pairs,
        first_index=np.cumsum(num_geom_pairs) - num_geom_pairs,
        ends=np.cumsum([0, *(len(geoms) for geoms in members)]),
        geoms=np.concatenate(members),
        numbers=numbers,
        welds=model.body_weldid[numbers].astype(np.int64),
        centres=np.array([centre for centre, _ in spheres]),
        radii=np.array([radius for _, radius in spheres]),
        plane_of_pair=_number_planes(model, [(members[a], members[b]) for a, b in pairs]),
    )
    return bodies, np.concatenate([np.zeros(0, dtype=bool), *can_meet])


def _number_in(model: mujoco.MjModel, offset: int) -> np.ndarray:
    """A number of the C structure, [1] int32; changing it changes the model."""
    return np.ctypeslib.as_array(ctypes.c_int.from_address(model._address + offset)).reshape(1)


def _bounding_sphere(model: mujoco.MjModel, geoms: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre [3] in the body's frame and radius of a sphere around geoms of one body; a plane has no bound."""
    positions, radii = model.geom_pos[geoms], model.geom_rbound[geoms, None]
    centre = 0.5 * ((positions - radii).min(0) + (positions + radii).max(0))
    if (model.geom_type[geoms] == PLANE).any():
        return centre, np.inf
    return centre, float((np.linalg.norm(positions - centre, axis=1) + radii[:, 0]).max())


def _pairs_that_can_meet(model: mujoco.MjModel, numbers: np.ndarray) -> np.ndarray:
    """[P, 2] indices into `numbers`: not welded together, not parent and child (which MuJoCo leaves out), by masks."""
    weld = model.body_weldid[numbers]
    carrier = model.body_weldid[model.body_parentid[weld]]
    kinds, partners = model.body_contype[numbers], model.body_conaffinity[numbers]
    first, second = np.triu_indices(len(numbers), 1)
    are_neighbours = (weld[first] == carrier[second]) | (weld[second] == carrier[first])
    can_meet = (weld[first] != weld[second]) & ~(are_neighbours & (weld[first] != 0) & (weld[second] != 0))
    can_meet &= (kinds[first] & partners[second] | kinds[second] & partners[first]) != 0
    return np.stack([first[can_meet], second[can_meet]], axis=1)


def _can_meet(model: mujoco.MjModel, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Which of two bodies' geoms may meet by their collision masks, bool [first, second]."""
    kinds, partners = model.geom_contype, model.geom_conaffinity
    return (kinds[first, None] & partners[second] | partners[first, None] & kinds[second]) != 0


def _number_planes(model: mujoco.MjModel, pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Numbers of the planes between the geoms of all pairs of bodies, int32, -1 where none is looked for.

    Planes pay for a mesh and another convex geom; MuJoCo tests two boxes in less time than a plane would take.
    """
    both = [np.stack(np.meshgrid(*pair, indexing="ij")).reshape(2, -1) for pair in pairs]
    lower, upper = np.sort(model.geom_type[np.concatenate([np.zeros((2, 0), dtype=int), *both], axis=1)], axis=0)
    has_plane = (upper == MESH) & (lower >= FIRST_CONVEX)
    return np.where(has_plane, np.cumsum(has_plane) - 1, -1).astype(np.int32)


def _shapes(model: mujoco.MjModel) -> np.ndarray:
    """[ngeom, 8] float64: type, bounding radius and box of all geoms."""
    return np.concatenate([model.geom_type[:, None], model.geom_rbound[:, None], model.geom_aabb], axis=1)


def _meshes(model: mujoco.MjModel) -> tuple[np.ndarray, ...]:
    """First vertex and number of vertices of all geoms that are meshes, [ngeom] each, and all vertices."""
    is_mesh = model.geom_type == MESH
    mesh = model.geom_dataid[is_mesh]
    first, number = np.zeros((2, model.ngeom), dtype=np.int32)
    first[is_mesh], number[is_mesh] = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
    return first, number, model.mesh_vert
