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

CAMERA = "agentview"
MAX_GEOMS = 2000
UPSTREAM_MAX_GEOMS = 1000
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


class Renderer:
    """Renders the cameras of one model.

    The profile "fast" draws without shadows, reflections and haze, "reference" exactly as upstream does.
    """

    def __init__(
        self, model: mujoco.MjModel, lamps: Sequence[dict[str, Any]] = (), profile: RenderProfile = "fast"
    ) -> None:
        _make_context_current()
        self._model = model
        self._lamps = [(model.site(lamp["site"]).id, lamp) for lamp in lamps]
        self._option = mujoco.MjvOption()
        # Group 0 holds the collision geoms.
        self._option.geomgroup[0] = 0
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
        mujoco.mjv_updateScene(
            self._model, data, self._option, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )
        _make_context_current()
        self._fit_buffer(size)
        # The renderers of a process share the GL context, which keeps the buffer of the last one.
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        viewport = mujoco.MjrRect(0, 0, size, size)
        frame = np.empty((size, size, 3), dtype=np.uint8)
        mujoco.mjr_render(viewport, self._scene, self._context)
        mujoco.mjr_readPixels(frame, None, viewport, self._context)
        return frame[::-1].copy()

    def _fit_buffer(self, size: int) -> None:
        """Enlarges the buffer where it is smaller than the image."""
        if size > min(self._context.offWidth, self._context.offHeight):
            mujoco.mjr_resizeOffscreen(size, size, self._context)
