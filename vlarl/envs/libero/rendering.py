"""Frames: one GL context per process, one renderer per model."""

import os
from collections.abc import Sequence
from ctypes.util import find_library
from importlib import import_module
from typing import Any

# MuJoCo reads it once, when it is imported. An empty value means no choice.
if not os.environ.get("MUJOCO_GL"):
    os.environ["MUJOCO_GL"] = "egl" if find_library("EGL") else "osmesa"
# Software rendering of small frames is slower with threads than without.
os.environ.setdefault("LP_NUM_THREADS", "0")

from vlarl.errors import MissingSystemLibraryError  # noqa: E402


def _missing_library(error: Exception) -> MissingSystemLibraryError:
    return MissingSystemLibraryError(
        f"MuJoCo cannot render with MUJOCO_GL={os.environ['MUJOCO_GL']} ({error}). Install the libraries:"
        " sudo apt-get install -y libegl1 libgl1 libgl1-mesa-dri"
    )


try:
    import mujoco
except (ImportError, AttributeError, RuntimeError) as error:
    # What the GL bindings raise without their library.
    raise _missing_library(error) from error
import numpy as np  # noqa: E402

from vlarl.configs.env import RenderProfile  # noqa: E402
from vlarl.envs.libero.goals import joints_pass  # noqa: E402
from vlarl.envs.libero.tasks import CAMERA  # noqa: E402

MAX_GEOMS = 2000
UPSTREAM_MAX_GEOMS = 1000
HIDDEN_GROUP = 0
"""Geom group that is not drawn: the collision geoms, and for a moment what a camera cannot see."""
ROOM_GROUP = 4
"""Geom group of floor and walls while a scene is put together."""
LAMP_GROUP = 5
"""Site group of what upstream shows while something is turned on; the other sites are hidden."""

_context: Any = None


def _make_context_current() -> None:
    """Draws into the process's GL context from here on; other libraries in the process may have their own.

    It is made on first use, because it must not be inherited through a fork.

    Raises:
        MissingSystemLibraryError: rendering does not work.
    """
    global _context
    try:
        if _context is None:
            # Not mujoco.GLContext: that is fixed when mujoco is imported, perhaps before the variable was set.
            _context = import_module(f"mujoco.{os.environ['MUJOCO_GL']}").GLContext(64, 64)
        _context.make_current()
    except Exception as error:
        raise _missing_library(error) from error


def gl_renderer() -> str:
    """OpenGL's name of what draws the frames of this process, for example "llvmpipe (LLVM 15.0.6, 256 bits)"."""
    _make_context_current()
    # Only here: it takes a quarter of a second to load.
    from OpenGL import GL

    return GL.glGetString(GL.GL_RENDERER).decode()


def find_in_view(model: mujoco.MjModel, data: mujoco.MjData, camera: int) -> np.ndarray:
    """Which geoms a camera may see in a square image, [ngeom] bool.

    A geom is left out if its bounding sphere lies wholly beyond one side of the view's pyramid or behind the camera;
    planes have none and always count as seen.
    """
    half_angle = np.deg2rad(model.cam_fovy[camera]) / 2
    # In the camera's axes: x to the right, y up, z backwards.
    x, y, z = ((data.geom_xpos - data.cam_xpos[camera]) @ data.cam_xmat[camera].reshape(3, 3)).T
    # How far the centre lies outside of the nearest pair of sides, along their normals.
    beyond = np.maximum(np.abs(x), np.abs(y)) * np.cos(half_angle) + z * np.sin(half_angle)
    radius = model.geom_rbound
    return (np.maximum(beyond, z) <= radius) | (radius == 0)


class Renderer:
    """Renders the cameras of one model.

    The profile "fast" draws without shadows, reflections and haze, "reference" exactly as upstream does.
    """

    def __init__(
        self, model: mujoco.MjModel, lamps: Sequence[dict[str, Any]] = (), profile: RenderProfile = "fast"
    ) -> None:
        _make_context_current()
        self._model = model
        self._profile: RenderProfile = profile
        self._lamps = [(model.site(lamp["site"]).id, lamp) for lamp in lamps]
        self._option = mujoco.MjvOption()
        self._option.geomgroup[HIDDEN_GROUP] = 0
        self._room_option = mujoco.MjvOption()
        self._room_option.geomgroup[:] = np.arange(len(self._option.geomgroup)) == ROOM_GROUP
        self._room_option.sitegroup[:] = 0
        self._geom_groups = model.geom_group.copy()
        is_room = (model.geom_bodyid == 0) & (self._geom_groups != HIDDEN_GROUP)
        self._groups_with_room = np.where(is_room, ROOM_GROUP, self._geom_groups)
        self._perturbation = mujoco.MjvPerturb()
        if profile == "fast":
            self._scene = mujoco.MjvScene(model, MAX_GEOMS)
            for flag in ("SHADOW", "REFLECTION", "SKYBOX", "HAZE"):
                self._scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = 0
            self._option.sitegroup[:] = 0
            self._option.sitegroup[LAMP_GROUP] = 1
            for site, _ in self._lamps:
                model.site_group[site] = LAMP_GROUP
        else:
            self._scene = mujoco.MjvScene(model, UPSTREAM_MAX_GEOMS)
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)

    def render(
        self, data: mujoco.MjData, size: int, camera: str = CAMERA, lamp_qpos: np.ndarray | None = None
    ) -> np.ndarray:
        """Returns [size, size, 3] uint8 RGB, upright. LIBERO's own arrays and files hold the rows bottom-up.

        Args:
            data: of the model; positions are up to date.
            size: pixels.
            camera: name in the model, for example "agentview" or "robot0_eye_in_hand".
            lamp_qpos: [nq] positions that decide which lamps are lit; None takes those of `data`.
        """
        for site, lamp in self._lamps:
            self._model.site_rgba[site, 3] = joints_pass(lamp, data.qpos if lamp_qpos is None else lamp_qpos)
        self._camera.fixedcamid = self._model.camera(camera).id
        if self._profile == "fast":
            self._gather_seen(data)
        else:
            self._gather(data, mujoco.mjtCatBit.mjCAT_ALL)
        _make_context_current()
        self._fit_buffer(size)
        # The renderers of a process share the GL context, which keeps the buffer of the last one.
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        viewport = mujoco.MjrRect(0, 0, size, size)
        frame = np.empty((size, size, 3), dtype=np.uint8)
        mujoco.mjr_render(viewport, self._scene, self._context)
        mujoco.mjr_readPixels(frame, None, viewport, self._context)
        return frame[::-1].copy()

    def _gather(self, data: mujoco.MjData, categories: int) -> None:
        """Fills the scene with the geoms of these categories."""
        mujoco.mjv_updateScene(self._model, data, self._option, None, self._camera, categories, self._scene)

    def _gather_seen(self, data: mujoco.MjData) -> None:
        """Fills the scene with what gives the same picture in less time.

        Geoms out of view are left out. What moves comes first, then furniture, floor and walls last: pixels that are
        covered fail the depth test and are not shaded.
        """
        model, categories = self._model, mujoco.mjtCatBit
        seen = find_in_view(model, data, self._camera.fixedcamid)
        model.geom_group[:] = np.where(seen, self._groups_with_room, HIDDEN_GROUP)
        self._gather(data, categories.mjCAT_DYNAMIC | categories.mjCAT_DECOR)
        for option in (self._option, self._room_option):
            mujoco.mjv_addGeoms(model, data, option, self._perturbation, categories.mjCAT_STATIC, self._scene)
        # Other renderers may share the model.
        model.geom_group[:] = self._geom_groups

    def _fit_buffer(self, size: int) -> None:
        """Enlarges the buffer where it is smaller than the image."""
        if size > min(self._context.offWidth, self._context.offHeight):
            mujoco.mjr_resizeOffscreen(size, size, self._context)
