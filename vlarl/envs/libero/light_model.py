"""Upstream's model with simplified visual meshes and small textures: the same physics, frames ten times cheaper."""

from pathlib import Path
from typing import Any

import fast_simplification
import mujoco
import numpy as np
from PIL import Image

from vlarl.errors import UserError

TARGET_FACES = 300
"""Faces that a visual mesh is simplified to, where its parts allow it."""
TEXTURE_SIZE = 128
"""Longest side of a texture, pixels."""
PLAIN_SIZE = 8
"""Side of a texture of one colour, pixels."""
VIDEO_SIZE = 256
"""Largest image that can be rendered, pixels."""

PHYSICS_FIELDS = (
    *("body_mass", "body_inertia", "body_ipos", "body_iquat", "dof_damping", "dof_armature", "dof_frictionloss"),
    *("jnt_range", "jnt_stiffness", "actuator_ctrlrange", "actuator_gainprm", "actuator_biasprm", "qpos0"),
)


def build_light_model(upstream: Any, scratch: Path) -> mujoco.MjModel:  # noqa: ANN401 - libero's ControlEnv
    """Compiles upstream's model with simplified visual meshes and small textures; physics is checked to be the same.

    Raises:
        UserError: the physics differs, which means an unknown version of a package.
    """
    reference = upstream.sim.model._model
    spec = mujoco.MjSpec.from_string(upstream.env.model.get_xml())
    _simplify_meshes(spec, reference)
    _shrink_textures(spec, scratch)
    for light in spec.lights:
        light.castshadow = False
    spec.visual.quality.offsamples = 0
    spec.visual.quality.shadowsize = 1
    spec.visual.global_.offwidth = spec.visual.global_.offheight = VIDEO_SIZE
    # Force and torque sensors cost time and have no influence on the motion.
    spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_SENSOR
    model = spec.compile()
    model.body_pos[:], model.body_quat[:] = reference.body_pos, reference.body_quat
    _check_physics(model, reference)
    return model


def _is_visual(geom: mujoco.MjsGeom) -> bool:
    return geom.type == mujoco.mjtGeom.mjGEOM_MESH and geom.contype == 0 and geom.conaffinity == 0


def _simplify_meshes(spec: mujoco.MjSpec, reference: mujoco.MjModel) -> None:
    """Gives every visual mesh geom a simplified copy of its mesh, made from the compiled one."""
    used = {geom.meshname for geom in spec.geoms if _is_visual(geom)}
    physical = {g.meshname for g in spec.geoms if g.type == mujoco.mjtGeom.mjGEOM_MESH and not _is_visual(g)}
    for name in sorted(used):
        vertices, faces, texture_coordinates = _light_mesh(reference, reference.mesh(name).id)
        mesh = spec.add_mesh()
        mesh.name = f"{name}__visual"
        mesh.uservert, mesh.userface = vertices.flatten(), faces.flatten()
        if texture_coordinates is not None:
            mesh.usertexcoord = texture_coordinates.flatten()
        # Thin simplified meshes may enclose no volume.
        mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL
    for geom in spec.geoms:
        if _is_visual(geom):
            geom.meshname = f"{geom.meshname}__visual"
    for mesh in list(spec.meshes):
        if mesh.name in used - physical:
            # The name of it from 3.3.3 on, which `vlarl doctor` has to be able to compare.
            spec.delete(mesh) if hasattr(spec, "delete") else mesh.delete()


def _light_mesh(model: mujoco.MjModel, mesh: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Vertices [V, 3], faces [F, 3] and texture coordinates [V, 2] of a simplified mesh, in the asset's own frame."""
    start, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
    vertices = model.mesh_vert[start : start + count].astype(float)
    first, number = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
    faces = model.mesh_face[first : first + number]
    # The compiler moved the mesh to its own centre and axes: undo that.
    rotation = np.empty(9)
    mujoco.mju_quat2Mat(rotation, model.mesh_quat[mesh])
    vertices = vertices @ rotation.reshape(3, 3).T + model.mesh_pos[mesh]
    corners = _corner_coordinates(model, mesh, faces)
    merged, inverse = np.unique(vertices.round(7), axis=0, return_inverse=True)
    triangles = inverse.reshape(-1)[faces]
    proper = (triangles != np.roll(triangles, 1, axis=1)).all(axis=1)
    triangles = triangles[proper]
    if len(triangles) > TARGET_FACES:
        points, triangles = fast_simplification.simplify(
            merged.astype(np.float32), triangles.astype(np.int32), target_count=TARGET_FACES, agg=7
        )
    else:
        points = merged
    points = np.asarray(points, dtype=np.float32)
    if corners is None:
        return points, np.asarray(triangles, dtype=np.int32), None
    from scipy.spatial import KDTree

    nearest = KDTree(vertices[faces.reshape(-1)]).query(points)[1]
    return points, np.asarray(triangles, dtype=np.int32), corners[nearest]


def _corner_coordinates(model: mujoco.MjModel, mesh: int, faces: np.ndarray) -> np.ndarray | None:
    """Texture coordinates of every face corner, [3 F, 2], or None."""
    start = model.mesh_texcoordadr[mesh]
    if start < 0:
        return None
    first = model.mesh_faceadr[mesh]
    index = model.mesh_facetexcoord[first : first + len(faces)].reshape(-1)
    return model.mesh_texcoord[start + index].astype(np.float32)


def _shrink_textures(spec: mujoco.MjSpec, scratch: Path) -> None:
    for index, texture in enumerate(spec.textures):
        if not texture.file and _is_plain(texture):
            texture.width = texture.height = PLAIN_SIZE
        if not texture.file:
            continue
        image = Image.open(texture.file).convert("RGB")
        scale = TEXTURE_SIZE / max(image.size)
        if scale < 1:
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            image = image.resize(size, Image.Resampling.BOX)
        path = scratch / f"texture_{index}.png"
        image.save(path)
        texture.file = str(path)


def _is_plain(texture: mujoco.MjsTexture) -> bool:
    """Whether a texture that MuJoCo makes looks the same in any size: one colour, or the sky, which "fast" leaves out.

    At their full size they take 20 MiB in every renderer.
    """
    is_flat = texture.builtin == mujoco.mjtBuiltin.mjBUILTIN_FLAT and texture.mark == mujoco.mjtMark.mjMARK_NONE
    return is_flat or texture.type == mujoco.mjtTexture.mjTEXTURE_SKYBOX


def _check_physics(model: mujoco.MjModel, reference: mujoco.MjModel) -> None:
    differing = [f for f in PHYSICS_FIELDS if not np.array_equal(getattr(model, f), getattr(reference, f))]
    solid = [(m.geom_contype > 0) | (m.geom_conaffinity > 0) for m in (model, reference)]
    for field in ("geom_pos", "geom_quat", "geom_size", "geom_friction", "geom_solref", "geom_solimp", "geom_margin"):
        if not np.array_equal(getattr(model, field)[solid[0]], getattr(reference, field)[solid[1]]):
            differing.append(field)
    if differing:
        raise UserError(
            f"the light model's physics differs from LIBERO's in {', '.join(differing)}: install the versions of"
            " constraints.txt"
        )
