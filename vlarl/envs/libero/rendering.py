"""Frames: one GL context per process, one renderer per model."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes.util import find_library
from importlib import import_module
from itertools import count
from typing import Any

# MuJoCo reads it once, when it is imported. An empty value means no choice.
if not os.environ.get("MUJOCO_GL"):
    os.environ["MUJOCO_GL"] = "egl" if find_library("EGL") else "osmesa"

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

from vlarl.allocator import keep_freed_memory  # noqa: E402
from vlarl.configs.env import RenderProfile  # noqa: E402
from vlarl.envs.libero.backgrounds import (  # noqa: E402
    Background,
    Backgrounds,
    are_transparent,
    is_camera_still,
)
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

_MOVING = mujoco.mjtCatBit.mjCAT_DYNAMIC | mujoco.mjtCatBit.mjCAT_DECOR

_numbers = count()
_backgrounds = Backgrounds()
_context: Any = None


def _make_context_current(profile: RenderProfile = "fast") -> None:
    """Draws into the process's GL context from here on; other libraries in the process may have their own.

    It is made on first use, because it must not be inherited through a fork. The profile of the first frames decides
    whether llvmpipe, which reads it now, draws on several cores: for small and simple frames that is slower.

    Raises:
        MissingSystemLibraryError: rendering does not work.
    """
    global _context
    try:
        if _context is None:
            if profile == "fast":
                os.environ.setdefault("LP_NUM_THREADS", "0")
            keep_freed_memory()
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
        _make_context_current(profile)
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
        # The depth buffer as it is: 1 minus it could make two depths equal.
        self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        is_shown = self._geom_groups != HIDDEN_GROUP
        self._stands_still = np.flatnonzero((model.body_weldid[model.geom_bodyid] == 0) & is_shown)
        self._transparent = are_transparent(model) & is_shown
        self._can_compose = profile == "fast" and not np.delete(self._transparent, self._stands_still).any()
        self._number = next(_numbers)

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
        _make_context_current()
        self._fit_buffer(size)
        # The renderers of a process share the GL context, which keeps the buffer of the last one.
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        frame = None
        if self._can_compose and is_camera_still(self._model, self._camera.fixedcamid):
            frame = self._compose(data, size)
        if frame is None:
            if self._profile == "fast":
                self._gather_seen(data)
            else:
                self._gather(data, mujoco.mjtCatBit.mjCAT_ALL)
            frame, _ = self._draw(size)
        return frame[::-1].copy()

    def _draw(self, size: int, *, has_depth: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Draws the scene; the picture [size, size, 3] uint8 and, if asked for, its depth [size, size], bottom-up."""
        viewport = mujoco.MjrRect(0, 0, size, size)
        frame = np.empty((size, size, 3), dtype=np.uint8)
        depth = np.empty((size, size), dtype=np.float32)
        mujoco.mjr_render(viewport, self._scene, self._context)
        mujoco.mjr_readPixels(frame, depth if has_depth else None, viewport, self._context)
        return frame, depth

    def _compose(self, data: mujoco.MjData, size: int) -> np.ndarray | None:
        """Draws what moves over what stands still: the same picture in a third of the time; None where that is not so.

        Two thirds of a frame go into furniture, floor and walls, which fill most of it.
        """
        lit = tuple(self._model.site_rgba[site, 3] for site, _ in self._lamps)
        fields = (data.geom_xpos[self._stands_still], data.geom_xmat[self._stands_still], data.light_xpos)
        key = (self._number, size, self._camera.fixedcamid, lit, *(field.tobytes() for field in fields))
        background = _backgrounds.get(key)
        if background is None:
            background = self._draw_background(data, size)
            _backgrounds.add(key, background)
        with self._only(find_in_view(self._model, data, self._camera.fixedcamid)):
            self._gather(data, _MOVING)
        return background.cover(*self._draw(size, has_depth=True))

    def _draw_background(self, data: mujoco.MjData, size: int) -> Background:
        """Draws what stands still, and how near what can be seen through is: that is not in the depth buffer."""
        seen = find_in_view(self._model, data, self._camera.fixedcamid)
        self._gather_fixed(data, seen)
        image, depth = self._draw(size, has_depth=True)
        nearest = np.zeros_like(depth)
        if (glass := seen & self._transparent).any():
            self._gather_fixed(data, glass)
            for geom in self._scene.geoms[: self._scene.ngeom]:
                geom.rgba[3] = 1.0
            _, nearest = self._draw(size, has_depth=True)
        veiled = np.flatnonzero(nearest > depth).astype(np.int32)
        return Background(image, depth, veiled, nearest.ravel()[veiled])

    def _gather(self, data: mujoco.MjData, categories: int) -> None:
        """Fills the scene with the geoms of these categories."""
        mujoco.mjv_updateScene(self._model, data, self._option, None, self._camera, categories, self._scene)

    def _gather_seen(self, data: mujoco.MjData) -> None:
        """Fills the scene with what gives the same picture in less time.

        Geoms out of view are left out. What moves comes first, then furniture, floor and walls last: pixels that are
        covered fail the depth test and are not shaded.
        """
        with self._only(find_in_view(self._model, data, self._camera.fixedcamid)):
            self._gather(data, _MOVING)
            self._add_fixed(data)

    def _gather_fixed(self, data: mujoco.MjData, shown: np.ndarray) -> None:
        """Fills the scene with those geoms of `shown` [ngeom] that stand still."""
        with self._only(shown):
            self._gather(data, 0)
            self._add_fixed(data)

    @contextmanager
    def _only(self, shown: np.ndarray) -> Iterator[None]:
        """Hides all geoms but `shown` [ngeom], and gives floor and walls their group; renderers may share the model."""
        self._model.geom_group[:] = np.where(shown, self._groups_with_room, HIDDEN_GROUP)
        try:
            yield
        finally:
            self._model.geom_group[:] = self._geom_groups

    def _add_fixed(self, data: mujoco.MjData) -> None:
        """Adds furniture, then floor and walls."""
        for option in (self._option, self._room_option):
            mujoco.mjv_addGeoms(
                self._model, data, option, self._perturbation, mujoco.mjtCatBit.mjCAT_STATIC, self._scene
            )

    def _fit_buffer(self, size: int) -> None:
        """Enlarges the buffer where it is smaller than the image."""
        if size > min(self._context.offWidth, self._context.offHeight):
            mujoco.mjr_resizeOffscreen(size, size, self._context)
